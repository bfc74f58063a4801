/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signal: handlers of the program that interrupt the allocator.
 *
 * A handler may call malloc, though POSIX promises nothing; where it interrupted malloc,
 * a slot must not be handed out twice, and nobody may wait for a lock that the same
 * thread holds. So every handler that the program sets is entered through ours, which
 * looks at what it interrupted:
 *
 *   code outside this library that we have not         the handler runs (a tail call: it
 *   called, no lock of ours held                       is in no stack)
 *   our code, no lock held: malloc's fast path, say    the handler runs with an mcache of
 *                                                      its own, so the interrupted one is
 *                                                      as it was when it goes on
 *   any lock of ours held                              the signal is put off: it is sent
 *                                                      again to the thread, blocked until
 *                                                      the last lock is released
 *
 * So the fast path pays nothing. A fault cannot be put off; its handler runs at once.
 * Handlers set by a raw system call are not seen.
 *
 * A handler that leaves by siglongjmp keeps its mcache; the interrupted one then is lost
 * to the thread, with the few slots in it. So is what the profiler remembers of the
 * thread's stack, if it was at work there. Should the program jump back into the handler,
 * as one does that switches between threads of its own in it, the interrupted code finds
 * its own again.
 */
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/tls.h"
#if CONFIG_PROFILER
#include "profiler/stack/unwind.h"
#endif

#define SIGNALS 65

typedef void (*full_handler)(int, siginfo_t *, void *);

/* The linker's: our first byte, and the end of our code. */
HIDDEN extern const char __ehdr_start[];
HIDDEN extern const char etext[];

/* What the program has set, by signal. The handler is atomic; the rest is read only when
 * a signal is put off. */
static struct {
	struct {
		full_handler handler;
		int flags;
	} set[SIGNALS];
} signals;

static bool is_fault(int sig)
{
	switch (sig) {
	case SIGSEGV:
	case SIGBUS:
	case SIGFPE:
	case SIGILL:
	case SIGTRAP:
	case SIGSYS:
		return true;
	default:
		return false;
	}
}

static void restore_mask(uint64_t mask)
{
	os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, sizeof(mask), 0, 0);
}

/* Sends sig to this thread again; it is blocked. */
static bool send_again(int sig, const siginfo_t *info)
{
	int pid = os_getpid(), tid = os_gettid();
	siginfo_t plain;

	if (!((unsigned)signals.set[sig].flags &
	      SA_SIGINFO)) { /* the kernel filled in nothing */
		memset(&plain, 0, sizeof(plain));
		plain.si_signo = sig;
		plain.si_code = SI_TKILL;
		info = &plain;
	}
	return os_call(SYS_rt_tgsigqueueinfo, pid, tid, sig, (long)info, 0, 0) == 0 ||
	       os_call(SYS_tgkill, pid, tid, sig, 0, 0, 0) == 0;
}

/* False: the handler has to run now. */
static bool put_off(int sig, const siginfo_t *info, ucontext_t *context)
{
	uint64_t all = ~(uint64_t)0, before, interrupted;

	if (is_fault(sig))
		return false;
	for (int fault = 1; fault < SIGNALS; fault++)
		if (is_fault(fault))
			all &= ~((uint64_t)1 << (fault - 1));
	os_call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&before, sizeof(all), 0,
		0);
	if (!send_again(sig, info)) {
		restore_mask(before);
		return false;
	}
	if ((unsigned)signals.set[sig].flags & SA_RESETHAND)
		action_again(sig, signals.set[sig].flags);
	/* The mask that comes back into force when we return. */
	memcpy(&interrupted, &context->uc_sigmask, sizeof(interrupted));
	lock_when_free(restore_mask, interrupted);
	interrupted |= all;
	memcpy(&context->uc_sigmask, &interrupted, sizeof(interrupted));
	return true;
}

/* Our code that a handler has interrupted: on the handler's stack. */
struct interruption {
	struct interruption *outer; /* of the handler that the code itself runs in */
	uintptr_t sp;		    /* of the code */
	uintptr_t frame;	    /* the handler's begin below */
	uint16_t internal;	    /* of the code, and of the handler */
#if CONFIG_PROFILER
	struct unwind_aside aside;
#endif
};

void signal_leave(uintptr_t target)
{
	struct mcache *mc = mcache_self();
	struct interruption *i = mc->interruption, *left = NULL;
	uintptr_t sp = (uintptr_t)__builtin_frame_address(0);
	uint16_t internal;

	for (; i && target - sp > i->frame - sp; i = i->outer) {
		left = i;
		sp = i->sp;
	}
	if (LIKELY(!left))
		return;
	mc->interruption = i;
	internal = i ? i->internal : 0;
	if (seep_tls.internal == internal && (i || !seep_tls.unwinding))
		return;
#if CONFIG_PROFILER
	unwind_set_aside(&left->aside);
#endif
	seep_tls.internal = internal;
}

static NOINLINE void run_beside(int sig, siginfo_t *info, void *context,
				full_handler handler)
{
	const ucontext_t *uc = context;
	struct interruption i = {
		.outer = mcache_self()->interruption,
		.sp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP],
		.frame = (uintptr_t)__builtin_frame_address(0),
		.internal = seep_tls.internal,
	};
	uintptr_t saved;

	if (lock_any_held()) {
		if (!put_off(sig, info, context))
			handler(sig, info, context);
		return;
	}
	saved = heap_thread_push();
	if (saved)
		mcache_self()->interruption = &i;
	handler(sig, info, context);
	heap_thread_pop(saved);
#if CONFIG_PROFILER
	unwind_take_back(&i.aside);
#endif
	seep_tls.internal = i.internal;
}

static void on_program_signal(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	uintptr_t pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	uintptr_t text = (uintptr_t)__ehdr_start;
	full_handler handler = atomic_load_acquire(&signals.set[sig].handler);

	if (UNLIKELY(fatal_is_late(sig)))
		return;
	if (LIKELY(!lock_any_held()) && LIKELY(pc - text >= (uintptr_t)etext - text) &&
	    LIKELY(seep_tls.internal == 0))
		handler(sig, info, context);
	else
		run_beside(sig, info, context, handler);
}

static bool is_handler(const void *fn)
{
	uintptr_t value = (uintptr_t)fn;

	return value > 2; /* SIG_DFL, SIG_IGN, SIG_HOLD */
}

void *signal_in(int sig, void *handler, int flags)
{
	uintptr_t at = (uintptr_t)handler, text = (uintptr_t)__ehdr_start;

	/* Our own handlers (stopping threads, the agent) know what they interrupt. A
	 * child that shares our memory must not change what we remember. */
	if (sig <= 0 || sig >= SIGNALS || !is_handler(handler) ||
	    at - text < (uintptr_t)etext - text || !exit_seems_own_process())
		return handler;
	signals.set[sig].flags = flags;
	atomic_store_release(&signals.set[sig].handler, (full_handler)(uintptr_t)handler);
	return (void *)(uintptr_t)on_program_signal;
}

void *signal_known(int sig)
{
	return sig > 0 && sig < SIGNALS
		       ? (void *)(uintptr_t)atomic_load_acquire(&signals.set[sig].handler)
		       : NULL;
}

const void *signal_program_handler(int sig, const void *handler)
{
	uintptr_t at = (uintptr_t)handler, text = (uintptr_t)__ehdr_start;

	if (at == (uintptr_t)on_program_signal)
		return signal_known(sig);
	return at - text < (uintptr_t)etext - text ? NULL : handler;
}

void *signal_out(void *handler, void *known)
{
	return handler == (void *)(uintptr_t)on_program_signal ? known : handler;
}
