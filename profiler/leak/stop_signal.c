/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop_signal: stopping threads by a real-time signal, where ptrace is refused. Blocking
 * calls that do not restart then return EINTR, and a thread that blocks the signal is missed.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"

#define WAIT_SLICE_NS 20000000u	  /* of the wait for the threads to arrive */
#define WAIT_SLICES   150	  /* without any arriving: about three seconds */

static struct {
	struct world *world;
	uint32_t epoch;	  /* odd while stopped; futex the handlers wait on; atomic */
	uint32_t arrived; /* atomic, futex */
	uint32_t left;	  /* handlers that are done; atomic, futex */
	int signal;
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

static void take_registers(struct stopped_thread *t, const ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	for (int i = 0; i < 16; i++)
		t->gprs[i] = (uintptr_t)g[i]; /* r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp */
	t->regs = (struct unwind_regs){
		(uintptr_t)g[REG_RIP], (uintptr_t)g[REG_RSP], (uintptr_t)g[REG_RBP],
		(uintptr_t)g[REG_RBX], (uintptr_t)g[REG_R12], (uintptr_t)g[REG_R13],
		(uintptr_t)g[REG_R14], (uintptr_t)g[REG_R15]
	};
	t->fs_base = (uintptr_t)__builtin_thread_pointer();
	if (uc->uc_mcontext.fpregs)
		memcpy(t->xmm, uc->uc_mcontext.fpregs->_xmm, sizeof(t->xmm));
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	uint32_t epoch = atomic_load_acquire(&stopper.epoch);
	int saved = errno;
	struct stopped_thread *t = epoch & 1 ? record_of(os_gettid()) : NULL;

	(void)sig;
	(void)info;
	if (!t)
		return;
	take_registers(t, context);
	atomic_store_release(&t->captured, true);
	atomic_fetch_add_acq_rel(&stopper.arrived, 1u);
	os_futex_wake(&stopper.arrived, 1);
	while (atomic_load_acquire(&stopper.epoch) == epoch)
		os_futex_wait(&stopper.epoch, epoch, 0);
	atomic_fetch_add_acq_rel(&stopper.left, 1u);
	os_futex_wake(&stopper.left, 1);
	errno = saved;
}

static int choose_signal(void)
{
	struct sigaction now;

	for (int sig = SIGRTMAX - 1; sig > SIGRTMIN; sig--)
		if (sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
			return sig;
	return 0;
}

/* Waits for count to reach want as long as something moves. */
static void await(uint32_t *count, uint32_t want)
{
	uint32_t seen = 0;

	for (int idle = 0; idle < WAIT_SLICES; idle++) {
		uint32_t now = atomic_load_acquire(count);

		if (now >= want)
			return;
		if (now != seen)
			idle = 0;
		seen = now;
		os_futex_wait(count, now, WAIT_SLICE_NS);
	}
}

static uint32_t send_all(struct world *w, int pid, uint32_t from)
{
	uint32_t sent = 0;

	for (uint32_t i = from; i < w->nthreads; i++) {
		if (os_call(SYS_tgkill, pid, w->threads[i].tid, stopper.signal, 0, 0,
			    0) == 0)
			sent++;
		else
			w->threads[i].tid = 0; /* it has ended */
	}
	return sent;
}

int stop_by_signal(struct world *w, int pid, int caller)
{
	struct sigaction act = { .sa_sigaction = on_signal,
				 .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };
	uint32_t sent = 0, from = 0;

	sigfillset(&act.sa_mask);
	stopper.signal = choose_signal();
	if (stopper.signal == 0 || sigaction(stopper.signal, &act, &stopper.old) != 0)
		return -EBUSY;
	stopper.world = w;
	atomic_store_release(&stopper.arrived, 0u);
	atomic_store_release(&stopper.left, 0u);
	atomic_store_release(&stopper.epoch, stopper.epoch + 1);
	while (stop_list_threads(w, pid, caller) > 0) {
		sent += send_all(w, pid, from);
		from = w->nthreads;
		await(&stopper.arrived, sent);
	}
	return 0;
}

void resume_by_signal(struct world *w)
{
	uint32_t arrived = atomic_load_acquire(&stopper.arrived);

	atomic_store_release(&stopper.epoch, stopper.epoch + 1);
	os_futex_wake(&stopper.epoch, INT32_MAX);
	await(&stopper.left, arrived);
	/* A thread that has yet to take the signal keeps our handler: it does nothing. */
	if (w->nmissed == 0)
		sigaction(stopper.signal, &stopper.old, NULL);
}
