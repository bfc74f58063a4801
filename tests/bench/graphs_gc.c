/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graphs_gc: the same graphs, a collection by libgc: graphs_gc KIND MILLIONS ROUNDS
 * MARKERS. Prints "gc KIND NODES MARKERS CPU WALL".
 */
#include <gc/gc.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph.h"

struct node *volatile graph_first;

int main(int argc, char **argv)
{
	struct graph graph;
	struct graph_clock clock = { 0 };
	double count;

	if (argc < 5)
		return 2;
	setenv("GC_MARKERS", argv[4], 1);
	GC_INIT();
	GC_disable(); /* while the table is no root */
	graph_make(&graph, argv[1], (size_t)(atof(argv[2]) * 1e6), GC_malloc);
	graph_first = graph.node[0];
	graph_drop_table(&graph);
	GC_enable();
	count = (double)graph.count;
	for (int i = atoi(argv[3]); i > 0; i--) {
		graph_start(&clock);
		GC_gcollect();
		graph_stop(&clock);
	}
	if (GC_get_heap_size() - GC_get_free_bytes() < graph.count * sizeof(struct node))
		return 1;
	printf("gc %s %zu %s %.1f %.1f\n", argv[1], graph.count, argv[4],
	       clock.cpu / count, clock.wall / count);
	return 0;
}
