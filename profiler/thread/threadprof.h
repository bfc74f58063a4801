/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threadprof: the thread profiles. First Go's goroutine profile for pthreads: all
 * threads grouped by their current stack, name and state.
 *
 * Labels: thread (its name), state, wait (the longest of the group), blocked (why it can
 * never run again). A thread of a deadlock is a group of its own, with the labels tid,
 * other and address, as follows. In the form for the tool each thread is a sample of its
 * own, with tid and, where it is blocked for ever, the address of what it waits for and
 * other, the thread that holds it or ends with it; followed by samples with the label
 * role: created, the stack that made the thread tid; and ended, the stack that made a
 * thread which has ended and was never joined, with the bytes of its stack.
 *
 * Second, as Go's threadcreate, how many threads each stack has made, and how many of
 * them live. Labels: peak (most that lived at once), over_time (least that lived in each
 * quarter of the time since the first), growing (each quarter had more). The tool's form
 * of the first has samples with the role growing, for those that do.
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
/* DUMP. PREFIX.threadcreate.pb.gz, or into a descriptor. 0 or -errno. */
int threadprof_write_creators(const char *prefix);
int threadprof_write_creators_fd(int fd);
struct thread_leaks {
	uint32_t blocked; /* for ever, and not suppressed */
	uint32_t ended;	  /* never joined nor detached, and not suppressed */
	bool judged;	  /* false: who is blocked could not be found out */
};
/* DUMP. The same file with the label blocked, and a sample with the role ended for each
 * stack whose threads nobody joined; suppressed ones have no such label and no sample.
 * prefix "": no file. 0 or -errno. */
int threadprof_check(const char *prefix, struct thread_leaks *out);
/* DUMP. The tool's form into a descriptor, without the calling thread (the live agent).
 * judge: also find out who is blocked for ever. */
int threadprof_write_fd(int fd, bool judge, uint32_t *out_count, uint64_t *out_pause_ns);

#endif
