/* SPDX-License-Identifier: Apache-2.0 */
/*
 * depth: where the stacks of threads end that wait in a system call, without stopping
 * them: /proc tells it, and whether they have run since.
 */
#ifndef PROFILER_LEAK_DEPTH_H
#define PROFILER_LEAK_DEPTH_H

#include "preload/base/base.h"
#include "profiler/leak/stop.h"

/* How deep a waiting thread's stack is, with what shows that it has not run since. */
struct depth {
	uint32_t hash; /* 0: it runs, or nothing is known */
	int call;
	uintptr_t sp, pc;
};

/* All DUMP. Lists the threads, and reads them into list, by their place in w. The one
 * that took the agent's signal is on its way back to where it waited: it gets time. */
void depth_read(struct depth *list, struct world *w);
/* Who has not run since? */
void depth_compare(const struct depth *list, const struct world *w, bool *out_valid);
/* The world's threads have these stack pointers, where they are known ... */
void depth_trust(const struct depth *list, struct world *w);
/* One of them does. */
void depth_put(const struct depth *d, struct stopped_thread *t);
/* ... and have not run since. */
void depth_doubt(const struct depth *list, struct world *w);

#endif
