/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threadprof: the thread profile, Go's goroutine profile for pthreads: all threads
 * grouped by their current stack. Stacks are walked in the stopped world of
 * profiler/leak/stop.h.
 */
#ifndef PROFILER_THREAD_THREADPROF_H
#define PROFILER_THREAD_THREADPROF_H

#include "preload/base/base.h"

/* DUMP. Stops the world, walks every thread, resumes, writes PREFIX.threads.pb.gz. 0 or
 * -errno. out_count: threads seen. */
int threadprof_write(const char *prefix, uint32_t *out_count);
/* DUMP. The same into a descriptor, without the calling thread (the live agent). */
int threadprof_write_fd(int fd, uint32_t *out_count, uint64_t *out_pause_ns);

#endif
