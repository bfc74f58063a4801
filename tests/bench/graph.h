/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph: graphs of 64-byte nodes, all reachable from the first, for programs that measure
 * how long a marker takes: ours, libgc's and LeakSanitizer's.
 */
#ifndef TESTS_BENCH_GRAPH_H
#define TESTS_BENCH_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct node {
	struct node *to[4];
	uint64_t number[4];
};

struct graph {
	struct node **node; /* in a mapping of its own, where no marker looks */
	size_t count;
};

#define GRAPH_KINDS 5
extern const char *const graph_kinds[GRAPH_KINDS];

/* The root, where others mark. Each such program has its own. */
extern struct node *volatile graph_first;

/* Makes the nodes by alloc and links them. */
void graph_make(struct graph *g, const char *kind, size_t count, void *(*alloc)(size_t));
/* Without the nodes. */
void graph_drop_table(struct graph *g);

/* The least of what several runs took, in nanoseconds; zero before the first. */
struct graph_clock {
	double cpu; /* of this process and its children */
	double wall;
	double cpu_at, wall_at; /* when this run began */
	bool ran;
};
void graph_start(struct graph_clock *c);
void graph_stop(struct graph_clock *c);

#endif
