/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph: see graph.h. The same seed, so the same graph everywhere; where the nodes lie is
 * the allocator's.
 */
#include "graph.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

static uint64_t seed;

const char *const graph_kinds[GRAPH_KINDS] = { "list", "tree", "shuffled-list",
					       "shuffled-tree", "random" };

static size_t draw(size_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % below;
}

static void make_nodes(struct graph *g, void *(*alloc)(size_t))
{
	g->node = mmap(NULL, g->count * sizeof(*g->node), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g->node == MAP_FAILED)
		exit(1);
	for (size_t i = 0; i < g->count; i++) {
		g->node[i] = alloc(sizeof(struct node));
		memset(g->node[i], 0, sizeof(struct node));
		for (int k = 0; k < 4; k++)
			g->node[i]->number[k] = i * (size_t)(k + 1);
	}
}

static void shuffle(struct graph *g)
{
	for (size_t i = g->count - 1; i > 0; i--) {
		size_t k = draw(i + 1);
		struct node *n = g->node[i];

		g->node[i] = g->node[k];
		g->node[k] = n;
	}
}

static void link_list(struct graph *g)
{
	for (size_t i = 0; i + 1 < g->count; i++)
		g->node[i]->to[0] = g->node[i + 1];
}

static void link_tree(struct graph *g)
{
	for (size_t i = 0; i < g->count; i++)
		for (size_t k = 0; k < 2; k++)
			if (2 * i + 1 + k < g->count)
				g->node[i]->to[k] = g->node[2 * i + 1 + k];
}

static void link_random(struct graph *g)
{
	for (size_t i = 0; i < g->count; i++)
		for (int k = 0; k < 4; k++)
			g->node[i]->to[k] = g->node[draw(g->count)];
	for (size_t i = 0; i + 1 < g->count; i++) /* all are reached */
		g->node[i]->to[0] = g->node[i + 1];
}

void graph_make(struct graph *g, const char *kind, size_t count, void *(*alloc)(size_t))
{
	seed = 88172645463325252u;
	g->count = count;
	make_nodes(g, alloc);
	if (strncmp(kind, "shuffled", 8) == 0 || strcmp(kind, "random") == 0)
		shuffle(g);
	if (strcmp(kind, "random") == 0)
		link_random(g);
	else if (strstr(kind, "tree"))
		link_tree(g);
	else
		link_list(g);
}

void graph_drop_table(struct graph *g)
{
	munmap(g->node, g->count * sizeof(*g->node));
	g->node = NULL;
}

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double cpu_ns(void)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	return now(CLOCK_PROCESS_CPUTIME_ID) +
	       (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e9 +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e3;
}

void graph_start(struct graph_clock *c)
{
	c->cpu_at = cpu_ns();
	c->wall_at = now(CLOCK_MONOTONIC);
}

void graph_stop(struct graph_clock *c)
{
	const double cpu = cpu_ns() - c->cpu_at;
	const double wall = now(CLOCK_MONOTONIC) - c->wall_at;

	if (!c->ran || cpu < c->cpu)
		c->cpu = cpu;
	if (!c->ran || wall < c->wall)
		c->wall = wall;
	c->ran = true;
}
