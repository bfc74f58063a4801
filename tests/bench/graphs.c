/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graphs: how long marking takes on the graphs of graph.h.
 *
 *   graphs [KIND [MILLIONS OF NODES [ROUNDS [MOST MARKERS]]]]
 *
 * Links the layers statically. Prints, for one marker and for two, the least CPU time and
 * the least wall time of the rounds in nanoseconds a node, tables included: "mark KIND
 * NODES MARKERS CPU WALL". The rounds of both alternate.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "preload/base/meta.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "profiler/leak/mark.h"

static struct graph graph;
static double memory; /* percent of the heap */

static void measure(unsigned markers, struct graph_clock *clock)
{
	static struct marker m;
	double used;

	heap_lock_all();
	heap_index_large();
	graph_start(clock);
	if (!mark_init(&m))
		exit(1);

	mark_start_helpers(&m, markers - 1);

	mark_word(&m, (uintptr_t)graph.node[0]);
	mark_drain(&m);
	used = 100.0 * (double)meta_bytes(META_LEAK) / (double)m.heap_bytes;
	if (used > memory)
		memory = used;

	mark_stop_helpers(&m);

	graph_stop(clock);
	if (m.objects < graph.count)
		exit(2);
	mark_free(&m);
	heap_unlock_all();
}

static void run(const char *name, unsigned rounds, unsigned most)
{
	struct graph_clock clocks[3] = { 0 };
	const double count = (double)graph.count;

	for (unsigned i = 0; i < rounds; i++)
		for (unsigned markers = 1; markers <= most; markers++)
			measure(markers, &clocks[markers]);
	for (unsigned markers = 1; markers <= most; markers++)
		printf("mark %s %zu %u %.1f %.1f\n", name, graph.count, markers,
		       clocks[markers].cpu / count, clocks[markers].wall / count);
	printf("mark %s memory %.2f%% of the heap\n", name, memory);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	double millions = argc > 2 ? atof(argv[2]) : 1.6;
	unsigned rounds = argc > 3 ? (unsigned)atoi(argv[3]) : 7;
	unsigned most = argc > 4 && atoi(argv[4]) == 1 ? 1 : 2;

	for (size_t i = 0; i < GRAPH_KINDS; i++) {
		if (argc > 1 && strcmp(argv[1], graph_kinds[i]) != 0)
			continue;
		graph_make(&graph, graph_kinds[i], (size_t)(millions * 1e6), heap_malloc);
		run(graph_kinds[i], rounds, most);
		for (size_t k = 0; k < graph.count; k++)
			heap_free(graph.node[k]);
		graph_drop_table(&graph);
	}
	return 0;
}
