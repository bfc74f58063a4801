/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state: what a thread waits in, in a word, and since when.
 */
#ifndef PROFILER_THREAD_STATE_H
#define PROFILER_THREAD_STATE_H

#include "preload/base/base.h"

#define STATE_NAME_MAX 16

/* FAST. For a system call number, -1: "running". Calls without a word of their own are
 * "system call". */
const char *state_of_call(int call);
/*
 * DUMP. When a thread of this process ran last, on a clock of the scheduler's that
 * state_now_ns() reads too; 0: not known; and how often it has gone to wait. To be asked
 * before the world is stopped, which makes every thread run.
 */
uint64_t state_ran_ns(int pid, int tid, uint64_t *out_switches);
uint64_t state_now_ns(void);
/* DUMP. The thread's name; "" when it has ended. */
void state_name(int pid, int tid, char name[STATE_NAME_MAX]);

#endif
