/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop_int: what stop.c and stop_signal.c share.
 */
#ifndef PROFILER_LEAK_STOP_INT_H
#define PROFILER_LEAK_STOP_INT_H

#include "profiler/leak/stop.h"

/* Adds the threads of pid that w does not know, but caller. How many, or -errno. SIGNAL. */
int stop_list_threads(struct world *w, int pid, int caller);
/* 0, or -errno with nothing stopped. */
int stop_by_signal(struct world *w, int pid, int caller);
void resume_by_signal(struct world *w);

#endif
