/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deliver: the agent's signal, to a thread whose process may exec at any moment. A signal
 * that is still pending when a new program begins would end it; so that the thread is
 * traced until it takes the signal, and keeps it only if there is a handler then. Where
 * ptrace is refused the signal is sent all the same.
 */
#ifndef TOOLS_LIB_DELIVER_H
#define TOOLS_LIB_DELIVER_H

#include <signal.h>
#include <stdbool.h>

/* A signal on its way; tid is 0 where none is. */
struct delivery {
	int pid, tid, signal;
	bool leaving;
	int ntries; /* at threads that had another tracer */
};

/* Sends it, but not to a thread that no signal reaches now (proc_is_deaf()), nor at first
 * to one that has another tracer; does not wait for long. False with errno: it could not
 * be sent. */
bool deliver_begin(struct delivery *d, int pid, int tid, siginfo_t *info);
/* Sees to one that had not arrived. */
void deliver_continue(struct delivery *d);
/* Lets go of the thread, if it can be stopped at all. */
void deliver_give_up(struct delivery *d);

#endif
