/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop_signal: stopping threads by a signal, where ptrace is refused. Blocking calls that
 * do not restart are made again where restart.h knows how; others return EINTR.
 *
 * The signal is the one by which the C library cancels threads: it takes care that no
 * thread blocks it (one that does so by a system call of its own is missed), a program
 * cannot have a handler for it, and debuggers let it pass. The library installs its
 * handler at the first cancellation, for good: what we find there is put back, but never
 * the default, which might come after the library's. Its handler ignores a signal without
 * a cancellation, and ours passes on what it does not expect.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"
#include "profiler/stack/module.h"
#include "profiler/stack/restart.h"

#define WAIT_SLICE_NS 20000000u /* of the wait for the threads to arrive */
#define WAIT_SLICES   (STOP_PATIENCE_NS / WAIT_SLICE_NS)
#define ROUNDS	      64   /* listings of the threads */
#define SIGNAL	      32   /* the kernel's first real-time signal */
#define CALL_MAX      1023 /* numbers of system calls are below */
#define MORE_AT	      464  /* in the area of vector registers; the kernel's sw_reserved */
#define MORE_MAGIC    0x46505853u

static struct {
	struct world *world;
	uint32_t epoch;	  /* odd while stopped; futex the handlers wait on; atomic */
	uint32_t arrived; /* atomic, futex */
	/* Handlers begun and done since the process started; atomic, left also futex.
	 * While they are equal nobody looks at world. */
	uint32_t entered, left;
	uint32_t execs;		/* threads that may be in an exec; atomic, futex */
	struct stop_action old; /* behind ours; no handler: none */
} stopper;

/* Debuggers and unwinders know a handler's frame by this code, where no table describes
 * it otherwise; they look at the byte before as well. */
__asm__(".text\n\t"
	"nop\n\t"
	".hidden stop_signal_restorer\n\t"
	".globl stop_signal_restorer\n\t"
	".type stop_signal_restorer, @function\n"
	"stop_signal_restorer:\n\t"
	"mov $15, %rax\n\t"
	"syscall\n\t"
	".size stop_signal_restorer, . - stop_signal_restorer");

static bool set_action(const struct stop_action *new, struct stop_action *old)
{
	return os_call(SYS_rt_sigaction, SIGNAL, (long)new, (long)old, sizeof(new->mask),
		       0, 0) == 0;
}

/* SIGNAL. The thread's record, found by its tid. */
static STOP_NO_SANITIZE struct stopped_thread *record_of(int tid)
{
	struct world *w = stopper.world;

	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].tid == tid)
			return &w->threads[i];
	return NULL;
}

/* The call that the signal interrupted: failed, or to be made again. For that the kernel
 * puts the thread back before the instruction, with the call's number as it was. */
static STOP_NO_SANITIZE void take_call(struct stopped_thread *t, const greg_t *g)
{
	const greg_t args[6] = { g[REG_RDI], g[REG_RSI], g[REG_RDX],
				 g[REG_R10], g[REG_R8],	 g[REG_R9] };
	uintptr_t pc = (uintptr_t)g[REG_RIP];
	const uint8_t *code = (const uint8_t *)pc;

	memcpy(t->args, args, sizeof(args));
	t->call = g[REG_RAX] == -EINTR ? restart_number(pc, (uintptr_t)g[REG_RSP],
							(uintptr_t)g[REG_RBP])
				       : -1;
	if (g[REG_RAX] < 0 || g[REG_RAX] > CALL_MAX || !module_find_code(pc) ||
	    !module_find_code(pc + 1))
		return;
	if (code[0] == 0x0f && code[1] == 0x05) /* syscall */
		t->call = (int)g[REG_RAX];
}

/* The area's own size stands in bytes that its owner may use. */
static STOP_NO_SANITIZE bool take_vectors(struct stopped_thread *t,
					  const struct _libc_fpstate *area)
{
	uint32_t more[5] = { 0 }; /* magic, size of both, components, size of the area */

	if (!area)
		return true;
	memcpy(t->xmm, area->_xmm, sizeof(t->xmm));
	memcpy(more, (const char *)area + MORE_AT, sizeof(more));
	return t->call >= 0 || more[0] != MORE_MAGIC ||
	       stop_take_vectors(stopper.world, t, area, more[4]);
}

/* False: there is no room for all of them. */
static STOP_NO_SANITIZE bool take_registers(struct stopped_thread *t,
					    const ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	for (int i = 0; i < 16; i++)
		t->gprs[i] = (uintptr_t)
			g[i]; /* r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp */
	t->regs = (struct unwind_regs){ (uintptr_t)g[REG_RIP], (uintptr_t)g[REG_RSP],
					(uintptr_t)g[REG_RBP], (uintptr_t)g[REG_RBX],
					(uintptr_t)g[REG_R12], (uintptr_t)g[REG_R13],
					(uintptr_t)g[REG_R14], (uintptr_t)g[REG_R15] };
	t->fs_base = (uintptr_t)__builtin_thread_pointer();
	take_call(t, g);
	return take_vectors(t, uc->uc_mcontext.fpregs);
}

/* SIGNAL. Stands still until the epoch ends. */
static STOP_NO_SANITIZE void stand(struct stopped_thread *t, uint32_t epoch,
				   const ucontext_t *uc)
{
	const bool known = take_registers(t, uc);
	uint64_t waiting = 0;

	t->signalled = os_call(SYS_rt_sigpending, (long)&waiting, sizeof(waiting), 0, 0,
			       0, 0) != 0 ||
		       waiting != 0;
	atomic_store_release(&t->captured, known);
	atomic_fetch_add_acq_rel(&stopper.arrived, 1u);
	os_futex_wake(&stopper.arrived, 1);
	while (atomic_load_acquire(&stopper.epoch) == epoch)
		os_futex_wait(&stopper.epoch, epoch, 0);
}

static STOP_NO_SANITIZE void on_signal(int sig, siginfo_t *info, void *context)
{
	struct stopped_thread *t;
	bool ours;
	uint32_t epoch;

	atomic_fetch_add_acq_rel(&stopper.entered, 1u);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with set_epoch() */
	epoch = atomic_load_acquire(&stopper.epoch);
	t = epoch & 1 ? record_of(os_gettid()) : NULL;
	ours = t && !t->captured;
	if (ours)
		stand(t, epoch, context);
	atomic_fetch_add_acq_rel(&stopper.left, 1u);
	os_futex_wake(&stopper.left, 1);
	if (ours)
		restart_call(context);
	else if (stopper.old.handler)
		stopper.old.handler(sig, info, context);
}

static bool install_handler(void)
{
	struct stop_action act = { .handler = on_signal,
				   .flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK |
					    STOP_RESTORER,
				   .restorer = stop_signal_restorer,
				   .mask = UINT64_MAX };
	struct stop_action before;

	if (!set_action(NULL, &before))
		return false;
	if (before.handler == on_signal)
		return true;
	if ((uintptr_t)before.handler <= (uintptr_t)SIG_IGN)
		before.handler = NULL;
	stopper.old = before;
	return set_action(&act, NULL);
}

/* The library's own comes back. */
static void restore_handler(void)
{
	if (stopper.old.handler)
		set_action(&stopper.old, NULL);
}

/* Waits for count to reach want, as long as something moves. False: it did not. */
static bool await(uint32_t *count, uint32_t want)
{
	uint32_t seen = 0;

	for (unsigned idle = 0; idle < WAIT_SLICES; idle++) {
		uint32_t now = atomic_load_acquire(count);

		if (now >= want)
			return true;
		if (now != seen)
			idle = 0;
		seen = now;
		os_futex_wait(count, now, WAIT_SLICE_NS);
	}
	return false;
}

/* Threads from first on that the signal can be expected to stop. */
static uint32_t send_all(struct world *w, int pid, uint32_t first)
{
	uint32_t sent = 0;

	for (uint32_t i = first; i < w->nthreads; i++) {
		struct stopped_thread *t = &w->threads[i];
		long ret = -ESRCH;

		if (!stop_is_dead(pid, t->tid))
			ret = os_call(SYS_tgkill, pid, t->tid, SIGNAL, 0, 0, 0);
		if (ret == -ESRCH)
			t->tid = 0;
		else if (ret == 0)
			sent++;
	}
	return sent;
}

static void set_epoch(void)
{
	atomic_store_release(&stopper.epoch, atomic_load_relaxed(&stopper.epoch) + 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with on_signal() */
}

/*
 * An exec resets the handler and keeps the signal: it would end the new program. So no
 * thread begins one while an epoch is odd, and no signal is sent before those that had
 * begun have failed. One that succeeds ends all who wait here.
 */
static bool await_execs(void)
{
	for (unsigned i = 0; i < WAIT_SLICES; i++) {
		uint32_t execs = atomic_load_acquire(&stopper.execs);

		if (execs == 0)
			return true;
		os_futex_wait(&stopper.execs, execs, WAIT_SLICE_NS);
	}
	return false;
}

void world_exec_begin(void)
{
	uint32_t epoch;

	for (;;) {
		atomic_fetch_add_acq_rel(&stopper.execs, 1u);
		__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with set_epoch() */
		epoch = atomic_load_acquire(&stopper.epoch);
		if (!(epoch & 1))
			return;
		world_exec_failed();
		os_futex_wait(&stopper.epoch, epoch, 0);
	}
}

void world_exec_failed(void)
{
	atomic_fetch_add_acq_rel(&stopper.execs, (uint32_t)-1);
	os_futex_wake(&stopper.execs, 1);
}

void stop_signal_fork_child(void)
{
	stopper.execs = 0;
	stopper.epoch &= ~1u;
	stopper.entered = stopper.left = 0;
}

int stop_by_signal(struct world *w, int pid, int caller)
{
	uint32_t sent = 0, first = 0;
	bool all = true;

	if (!install_handler())
		return -EBUSY;
	stopper.world = w;
	atomic_store_release(&stopper.arrived, 0u);
	set_epoch();
	if (!await_execs()) {
		resume_by_signal();
		return -EBUSY;
	}
	for (int round = 0; round < ROUNDS && all; round++) {
		if (stop_list_threads(w, pid, caller) <= 0)
			break;
		sent += send_all(w, pid, first);
		first = w->nthreads;
		all = await(&stopper.arrived, sent);
	}
	return 0;
}

void resume_by_signal(void)
{
	set_epoch();
	os_futex_wake(&stopper.epoch, INT32_MAX);
	for (;;) {
		uint32_t left = atomic_load_acquire(&stopper.left);

		if (left == atomic_load_acquire(&stopper.entered))
			break;
		os_futex_wait(&stopper.left, left, WAIT_SLICE_NS);
	}
	restore_handler();
}
