/* SPDX-License-Identifier: Apache-2.0 */
/*
 * finish: a write to a pipe or socket that a signal or a stop interrupts after a part of
 * the bytes returns that part, and nothing makes the kernel go on with the rest: programs
 * without signals of their own need not expect it. Here the thread is sent through code
 * that makes the call again for the rest and returns the sum.
 */
#ifndef PROFILER_STACK_FINISH_H
#define PROFILER_STACK_FINISH_H

#include "preload/base/base.h"

/* Of a thread that has just come from a system call, or is about to make one again. */
struct finish_regs {
	uintptr_t rax, rcx, rdx, rsi, rdi, r10, r11, rip;
};

/* Memory and files of that thread. False, -1: not there, or out of reach. */
struct finish_access {
	bool (*read)(uintptr_t from, void *to, size_t bytes, void *arg);
	/* A descriptor of the caller's for the same file, to be closed; NULL: the
	 * thread's are the caller's own. */
	int (*descriptor)(int fd, void *arg);
	void *arg;
};

/* SIGNAL. The call that was made at pc with that stack pointer, if our code made it; -1:
 * it did not. The thread is the calling one. */
int finish_call_at(uintptr_t pc, uintptr_t sp);
/* Is nr a call that may come back with a part, and is rax one perhaps? */
bool finish_may(int nr, uintptr_t rax);
/*
 * SIGNAL. Of a thread with r that has come from call nr: has it moved a part of what was
 * asked for, of a blocking descriptor of this process? Then its registers are set so that
 * it goes on; it needs 512 bytes of its stack. False: nothing changed.
 */
bool finish_call(int nr, struct finish_regs *r, const struct finish_access *access);

#endif
