/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter: what the program's own filters of system calls (seccomp) would say to ours.
 *
 * A filter that kills knows the calls of the program, and not those that a profiler makes
 * besides. So filters are remembered as the program installs them
 * (preload/api/sandbox.c), and os_call() asks them first: what would end the program, or
 * send it a signal, fails with EPERM instead. Filters that were there when the program
 * started, or that one of several threads has set for itself only, cannot be asked; but
 * that there are such is known, and what can be done by common calls is then done so.
 *
 * Concurrency: written while the process has one thread, or by one at a time; a filter is
 * whole before os_filters counts it, and never goes.
 */
#ifndef PRELOAD_BASE_FILTER_H
#define PRELOAD_BASE_FILTER_H

#include "preload/base/base.h"

struct sock_filter;

#define FILTER_MOST   32   /* as the kernel's limit of instructions allows */
#define FILTER_LENGTH 4096 /* BPF_MAXINSNS */

/* SLOW. Memory for one more, before it is installed. False: it cannot be remembered. */
bool filter_prepare(void);
/* SIGNAL. The one that filter_prepare() was for is in force. */
void filter_add(const struct sock_filter *code, size_t length);
/* SIGNAL. Strict mode is in force: read, write, exit, sigreturn. */
void filter_add_strict(void);
/* SIGNAL. One is in force that was not remembered. */
void filter_add_unknown(void);

/* What may be in force besides what was remembered. */
enum filter_others {
	FILTER_NOT_LOOKED,
	FILTER_ALL_KNOWN,
	FILTER_UNKNOWN_BEFORE, /* the start: what the loader calls is allowed */
	FILTER_UNKNOWN_SINCE   /* of some thread */
};
/* SIGNAL. The first time by a look at a file of /proc. */
enum filter_others filter_others(void);
/* SIGNAL. There were some when the program started, whatever they are: calls that the
 * loader and libc do not make themselves are better left out. The first time by a look
 * at a file of /proc; what cannot be looked at is not there. */
bool filter_from_before(void);

/* Of the calling thread. */
struct filter_ids {
	int pid, tid, ppid;
};
/* SIGNAL. By a file of /proc, without a call that only asks for them. False, and zero:
 * it cannot be read. */
bool filter_read_ids(struct filter_ids *out);

#endif
