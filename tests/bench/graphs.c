/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graphs: how long marking takes on graphs of 64-byte nodes, all reachable.
 *
 *   graphs [KIND [MILLIONS OF NODES [ROUNDS]]]
 *
 * Links the layers statically. Prints, for one marker and for two, the least CPU time and
 * the least wall time of the rounds in nanoseconds a node: "mark KIND NODES MARKERS CPU
 * WALL". The rounds of both alternate.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "preload/base/meta.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "profiler/leak/mark.h"

#define NODE_BYTES 64

struct node {
	struct node *to[4];
	uint64_t number[4];
};

static struct {
	uint64_t seed;
	size_t count;
	double memory;	    /* of two markers, percent of the heap */
	struct node **node; /* not from the heap, and no root */
} graph = { .seed = 88172645463325252u };

static size_t draw(size_t below)
{
	graph.seed ^= graph.seed << 13;
	graph.seed ^= graph.seed >> 7;
	graph.seed ^= graph.seed << 17;
	return graph.seed % below;
}

static void make_nodes(void)
{
	graph.node = calloc(graph.count, sizeof(*graph.node));
	for (size_t i = 0; i < graph.count; i++) {
		graph.node[i] = heap_malloc(NODE_BYTES);
		memset(graph.node[i], 0, NODE_BYTES);
		for (int k = 0; k < 4; k++)
			graph.node[i]->number[k] = i * (size_t)(k + 1);
	}
}

static void shuffle(void)
{
	for (size_t i = graph.count - 1; i > 0; i--) {
		size_t k = draw(i + 1);
		struct node *n = graph.node[i];

		graph.node[i] = graph.node[k];
		graph.node[k] = n;
	}
}

static void link_list(void)
{
	for (size_t i = 0; i + 1 < graph.count; i++)
		graph.node[i]->to[0] = graph.node[i + 1];
}

static void link_tree(void)
{
	for (size_t i = 0; i < graph.count; i++)
		for (size_t k = 0; k < 2; k++)
			if (2 * i + 1 + k < graph.count)
				graph.node[i]->to[k] = graph.node[2 * i + 1 + k];
}

static void link_random(void)
{
	for (size_t i = 0; i < graph.count; i++)
		for (int k = 0; k < 4; k++)
			graph.node[i]->to[k] = graph.node[draw(graph.count)];
	for (size_t i = 1; i < graph.count; i++) /* all are reached */
		graph.node[i - 1 - draw(i < 16 ? i : 16)]->to[0] = graph.node[i];
}

static const struct {
	const char *name;
	bool shuffled;
	void (*link)(void);
} kinds[] = {
	{ "list", false, link_list },	      { "tree", false, link_tree },
	{ "shuffled-list", true, link_list }, { "shuffled-tree", true, link_tree },
	{ "random", true, link_random },
};

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void measure(unsigned markers, double *cpu, double *wall)
{
	static struct marker m;
	double c, w;

	heap_lock_all();
	heap_index_large();
	if (!mark_init(&m))
		exit(1);
	c = now(CLOCK_PROCESS_CPUTIME_ID);
	w = now(CLOCK_MONOTONIC);

	mark_start_helpers(&m, markers - 1);

	mark_word(&m, (uintptr_t)graph.node[0]);
	mark_drain(&m);
	graph.memory = 100.0 * (double)meta_bytes(META_LEAK) / (double)m.heap_bytes;

	mark_stop_helpers(&m);

	c = now(CLOCK_PROCESS_CPUTIME_ID) - c;
	w = now(CLOCK_MONOTONIC) - w;
	if (c < *cpu)
		*cpu = c;
	if (w < *wall)
		*wall = w;
	if (m.objects < graph.count / 10 * 9)
		exit(2);
	mark_free(&m);
	heap_unlock_all();
}

static void run(const char *name, size_t count, unsigned rounds)
{
	double cpu[3] = { 0, 1e18, 1e18 }, wall[3] = { 0, 1e18, 1e18 };

	for (unsigned i = 0; i < rounds; i++)
		for (unsigned markers = 1; markers <= 2; markers++)
			measure(markers, &cpu[markers], &wall[markers]);
	for (unsigned markers = 1; markers <= 2; markers++)
		printf("mark %s %zu %u %.1f %.1f\n", name, count, markers,
		       cpu[markers] / (double)count, wall[markers] / (double)count);
	printf("mark %s memory %.2f%% of the heap\n", name, graph.memory);
}

int main(int argc, char **argv)
{
	double millions = argc > 2 ? atof(argv[2]) : 1.6;
	unsigned rounds = argc > 3 ? (unsigned)atoi(argv[3]) : 7;

	graph.count = (size_t)(millions * 1e6);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (argc > 1 && strcmp(argv[1], kinds[i].name) != 0)
			continue;
		make_nodes();
		if (kinds[i].shuffled)
			shuffle();
		kinds[i].link();
		run(kinds[i].name, graph.count, rounds);
		for (size_t k = 0; k < graph.count; k++)
			heap_free(graph.node[k]);
		free(graph.node);
	}
	return 0;
}
