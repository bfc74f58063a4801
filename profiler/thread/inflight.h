/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inflight: what the program has sent to itself and not received yet: pointers in pipes,
 * local sockets and signals. Nothing is taken out of them.
 */
#ifndef PROFILER_THREAD_INFLIGHT_H
#define PROFILER_THREAD_INFLIGHT_H

#include "preload/base/base.h"

struct inflight;

/* DUMP. Before the world is stopped: which descriptors there are. NULL: out of memory. */
struct inflight *inflight_new(int pid);
void inflight_free(struct inflight *f);
/* STW. Copies what waits to be read. */
void inflight_take(struct inflight *f);
/* Calls fn for every word of it, at any address. False: not all could be seen. f NULL: no
 * words. */
bool inflight_each(const struct inflight *f, void (*fn)(uintptr_t word, void *arg),
		   void *arg);

#endif
