/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deliver: see deliver.h.
 */
#include "tools/lib/deliver.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "profiler/control/request.h"
#include "tools/lib/proc.h"

#define LOOK_NS	    50000 /* between two looks whether it has stopped */
#define LOOK_TIMES  400	  /* so often */
#define LEAVE_TIMES 100	  /* of these: on a loaded machine it may take a while */
/* A tracer may be an agent that has stopped the process for another request, or a tool
 * like this one: both are gone soon. A debugger is not. */
#define TRACED_TRIES 5

/* The thread has stopped. False: it is let go, or has ended. */
static bool go_on(struct delivery *d, int status)
{
	const int stop = WSTOPSIG(status), event = status >> 16;
	long keep = event == 0 ? stop : 0;

	if (!WIFSTOPPED(status))
		return false;
	if (event == 0 && stop == d->signal)
		keep = proc_handles(d->pid, d->signal) ? stop : 0;
	if (d->leaving || (event == 0 && stop == d->signal)) {
		ptrace(PTRACE_DETACH, d->tid, 0, keep);
		return false;
	}
	if (event == PTRACE_EVENT_STOP && stop != SIGTRAP)
		ptrace(PTRACE_LISTEN, d->tid, 0, 0);
	else
		ptrace(PTRACE_CONT, d->tid, 0, keep);
	return true;
}

void deliver_continue(struct delivery *d)
{
	const struct timespec moment = { 0, LOOK_NS };
	int status = 0;

	for (int i = 0; i < LOOK_TIMES && d->tid; i++) {
		const pid_t ret = waitpid(d->tid, &status, __WALL | WNOHANG);

		if (ret == 0)
			nanosleep(&moment, NULL);
		else if (ret < 0 ? errno != EINTR : !go_on(d, status))
			d->tid = 0;
	}
}

bool deliver_begin(struct delivery *d, int pid, int tid, siginfo_t *info)
{
	d->pid = pid;
	d->signal = info->si_signo;
	d->leaving = false;
	d->tid = 0;
	/* No signal reaches it now; it may be in an exec, and cannot be traced there. */
	if (proc_is_deaf(tid))
		return true;
	if (ptrace(PTRACE_SEIZE, tid, 0, 0) == 0)
		d->tid = tid;
	else if (d->ntries++ < TRACED_TRIES && proc_is_traced(pid, tid))
		return true;
	info->si_errno = d->tid ? AGENT_TRACED : 0;
	if (syscall(SYS_rt_tgsigqueueinfo, pid, tid, d->signal, info) != 0) {
		const int error = errno;

		deliver_give_up(d);
		errno = error;
		return false;
	}
	deliver_continue(d);
	return true;
}

void deliver_give_up(struct delivery *d)
{
	d->leaving = true;
	if (d->tid && ptrace(PTRACE_INTERRUPT, d->tid, 0, 0) != 0)
		d->tid = 0;
	for (int i = 0; i < LEAVE_TIMES && d->tid; i++)
		deliver_continue(d);
}
