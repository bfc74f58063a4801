/* SPDX-License-Identifier: Apache-2.0 */
/*
 * look: a function run by a process that shares our memory, and may die of it.
 *
 * Beside a program that runs, any memory can go at any moment: by munmap, by the end of a
 * thread, by dlclose. Who reads it without a lock must be able to take a SIGSEGV that is
 * none of the program's: a process has signal handlers of its own.
 */
#ifndef PROFILER_LEAK_LOOK_H
#define PROFILER_LEAK_LOOK_H

#include "preload/base/base.h"

#define LOOK_STACK (256 * KIB)

enum look_end {
	LOOK_DONE,
	LOOK_FAULT,  /* it read what was not there */
	LOOK_KILLED, /* by somebody */
	LOOK_REFUSED /* no process could be made */
};

/*
 * DUMP, by the agent, which waits. fn must take no lock, map no memory, and write to
 * nothing but what is arg's: it may end at any instruction. It has the caller's thread
 * pointer and copies of its descriptors. stack: LOOK_STACK bytes, ours. *ns of processor
 * time it may take as the caller would, and what it takes is subtracted; the rest it
 * takes as somebody who can wait.
 */
struct look_stopper; /* NULL: fn asks for no stop */
enum look_end look_run(void (*fn)(void *arg), void *arg, char *stack, uint64_t *ns,
		       const struct look_stopper *stopper);

/*
 * fn may ask once for the threads to be stopped: look_stop() in the process has the agent
 * call stop(), which stops them and calls look_stopped(); that returns after look_go_on()
 * in the process, or when this has ended, and they are let go. False: stop() did not.
 */
struct look_stopper {
	void (*stop)(void *arg);
	void *arg;
};
bool look_stop(void);
void look_go_on(void);
void look_stopped(void);

#endif
