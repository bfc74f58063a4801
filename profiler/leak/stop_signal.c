/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop_signal: stopping threads by a real-time signal, where ptrace is refused. Blocking
 * calls that do not restart then return EINTR, and a thread that blocks the signal is
 * missed.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"

#define WAIT_SLICE_NS 20000000u /* of the wait for the threads to arrive */
#define WAIT_SLICES   (STOP_PATIENCE_NS / WAIT_SLICE_NS)
#define ROUNDS	      64 /* listings of the threads */

static struct {
	struct world *world;
	uint32_t epoch;	  /* odd while stopped; futex the handlers wait on; atomic */
	uint32_t arrived; /* atomic, futex */
	/* Handlers begun and done since the process started; atomic, left also futex.
	 * While they are equal nobody looks at world. */
	uint32_t entered, left;
	int signal;
	bool installed; /* old is what to go back to */
	struct sigaction old;
} stopper;

/* SIGNAL. The thread's record, found by its tid. */
static struct stopped_thread *record_of(int tid)
{
	struct world *w = stopper.world;

	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].tid == tid)
			return &w->threads[i];
	return NULL;
}

/* The call that the signal interrupted: to be made again, or failed. */
static void take_call(struct stopped_thread *t, const greg_t *g)
{
	const greg_t args[6] = { g[REG_RDI], g[REG_RSI], g[REG_RDX],
				 g[REG_R10], g[REG_R8],	 g[REG_R9] };
	uintptr_t pc = (uintptr_t)g[REG_RIP];
	int nr;

	memcpy(t->args, args, sizeof(args));
	t->call = g[REG_RAX] == -EINTR ? stop_call_before(pc) : -1;
	nr = stop_call_before(pc + 2);
	if (nr >= 0 && nr == g[REG_RAX])
		t->call = nr;
}

static void take_registers(struct stopped_thread *t, const ucontext_t *uc)
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
	if (uc->uc_mcontext.fpregs)
		memcpy(t->xmm, uc->uc_mcontext.fpregs->_xmm, sizeof(t->xmm));
}

/* SIGNAL. Stands still until the epoch ends. */
static void stand(struct stopped_thread *t, uint32_t epoch, const ucontext_t *uc)
{
	take_registers(t, uc);
	atomic_store_release(&t->captured, true);
	atomic_fetch_add_acq_rel(&stopper.arrived, 1u);
	os_futex_wake(&stopper.arrived, 1);
	while (atomic_load_acquire(&stopper.epoch) == epoch)
		os_futex_wait(&stopper.epoch, epoch, 0);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	struct stopped_thread *t;
	uint32_t epoch;

	(void)sig;
	(void)info;
	atomic_fetch_add_acq_rel(&stopper.entered, 1u);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with set_epoch() */
	epoch = atomic_load_acquire(&stopper.epoch);
	t = epoch & 1 ? record_of(os_gettid()) : NULL;
	if (t && !t->captured)
		stand(t, epoch, context);
	atomic_fetch_add_acq_rel(&stopper.left, 1u);
	os_futex_wake(&stopper.left, 1);
}

/* Ours from an earlier stop, or one that the program does not use. 0: none. */
static int choose_signal(void)
{
	struct sigaction now;

	if (stopper.installed && sigaction(stopper.signal, NULL, &now) == 0 &&
	    now.sa_sigaction == on_signal)
		return stopper.signal;
	stopper.installed = false;
	for (int sig = SIGRTMAX - 1; sig > SIGRTMIN; sig--)
		if (sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
			return sig;
	return 0;
}

static bool install_handler(void)
{
	struct sigaction act = { .sa_sigaction = on_signal,
				 .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };

	os_fill_signals(&act.sa_mask, 0);
	stopper.signal = choose_signal();
	if (stopper.signal == 0)
		return false;
	if (!stopper.installed)
		stopper.installed = sigaction(stopper.signal, &act, &stopper.old) == 0;
	return stopper.installed;
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
			ret = os_call(SYS_tgkill, pid, t->tid, stopper.signal, 0, 0, 0);
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

int stop_by_signal(struct world *w, int pid, int caller)
{
	uint32_t sent = 0, first = 0;
	bool all = true;

	if (!install_handler())
		return -EBUSY;
	stopper.world = w;
	atomic_store_release(&stopper.arrived, 0u);
	set_epoch();
	for (int round = 0; round < ROUNDS && all; round++) {
		if (stop_list_threads(w, pid, caller) <= 0)
			break;
		sent += send_all(w, pid, first);
		first = w->nthreads;
		all = await(&stopper.arrived, sent);
	}
	return 0;
}

void resume_by_signal(struct world *w)
{
	set_epoch();
	os_futex_wake(&stopper.epoch, INT32_MAX);
	for (;;) {
		uint32_t left = atomic_load_acquire(&stopper.left);

		if (left == atomic_load_acquire(&stopper.entered))
			break;
		os_futex_wait(&stopper.left, left, WAIT_SLICE_NS);
	}
	/* A thread that has yet to take the signal keeps our handler: it does nothing. */
	if (w->nmissed == 0) {
		sigaction(stopper.signal, &stopper.old, NULL);
		stopper.installed = false;
	}
}
