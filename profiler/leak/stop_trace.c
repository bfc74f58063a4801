/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop_trace: stopping threads by ptrace, from a process cloned for it.
 *
 * The tracer shares our memory, files and thread pointer, but is a process of its own,
 * since a thread cannot trace its own process. It seizes, then interrupts every thread
 * but the caller's until no new one appears, reads their registers into the world, waits
 * to be told to let go, has the system calls that it interrupted made again, and ends, by
 * which the kernel lets them all go at once.
 *
 * Nobody notices: it has no exit signal and blocks all signals; a signal that a thread
 * was about to take is handed back to it; should the caller's thread die, the kernel
 * kills the tracer, and with it goes every trace. Should the tracer die (a seccomp filter
 * that kills), the caller finds out within a moment.
 *
 * Concurrency: caller and tracer hand over through one futex word, `phase`. The tracer
 * uses raw system calls only: thread pointer and libc are the caller's.
 *
 * A copy of the process that the caller makes once all threads are interrupted, before
 * they have stopped, is a copy of the moment of the stop, though the kernel takes
 * milliseconds for it. It write-protects each page as it copies its entry, holds back who
 * then writes to it, and at the end has every processor that runs one of the threads
 * forget what it knew of the entries. A processor so interrupted does not return to a
 * thread of which a stop is asked. So what is written later is not in the copy, and is
 * written by the kernel or after the stop; what was written before is in it. Those that
 * are held back stop with the registers that they had. The exceptions are seen from the
 * registers, or by counting, and make the copy `late`: a thread that has made another one
 * meanwhile, and one that a signal's handler is about to begin in, whose registers the
 * kernel may have put away into a page already copied. (Pages that a device has pinned
 * are copied when their turn comes; a pointer that moves out of one of these while the
 * copy is made could be missed.)
 *
 * For that the tracer's stack and the table of threads are shared with the copy: what it
 * writes there is not held back, and the copy finds the registers.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"
#include "profiler/stack/finish.h"
#include "profiler/stack/restart.h"

#define PIDFD_THREAD	    O_EXCL /* newer than our headers */
#define ROUNDS		    64 /* listings; new threads keep coming only from a fork bomb */
#define LOOK_AGAIN_NS	    50000000u /* is the other side still there? */
#define LOOK_NS		    500000u   /* without a timer */
#define BUSY_NS		    1000000u  /* between two tries at a thread that is traced */
#define BUSY_TIMES	    300
#define VECTORS_BYTES	    4096 /* at least, with AVX-512 */
#define ERESTART_NO_HANDLER 514	 /* the kernel's ERESTARTNOHAND, seen by tracers only */

enum phase {
	PHASE_START,
	PHASE_READY, /* tracer: it will not outlive the caller's thread */
	PHASE_GO,
	PHASE_INTERRUPTED, /* tracer: all threads, as far as it knows */
	PHASE_STOPPED,
	PHASE_FAILED,
	PHASE_RESUME,
	PHASE_LEFT /* tracer: it has let go, however it ends */
};

static struct {
	uint32_t phase;	 /* enum phase; atomic, futex */
	int pid, caller; /* of the program; tid of the thread that stops */
	int tracer;	 /* pid; 0: none. Owned by the caller */
	int error;	 /* of the tracer's first failure */
	bool ticks;	 /* tracer: SIGALRM comes and ends what it waits in */
	struct world *world;
	char vectors[VECTORS_BYTES] __attribute__((aligned(16))); /* as the kernel has
								   * them */
} tracer;

static void set_phase(enum phase phase)
{
	atomic_store_release(&tracer.phase, (uint32_t)phase);
	os_futex_wake(&tracer.phase, INT32_MAX);
}

static void wait_while(enum phase phase)
{
	while (atomic_load_acquire(&tracer.phase) == (uint32_t)phase)
		os_futex_wait(&tracer.phase, (uint32_t)phase, 0);
}

/* False: the phase lasts. */
static bool wait_while_short(enum phase phase)
{
	for (uint64_t until = os_now_ns() + STOP_PATIENCE_NS; os_now_ns() < until;) {
		if (atomic_load_acquire(&tracer.phase) != (uint32_t)phase)
			return true;
		os_futex_wait(&tracer.phase, (uint32_t)phase, LOOK_AGAIN_NS);
	}
	return false;
}

/* ---- the tracer ---- */

static long trace(long request, int tid, long addr, long data)
{
	return os_call(SYS_ptrace, request, tid, addr, data, 0, 0);
}

/* Another request's signal may just be on its way to the thread: it is traced until it
 * arrives. */
static bool seize(struct stopped_thread *t)
{
	const uint32_t never = 0;
	long ret = trace(PTRACE_SEIZE, t->tid, 0, 0);

	for (int i = 0; ret == -EPERM && i < BUSY_TIMES; i++) {
		if (!stop_is_traced(tracer.pid, t->tid))
			break;
		os_futex_wait(&never, 0, BUSY_NS);
		ret = trace(PTRACE_SEIZE, t->tid, 0, 0);
	}
	if (ret < 0) {
		if (ret != -ESRCH && !stop_is_dead(tracer.pid, t->tid)) {
			tracer.error = (int)ret;
			return false;
		}
		t->tid = 0;
	}
	return true;
}

/* All of them before the first is interrupted: what stops gets in the way of this. False:
 * one could not be; those before are ours to let go. */
static bool seize_from(struct world *w, uint32_t first)
{
	for (uint32_t i = first; i < w->nthreads; i++)
		if (!seize(&w->threads[i])) {
			w->nthreads = i;
			return false;
		}
	return true;
}

static void interrupt_from(const struct world *w, uint32_t first)
{
	for (uint32_t i = first; i < w->nthreads; i++)
		if (w->threads[i].tid)
			trace(PTRACE_INTERRUPT, w->threads[i].tid, 0, 0);
}

/* Its coming ends a wait4(). */
static STOP_NO_SANITIZE void on_tick(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
}

/* The tracer never returns: marks of the sanitizer would stay on its stack. */
static STOP_NO_SANITIZE void start_ticking(void)
{
	/* A child that stops wakes us as it is. */
	const struct stop_action no_news = { .flags = SA_NOCLDSTOP };
	const struct stop_action act = { .handler = on_tick,
					 .flags = STOP_RESTORER,
					 .restorer = stop_signal_restorer };
	const struct itimerval every = { { 0, LOOK_AGAIN_NS / 1000 },
					 { 0, LOOK_AGAIN_NS / 1000 } };
	const uint64_t mask = ~((uint64_t)1 << (SIGALRM - 1));

	os_call(SYS_rt_sigaction, SIGCHLD, (long)&no_news, 0, sizeof(no_news.mask), 0, 0);
	tracer.ticks =
		os_call(SYS_rt_sigaction, SIGALRM, (long)&act, 0, sizeof(act.mask), 0,
			0) == 0 &&
		os_call(SYS_setitimer, ITIMER_REAL, (long)&every, 0, 0, 0, 0) == 0 &&
		os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, sizeof(mask), 0,
			0) == 0;
}

/* False: it did not stop in time; *deadline is 0 from then on, and nobody is waited for.
 */
static bool await_stop(struct stopped_thread *t, uint64_t *deadline)
{
	int status = 0;
	long ret;

	for (;;) {
		bool waits = tracer.ticks && *deadline;

		ret = os_call(SYS_wait4, t->tid, (long)&status,
			      waits ? __WALL : __WALL | WNOHANG, 0, 0, 0);
		if (ret != 0 && ret != -EINTR)
			break;
		if (*deadline == 0 ||
		    (tracer.world->hasty && stop_is_deaf(tracer.pid, t->tid)))
			return false;
		if (stop_is_dead(tracer.pid, t->tid)) {
			t->tid = 0;
			return true;
		}
		if (os_now_ns() > *deadline)
			*deadline = 0;
		else if (!waits)
			os_futex_wait(&tracer.phase, PHASE_GO, LOOK_NS);
	}
	if (ret < 0 || !WIFSTOPPED(status))
		t->tid = 0;	    /* ended meanwhile */
	else if (status >> 16 == 0) /* about to get a signal: deliver it when we let go */
		t->pending = (uint32_t)WSTOPSIG(status);
	return true;
}

/* The kernel's word, seen by tracers only, for a call that goes on after the stop: it
 * stands in for the result. */
static bool goes_on(long rax)
{
	return rax == -EINTR || rax == -512 || rax == -513 || rax == -514 || rax == -516;
}

static void copy_call(struct stopped_thread *t, const struct user_regs_struct *r)
{
	const uintptr_t args[6] = { r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9 };

	memcpy(t->args, args, sizeof(args));
	t->call = (long)r->orig_rax >= 0 && goes_on((long)r->rax) ? (int)r->orig_rax : -1;
	t->partly = finish_may((int)r->orig_rax, r->rax) ? (int)r->orig_rax : -1;
	if (t->call == SYS_restart_syscall)
		t->call = restart_number(r->rip, r->rsp, r->rbp);
}

static void copy_registers(struct stopped_thread *t, const struct user_regs_struct *r)
{
	const uintptr_t all[16] = { r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi,
				    r->rbp, r->rsp, r->r8,  r->r9,  r->r10, r->r11,
				    r->r12, r->r13, r->r14, r->r15 };

	memcpy(t->gprs, all, sizeof(all));
	t->regs = (struct unwind_regs){ r->rip, r->rsp, r->rbp, r->rbx,
					r->r12, r->r13, r->r14, r->r15 };
	t->fs_base = r->fs_base;
	copy_call(t, r);
}

/* It has just made a thread, which is not among those that were interrupted before. */
static bool makes_thread(const struct user_regs_struct *r)
{
	return (r->orig_rax == SYS_clone || r->orig_rax == SYS_clone3) &&
	       (long)r->rax > 0;
}

/* The kernel has put its registers on its stack, and made these. */
static bool begins_handler(const struct user_regs_struct *r)
{
	return (long)r->orig_rax < 0 && r->rdi >= 1 && r->rdi < NSIG && r->rax == 0 &&
	       r->rdx == r->rsp + sizeof(void *);
}

/* All of those of a thread that runs. False: there is no room for them. */
static bool read_vectors(struct stopped_thread *t)
{
	struct user_fpregs_struct *fp = (void *)tracer.vectors;
	struct iovec v = { fp, sizeof(tracer.vectors) };
	const bool all = t->call < 0 &&
			 trace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, (long)&v) == 0 &&
			 v.iov_len > sizeof(*fp);

	if (!all) {
		v.iov_len = sizeof(*fp);
		if (trace(PTRACE_GETREGSET, t->tid, NT_FPREGSET, (long)&v) != 0)
			return true;
	}
	memcpy(t->xmm, fp->xmm_space, sizeof(t->xmm));
	return !all || stop_take_vectors(tracer.world, t, fp, v.iov_len);
}

static void read_registers(struct stopped_thread *t)
{
	struct user_regs_struct regs;
	struct iovec v = { &regs, sizeof(regs) };

	if (trace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, (long)&v) < 0)
		return;
	copy_registers(t, &regs);
	if (makes_thread(&regs) || begins_handler(&regs))
		tracer.world->late = true;
	t->captured = read_vectors(t);
}

/* Has the signal a value, of sigqueue() or a timer? */
static bool has_value(const siginfo_t *info)
{
	return info->si_code <= SI_QUEUE && info->si_code >= SI_ASYNCIO;
}

/* Of those in the thread's own queue, and the one that it was about to take. */
static bool is_signalled(int tid, uint32_t pending)
{
	struct __ptrace_peeksiginfo_args first = { .nr = 1 };
	siginfo_t info;
	long n = 0;

	if (pending &&
	    (trace(PTRACE_GETSIGINFO, tid, 0, (long)&info) != 0 || has_value(&info)))
		return true;
	while ((n = trace(PTRACE_PEEKSIGINFO, tid, (long)&first, (long)&info)) == 1) {
		if (has_value(&info))
			return true;
		first.off++;
	}
	return n != 0;
}

/* Waits for the threads from first on; for the last one first, so that it is not woken by
 * each of them. */
static void await_from(struct world *w, uint32_t first)
{
	uint64_t deadline = os_now_ns() + STOP_PATIENCE_NS;

	for (uint32_t i = w->nthreads; i-- > first;) {
		struct stopped_thread *t = &w->threads[i];

		if (t->tid == 0 || !await_stop(t, &deadline))
			continue;
		if (deadline)
			deadline = os_now_ns() + STOP_PATIENCE_NS;
		if (!t->tid)
			continue;
		read_registers(t);
		t->signalled = is_signalled(t->tid, t->pending);
	}
}

/* These and the caller's are all that there are: no need to list them again. */
static bool is_everybody(uint32_t others)
{
	return others + 1 == stop_count_threads(tracer.pid);
}

static uint32_t count_captured(const struct world *w)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < w->nthreads; i++)
		n += w->threads[i].captured;
	return n;
}

static uint32_t count_seized(const struct world *w, uint32_t from)
{
	uint32_t n = 0;

	for (uint32_t i = from; i < w->nthreads; i++)
		n += w->threads[i].tid != 0;
	return n;
}

/* Interrupts those that are new since the list had `from`. False: that failed, or there
 * were none (with tracer.error 0). */
static bool interrupt_new(struct world *w, uint32_t from)
{
	if (from == w->nthreads) { /* none listed before */
		int added = stop_list_threads(w, tracer.pid, tracer.caller);

		tracer.error = added < 0 ? added : 0;
		if (added <= 0)
			return false;
	}
	if (!seize_from(w, from))
		return false;
	interrupt_from(w, from);
	return true;
}

static bool interrupt_all(struct world *w)
{
	uint32_t done = 0;

	for (int round = 0; round < ROUNDS; round++) {
		const uint32_t from = done;

		if (!interrupt_new(w, from))
			return tracer.error == 0;
		done = w->nthreads;
		/* One that has ended may be listed for ever. */
		if (count_seized(w, from) == 0 || is_everybody(count_seized(w, 0)))
			break;
	}
	return true;
}

static bool await_all(struct world *w)
{
	await_from(w, 0);
	for (int round = 0; round < ROUNDS; round++) {
		const uint32_t done = w->nthreads;

		if (is_everybody(count_captured(w)))
			break;
		if (!interrupt_new(w, done))
			return tracer.error == 0;
		if (count_seized(w, done) == 0)
			break;
		w->late = true;
		await_from(w, done);
	}
	return true;
}

/* ---- letting go ---- */

/* The calls that end with EINTR when a stop interrupts them (the kernel restarts others
 * by itself) and can be made again without harm. close() is none of them. */
static bool can_repeat(uint64_t nr)
{
	static const uint16_t calls[] = {
		SYS_epoll_wait,
		SYS_epoll_pwait,
		441 /* epoll_pwait2 */,
		SYS_recvfrom,
		SYS_recvmsg,
		SYS_recvmmsg,
		SYS_accept,
		SYS_accept4,
		SYS_sendto,
		SYS_sendmsg,
		SYS_read,
		SYS_readv,
		SYS_write,
		SYS_writev,
		SYS_rt_sigtimedwait,
		SYS_semop,
		SYS_semtimedop,
		SYS_io_getevents,
		333 /* io_pgetevents */,
		426 /* io_uring_enter */
	};

	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		if (nr == calls[i])
			return true;
	return false;
}

static bool read_words(uintptr_t from, void *to, size_t bytes, void *arg)
{
	const struct stopped_thread *t = arg;

	for (size_t i = 0; i < bytes; i += sizeof(long))
		if (trace(PTRACE_PEEKDATA, t->tid, (long)(from + i),
			  (long)((char *)to + i)) != 0)
			return false;
	return true;
}

/* The caller of the stop, whose files are this process's, need not share the program's.
 */
static int open_descriptor(int fd, void *arg)
{
	const struct stopped_thread *t = arg;
	long handle = os_call(SYS_pidfd_open, t->tid, PIDFD_THREAD, 0, 0, 0, 0);
	long copy;

	if (handle < 0)
		handle = os_call(SYS_pidfd_open, tracer.pid, 0, 0, 0, 0, 0);
	if (handle < 0)
		return -1;
	copy = os_call(SYS_pidfd_getfd, handle, fd, 0, 0, 0, 0);
	os_call(SYS_close, handle, 0, 0, 0, 0, 0);
	return (int)copy;
}

/* The call has moved a part of the bytes: the thread moves the rest. */
static void go_on(struct stopped_thread *t)
{
	const struct finish_access access = { read_words, open_descriptor, t };
	struct user_regs_struct regs;
	struct iovec v = { &regs, sizeof(regs) };
	struct finish_regs r;

	if (trace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, (long)&v) != 0)
		return;
	r = (struct finish_regs){ .rax = regs.rax,
				  .rdx = regs.rdx,
				  .rsi = regs.rsi,
				  .rdi = regs.rdi,
				  .r10 = regs.r10,
				  .rip = regs.rip };
	if (!finish_call(t->partly, &r, &access))
		return;
	regs.rcx = r.rcx;
	regs.r11 = r.r11;
	regs.rip = r.rip;
	regs.orig_rax = (unsigned long)-1;
	trace(PTRACE_SETREGSET, t->tid, NT_PRSTATUS, (long)&v);
}

/*
 * The kernel itself makes the call again, by its rule for this error: unless a signal
 * with a handler is there by then, in which case the program sees EINTR, as it must.
 */
static void repeat_call(struct stopped_thread *t)
{
	struct user_regs_struct regs;
	struct iovec v = { &regs, sizeof(regs) };
	const int tid = t->tid;

	if (t->captured && t->partly >= 0 && !t->signalled)
		go_on(t);
	if (t->captured && (long)t->gprs[0] != -EINTR)
		return;
	if (trace(PTRACE_GETREGSET, tid, NT_PRSTATUS, (long)&v) != 0 ||
	    (long)regs.rax != -EINTR || !can_repeat(regs.orig_rax))
		return;
	regs.rax = (unsigned long)-ERESTART_NO_HANDLER;
	trace(PTRACE_SETREGSET, tid, NT_PRSTATUS, (long)&v);
}

/* Those that get no signal are let go by the kernel at our end, all by one call. */
static void let_go_all(struct world *w)
{
	for (uint32_t i = 0; i < w->nthreads; i++) {
		int tid = w->threads[i].tid;

		if (tid == 0)
			continue;
		if (w->threads[i].pending)
			trace(PTRACE_DETACH, tid, 0, (long)w->threads[i].pending);
		else
			repeat_call(&w->threads[i]);
	}
}

/* By what a filter allows; no core, since the kernel would end all who share the memory.
 */
static __attribute__((noreturn)) void leave(void)
{
	os_call(SYS_exit, 0, 0, 0, 0, 0, 0);
	os_call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
	os_call(SYS_kill, os_getpid(), SIGKILL, 0, 0, 0, 0);
	os_exit_group(0);
}

static __attribute__((noreturn)) int tracer_main(void *arg)
{
	struct world *w = arg;
	bool ok;

	os_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);
	/* An exec may have ended the caller before; then what bears its process's number
	 * now is another program. */
	set_phase(PHASE_READY);
	if (!wait_while_short(PHASE_READY))
		leave();
	start_ticking();
	ok = interrupt_all(w);
	if (ok) {
		set_phase(PHASE_INTERRUPTED);
		ok = await_all(w);
	}
	if (ok) {
		set_phase(PHASE_STOPPED);
		wait_while(PHASE_STOPPED);
	}
	let_go_all(w);
	set_phase(ok ? PHASE_LEFT : PHASE_FAILED);
	leave();
}

/* ---- the caller's side ---- */

/* True: the tracer ended by itself. */
static bool reap(void)
{
	long ret;

	do {
		ret = os_call(SYS_wait4, tracer.tracer, 0, __WALL, 0, 0, 0);
	} while (ret == -EINTR);
	tracer.tracer = 0;
	return ret > 0 && atomic_load_acquire(&tracer.phase) == (uint32_t)PHASE_LEFT;
}

/* Waits while the phase lies before next. False: the tracer died. */
static bool await_phase(enum phase next)
{
	for (;;) {
		uint32_t now = atomic_load_acquire(&tracer.phase);

		if (now >= (uint32_t)next)
			return true;
		if (os_futex_wait(&tracer.phase, now, LOOK_AGAIN_NS) != -ETIMEDOUT)
			continue;
		if (os_call(SYS_wait4, tracer.tracer, 0, __WALL | WNOHANG, 0, 0, 0) == 0)
			continue;
		tracer.tracer = 0;
		return false;
	}
}

static bool has_failed(void)
{
	return atomic_load_acquire(&tracer.phase) == PHASE_FAILED;
}

/* Why nobody is held. */
static int give_up(bool answered)
{
	os_call(SYS_prctl, PR_SET_PTRACER, 0, 0, 0, 0, 0);
	if (!answered)
		return -ECHILD;
	reap();
	return tracer.error ? tracer.error : -EPERM;
}

static bool start(struct world *w, char *stack)
{
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED;

	tracer.world = w;
	tracer.error = 0;
	atomic_store_release(&tracer.phase, (uint32_t)PHASE_START);
	if (os_is_refused(SYS_clone, flags))
		return false;
	tracer.tracer = clone(tracer_main, stack + STOP_STACK, flags, w);
	return tracer.tracer > 0;
}

int interrupt_by_trace(struct world *w, int pid, int caller, char *stack)
{
	long dumpable = os_call(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0, 0);
	bool answered;

	tracer.pid = pid;
	tracer.caller = caller;
	if (!start(w, stack)) {
		tracer.tracer = 0;
		return -EAGAIN;
	}
	os_call(SYS_prctl, PR_SET_PTRACER, tracer.tracer, 0, 0, 0, 0); /* Yama */
	if (dumpable != 1)
		os_call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0, 0);
	answered = await_phase(PHASE_READY);
	if (answered) {
		set_phase(PHASE_GO);
		/* A copy must not be of a process that others may trace. */
		answered = await_phase(w->for_copy && dumpable == 1 ? PHASE_INTERRUPTED
								    : PHASE_STOPPED);
	}
	if (dumpable != 1) /* 2 cannot be set by a program; 0 allows less still */
		os_call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0, 0);
	return answered && !has_failed() ? 0 : give_up(answered);
}

int await_by_trace(void)
{
	const bool answered = await_phase(PHASE_STOPPED);

	if (!answered || has_failed())
		return give_up(answered);
	os_call(SYS_prctl, PR_SET_PTRACER, 0, 0, 0, 0, 0);
	return 0;
}

bool resume_by_trace(void)
{
	set_phase(PHASE_RESUME);
	return reap();
}
