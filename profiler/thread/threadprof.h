/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threadprof: the thread profile, Go's goroutine profile for pthreads: all threads
 * grouped by their current stack. Stacks are walked in the stopped world of
 * profiler/leak/stop.h.
 */
#ifndef PROFILER_THREAD_THREADPROF_H
#define PROFILER_THREAD_THREADPROF_H

#include "preload/base/base.h"

struct unwind_regs;

/* DUMP. Stops the world, walks every thread, resumes, writes PREFIX.threads.pb.gz. 0 or
 * -errno. own: where the calling thread was interrupted, NULL: it called us. out_count:
 * threads seen. */
int threadprof_write(const char *prefix, const struct unwind_regs *own,
		     uint32_t *out_count);

#endif
