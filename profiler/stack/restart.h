/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restart: a system call that a handler of ours has interrupted goes on.
 */
#ifndef PROFILER_STACK_RESTART_H
#define PROFILER_STACK_RESTART_H

#include <ucontext.h>

/* SIGNAL. The last thing in a handler, with all signals blocked: if its arrival ended a
 * system call that can be made again without harm, it will be. */
void restart_call(ucontext_t *uc);

#endif
