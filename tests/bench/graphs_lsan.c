/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graphs_lsan: the same graphs, a check by LeakSanitizer: graphs_lsan KIND MILLIONS
 * ROUNDS. Prints "lsan KIND NODES 1 CPU WALL"; the CPU time is that of its tracer, too.
 */
#include <sanitizer/lsan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "graph.h"

struct node *volatile graph_first;

int main(int argc, char **argv)
{
	struct graph graph;
	struct graph_clock clock = { 0 };
	double count;

	if (argc < 4)
		return 2;
	graph_make(&graph, argv[1], (size_t)(atof(argv[2]) * 1e6), malloc);
	graph_first = graph.node[0];
	graph_drop_table(&graph);
	count = (double)graph.count;
	for (int i = atoi(argv[3]); i > 0; i--) {
		graph_start(&clock);
		if (__lsan_do_recoverable_leak_check() != 0)
			return 1;
		graph_stop(&clock);
	}
	printf("lsan %s %zu 1 %.1f %.1f\n", argv[1], graph.count, clock.cpu / count,
	       clock.wall / count);
	fflush(stdout);
	_exit(0); /* no check more */
}
