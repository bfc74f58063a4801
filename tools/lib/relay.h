/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relay: signals that come to the tool while the program runs are passed on to it, unless
 * they have come to it, too: many servers take a second SIGTERM for "at once".
 *
 * The kernel tells who sent a signal, but not whom else it was sent to: one process, its
 * group (timeout, `kill -- -PGID`, a script's `kill 0`), all of a control group
 * (systemd). So a second process of ours, the witness, sits in the same group and does
 * nothing. What comes to it as well within a moment was not for the tool alone.
 */
#ifndef TOOLS_LIB_RELAY_H
#define TOOLS_LIB_RELAY_H

#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>

/* Before the program runs, all signals blocked: makes the witness, and returns when it
 * cannot be taken for the tool any more. command: the last of our arguments. */
void relay_begin(char **command);
/* Passes on what comes of set, which is blocked as SIGCHLD is, until the child pid has
 * ended; *out_asked counts INT and TERM. False: errno says why it cannot be waited for.
 */
bool relay_until_end(pid_t pid, const sigset_t *set, int *out_status,
		     struct rusage *out_used, volatile sig_atomic_t *out_asked);

#endif
