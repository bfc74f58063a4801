/* SPDX-License-Identifier: Apache-2.0 */
/*
 * look: see look.h.
 *
 * The process is made like the tracer of stop_trace.c: it shares the memory, has no exit
 * signal, and goes when the caller's thread does. It must never dump core: a kernel
 * before 5.16 ends all that share the memory for it, and a limit of zero does not keep it
 * from that. So each signal by which the kernel answers an instruction has a handler that
 * leaves, and all others are blocked. Nothing is set that is the memory's and not the
 * process's: whether it may be dumped, how much the kernel wants it gone.
 *
 * It has the program's priority at first. One that waits for its turn beside a busy
 * program sees so much change meanwhile that it has to look again and again; and where
 * the kernel reads the memory's mappings for it, the program waits for it in mmap(). Only
 * who has used up its time, as for a large heap, steps back, by a timer of its own.
 */
#include "profiler/leak/look.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"

#define NICE	      10 /* more than the caller */
#define NICE_MOST     19
#define NICE_OF	      20 /* less what the system call gives is the nice value */
#define LEAST_NS      1000000u
#define LOOK_AGAIN_NS 50000000u /* is the other side still there? */
#define IN_STOP_NS    5000000u	/* the same while the threads are stopped */

/* Of a stop: the process asks for it, has it or is refused it, and has had it. */
enum phase {
	PHASE_START,
	PHASE_READY,
	PHASE_GO,
	PHASE_STOP,
	PHASE_STOPPED,
	PHASE_REFUSED,
	PHASE_GO_ON,
	PHASE_DONE,
	PHASE_FAULT
};

static struct {
	uint32_t phase; /* enum phase; atomic, futex */
	void (*fn)(void *arg);
	void *arg;
	uint64_t ns;  /* before it steps back */
	bool is_back; /* it has */
	bool stops;   /* it may ask for a stop */
	bool hurries; /* it comes before others then */
} look;

static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

static STOP_NO_SANITIZE void set_phase(enum phase phase)
{
	atomic_store_release(&look.phase, (uint32_t)phase);
	os_futex_wake(&look.phase, INT32_MAX);
}

/* ---- the process ---- */

/* By what a filter allows. */
static STOP_NO_SANITIZE __attribute__((noreturn)) void leave(void)
{
	os_call(SYS_exit, 0, 0, 0, 0, 0, 0);
	os_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
	os_call(SYS_kill, os_getpid(), SIGKILL, 0, 0, 0, 0);
	os_exit_group(0);
}

static STOP_NO_SANITIZE void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	set_phase(PHASE_FAULT);
	leave();
}

/* Once: others may send the timer's signal, too. */
static STOP_NO_SANITIZE void step_back(void)
{
	int nice = NICE_OF - (int)os_call(SYS_getpriority, PRIO_PROCESS, 0, 0, 0, 0, 0);

	if (look.is_back)
		return;
	look.is_back = true;
	nice = nice + NICE < NICE_MOST ? nice + NICE : NICE_MOST;
	os_call(SYS_setpriority, PRIO_PROCESS, 0, nice, 0, 0, 0);
}

static STOP_NO_SANITIZE void on_time(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	step_back();
}

static STOP_NO_SANITIZE bool handle(int sig, void (*handler)(int, siginfo_t *, void *))
{
	const struct stop_action act = { .handler = handler,
					 .flags = SA_SIGINFO | STOP_RESTORER | SA_RESTART,
					 .restorer = stop_signal_restorer,
					 .mask = UINT64_MAX };

	return os_call(SYS_rt_sigaction, sig, (long)&act, 0, sizeof(act.mask), 0, 0) == 0;
}

static STOP_NO_SANITIZE bool handle_signals(void)
{
	uint64_t blocked = UINT64_MAX & ~((uint64_t)1 << (SIGPROF - 1));

	if (!handle(SIGPROF, on_time))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
		if (!handle(faults[i], on_fault))
			return false;
		blocked &= ~((uint64_t)1 << (faults[i] - 1));
	}
	return os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&blocked, 0,
		       sizeof(blocked), 0, 0) == 0;
}

static STOP_NO_SANITIZE bool hurry(bool on)
{
	const int priority = on ? 1 : 0;

	return os_call(SYS_sched_setscheduler, 0, on ? SCHED_RR : SCHED_OTHER,
		       (long)&priority, 0, 0, 0) == 0;
}

STOP_NO_SANITIZE bool look_stop(void)
{
	uint32_t now;

	if (look.hurries)
		hurry(true);
	set_phase(PHASE_STOP);
	while ((now = atomic_load_acquire(&look.phase)) == PHASE_STOP)
		os_futex_wait(&look.phase, PHASE_STOP, LOOK_AGAIN_NS);
	if (now != PHASE_STOPPED && look.hurries)
		hurry(false);
	return now == PHASE_STOPPED;
}

STOP_NO_SANITIZE void look_go_on(void)
{
	set_phase(PHASE_GO_ON);
	if (look.hurries)
		hurry(false);
}

static STOP_NO_SANITIZE void set_timer(void)
{
	const struct itimerval timer = {
		.it_value = { .tv_sec = (time_t)(look.ns / 1000000000u),
			      .tv_usec = (suseconds_t)(look.ns % 1000000000u / 1000) }
	};

	if (look.ns < LEAST_NS ||
	    os_call(SYS_setitimer, ITIMER_PROF, (long)&timer, 0, 0, 0, 0) != 0)
		step_back();
}

/* An exec may have ended the caller before its end would be told: then nobody says go. */
static STOP_NO_SANITIZE bool await_go(void)
{
	const uint64_t until = os_now_ns() + STOP_PATIENCE_NS;

	set_phase(PHASE_READY);
	while (atomic_load_acquire(&look.phase) == PHASE_READY) {
		if (os_now_ns() > until)
			return false;
		os_futex_wait(&look.phase, PHASE_READY, LOOK_AGAIN_NS);
	}
	return true;
}

static STOP_NO_SANITIZE __attribute__((noreturn)) int look_main(void *arg)
{
	(void)arg;
	os_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);
	if (!handle_signals() || !await_go())
		leave();
	look.hurries = look.stops && hurry(true) && hurry(false);
	/* Who could not come forward again for the stop must not step back. */
	if (!look.stops || look.hurries)
		set_timer();
	look.fn(look.arg);
	set_phase(PHASE_DONE);
	leave();
}

/* ---- the caller's side ---- */

/* False: it has ended before. */
static bool await_ready(int pid)
{
	while (atomic_load_acquire(&look.phase) < PHASE_READY) {
		if (os_futex_wait(&look.phase, PHASE_START, LOOK_AGAIN_NS) != -ETIMEDOUT)
			continue;
		if (os_call(SYS_wait4, pid, 0, __WALL | WNOHANG, 0, 0, 0) != 0)
			return atomic_load_acquire(&look.phase) >= PHASE_READY;
	}
	return true;
}

/* In the process nothing may arrive before it has its handlers. */
static long clone_blocked(char *stack, int flags)
{
	const uint64_t all = UINT64_MAX;
	uint64_t before = 0;
	long pid;

	if (os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before,
		    sizeof(all), 0, 0) != 0)
		return -1;
	pid = clone(look_main, stack + LOOK_STACK, flags, NULL);
	os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, sizeof(before), 0, 0);
	return pid;
}

static uint64_t time_of(const struct rusage *used)
{
	const struct timeval *u = &used->ru_utime, *s = &used->ru_stime;

	return ((uint64_t)u->tv_sec + (uint64_t)s->tv_sec) * 1000000000u +
	       ((uint64_t)u->tv_usec + (uint64_t)s->tv_usec) * 1000u;
}

/* Until it has ended. 0, or -errno. */
static long await_end(long pid, uint64_t *ns)
{
	struct rusage used = { .ru_maxrss = 0 };
	uint64_t taken;
	long ret;

	do {
		ret = os_call(SYS_wait4, pid, 0, __WALL, (long)&used, 0, 0);
	} while (ret == -EINTR);
	taken = ret > 0 ? time_of(&used) : *ns;
	*ns -= taken < *ns ? taken : *ns;
	return ret > 0 ? 0 : ret;
}

/* True: it has not ended yet, as far as can be told. */
static bool is_there(long pid)
{
	siginfo_t info = { .si_pid = 0 };

	return os_call(SYS_waitid, P_PID, pid, (long)&info,
		       WEXITED | WNOHANG | WNOWAIT | __WALL, 0, 0) == 0 &&
	       info.si_pid == 0;
}

/* Until it asks for a stop (true) or ends. */
static bool await_stop(long pid)
{
	uint32_t now;

	while ((now = atomic_load_acquire(&look.phase)) != PHASE_STOP) {
		if (now >= PHASE_DONE ||
		    (os_futex_wait(&look.phase, now, LOOK_AGAIN_NS) == -ETIMEDOUT &&
		     !is_there(pid)))
			return false;
	}
	return true;
}

static struct {
	long pid;
	bool was; /* the threads stood */
} stopping;

void look_stopped(void)
{
	const uint64_t until = os_now_ns() + STOP_PATIENCE_NS;
	uint32_t now;

	stopping.was = true;
	set_phase(PHASE_STOPPED);
	while ((now = atomic_load_acquire(&look.phase)) == PHASE_STOPPED) {
		if (os_futex_wait(&look.phase, now, IN_STOP_NS) != -ETIMEDOUT)
			continue;
		if (!is_there(stopping.pid))
			return;
		if (os_now_ns() > until)
			os_call(SYS_kill, stopping.pid, SIGKILL, 0, 0, 0, 0);
	}
}

static void serve_stop(long pid, const struct look_stopper *stopper)
{
	if (!await_stop(pid))
		return;
	stopping.pid = pid;
	stopping.was = false;
	stopper->stop(stopper->arg);
	if (!stopping.was)
		set_phase(PHASE_REFUSED);
}

enum look_end look_run(void (*fn)(void *arg), void *arg, char *stack, uint64_t *ns,
		       const struct look_stopper *stopper)
{
	const int flags = CLONE_VM | CLONE_UNTRACED;
	uint32_t ready = PHASE_READY;
	long pid, ret;

	if (os_is_refused(SYS_clone, flags))
		return LOOK_REFUSED;
	look.fn = fn;
	look.arg = arg;
	look.ns = *ns;
	look.is_back = false;
	look.stops = stopper != NULL;
	atomic_store_release(&look.phase, (uint32_t)PHASE_START);
	pid = clone_blocked(stack, flags);
	if (pid <= 0)
		return LOOK_REFUSED;
	if (!await_ready((int)pid))
		return LOOK_KILLED;
	if (atomic_cas_acq_rel(&look.phase, &ready, (uint32_t)PHASE_GO))
		os_futex_wake(&look.phase, INT32_MAX);
	if (stopper)
		serve_stop(pid, stopper);
	ret = await_end(pid, ns);
	if (ret < 0 && ret != -ECHILD) {
		/* A filter refuses to wait: then it is waited for by looking. */
		while (os_call(SYS_tgkill, pid, pid, 0, 0, 0, 0) == 0 &&
		       atomic_load_acquire(&look.phase) < PHASE_DONE)
			os_yield();
		return LOOK_REFUSED;
	}
	switch ((enum phase)atomic_load_acquire(&look.phase)) {
	case PHASE_DONE:
		return LOOK_DONE;
	case PHASE_FAULT:
		return LOOK_FAULT;
	default:
		return LOOK_KILLED;
	}
}
