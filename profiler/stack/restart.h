/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restart: a system call that a handler of ours has interrupted goes on.
 */
#ifndef PROFILER_STACK_RESTART_H
#define PROFILER_STACK_RESTART_H

#include <stdint.h>
#include <ucontext.h>

/* SIGNAL. The last thing in a handler, with all signals blocked: if its arrival ended a
 * system call that can be made again without harm, it will be. */
void restart_call(ucontext_t *uc);

/* SIGNAL. The number of the call whose system call instruction ends at pc, of a thread
 * that is there with these registers, in a process that shares our memory; -1: not made
 * in libc's way. */
int restart_number(uintptr_t pc, uintptr_t sp, uintptr_t bp);

#endif
