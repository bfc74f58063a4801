/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alone: libc's locks in a program with one thread.
 *
 * Before its first pthread_create() libc takes and gives its locks by plain loads and
 * stores, and wakes nobody. The agent's thread, unknown to libc, takes the loader's: both
 * could have it at once, and who waits for it would wait for ever. So libc is told that
 * there are several threads for as long as the agent lives.
 */
#ifndef PROFILER_CONTROL_ALONE_H
#define PROFILER_CONTROL_ALONE_H

#include "preload/base/base.h"

/* SIGNAL. In the program's thread, before there is an agent; pc is where it was
 * interrupted. False: it may just be taking a lock, or making its first thread: another
 * time. */
bool alone_end(uintptr_t pc);
/* In the agent's thread, which takes no lock of libc's from now on. */
void alone_again(void);
void alone_fork_child(void);

/* Around the making of a thread. libc's first one does more than others, by the same
 * sign. */
void alone_begin_thread(void);
void alone_end_thread(void);

#endif
