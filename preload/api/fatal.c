/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fatal: signals that end the process by default: the leak check and the profiles come
 * first, then the process dies by the same signal.
 *
 * Structure: where reports are wanted, a handler takes the place of the default action,
 * and of no other; action.c lets the program see the default. The handler works on a
 * stack of its own, because the program's may be an alternate one of 2 KiB.
 *
 * Deadlock: the interrupted code may hold a lock of ours. Then a signal from outside is
 * put off by a few milliseconds; a fault, or a thread that never lets go, dies without
 * reports (the profile file of profiler/site remains). Whoever holds no lock of ours can
 * wait for those who do. Locks of the program or of libc may still be in the way, so a
 * timer stands ready that sends the same signal to the working thread, and a second
 * signal from outside ends the process at once for the same reason. One that follows
 * within a moment is not a second one: who ends a tree of processes by kill(0, SIGTERM),
 * timeout and systemd for instance, reaches some of them twice, through the parent as
 * well.
 *
 * A signal that comes during the reports of exit() and _exit() would have found nobody,
 * without us: it does nothing, unless somebody insists by another one after a moment.
 *
 * A fault during the work is not the program's: it dies by the signal it first got.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#if CONFIG_PROFILER
#include "profiler/leak/leak.h"
#include "profiler/stack/unwind.h"
#endif

#define STACK_BYTES (256 * KIB)
#define RED_ZONE    128
#define RETRY_NS    2000000
#define RETRIES	    1000
#define PATIENCE_S  30 /* of the timer that ends a report that hangs */
#define FOREVER_NS  1000000000u
#define MOMENT_NS   1000000000u /* signals that are the same */

/* Of the kernel's XSAVE area, in words: the low halves of ymm0 to ymm15, whether there is
 * more than FXSAVE's part, what of it is in use, and the high halves. */
#define XMM_AT	      20
#define XMM_WORDS     32
#define MAGIC_AT      58
#define XSTATE_MAGIC  0x46505853u
#define COMPONENTS_AT 64
#define XSTATE_YMM    4
#define YMM_AT	      72

#if CONFIG_PROFILER

/* A fault of the instruction, which happens again when the handler returns. */
static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
static const int others[] = { SIGVTALRM, SIGPROF, SIGPOLL, SIGPWR,  SIGSTKFLT, SIGABRT,
			      SIGSYS,	 SIGTRAP, SIGTERM, SIGINT,  SIGHUP,    SIGQUIT,
			      SIGPIPE,	 SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU,   SIGXFSZ };

static struct {
	bool on;
	uint64_t covered; /* bit of each signal that we handle unless the program does */
	char *stack;
	int worker;	  /* thread that reports; 0: none; atomic */
	int first;	  /* its signal ... */
	uint64_t began;	  /* ... and when it came; atomic */
	int pending;	  /* signal that came before an exec; atomic */
	uint64_t late;	  /* when the first one came after exit(); 0: none; atomic */
	uint32_t retries; /* atomic */
	int timer;
	bool has_timer; /* timers are not inherited by fork */
} fatal_signals;

static uint64_t bit_of(int sig)
{
	return sig > 0 && sig < 65 ? (uint64_t)1 << (sig - 1) : 0;
}

static bool is_fault(int sig)
{
	for (size_t i = 0; i < ARRAY_LEN(faults); i++)
		if (faults[i] == sig)
			return true;
	return false;
}

/* Raised by the thread's own instruction: it cannot simply go on. */
static bool is_synchronous(int sig, const siginfo_t *info)
{
	return info->si_code > 0 && info->si_code != SI_TIMER &&
	       (is_fault(sig) || sig == SIGTRAP || sig == SIGSYS);
}

static void set_default(int sig)
{
	struct sigaction act = { .sa_handler = SIG_DFL };

	action_set(sig, &act, NULL);
}

static void change_mask(int how, int sig)
{
	uint64_t mask = bit_of(sig);

	os_call(SYS_rt_sigprocmask, how, (long)&mask, 0, sizeof(mask), 0, 0);
}

/* Returning from the handler ends the process. */
static void die(int sig, const siginfo_t *info)
{
	set_default(sig);
	change_mask(SIG_BLOCK, sig); /* the handler's return unblocks it */
	if (is_fault(sig) && is_synchronous(sig, info))
		return;
	os_call(SYS_tgkill, os_getpid(), os_gettid(), sig, 0, 0, 0);
}

static void die_now(int sig)
{
	set_default(sig);
	os_call(SYS_tgkill, os_getpid(), os_gettid(), sig, 0, 0, 0);
	change_mask(SIG_UNBLOCK, sig);
	os_exit_group(128 + sig);
}

/* sig comes to the process after this time, or to a thread of it. */
static bool send_later(int sig, int tid, time_t seconds, long ns)
{
	struct sigevent event = { .sigev_notify = tid ? SIGEV_THREAD_ID : SIGEV_SIGNAL,
				  .sigev_signo = sig,
				  ._sigev_un._tid = tid };
	struct itimerspec when = { .it_value = { seconds, ns } };

	if (fatal_signals.has_timer)
		os_call(SYS_timer_delete, fatal_signals.timer, 0, 0, 0, 0, 0);
	fatal_signals.has_timer = os_call(SYS_timer_create, CLOCK_MONOTONIC, (long)&event,
					  (long)&fatal_signals.timer, 0, 0, 0) == 0;
	return fatal_signals.has_timer && os_call(SYS_timer_settime, fatal_signals.timer,
						  0, (long)&when, 0, 0, 0) == 0;
}

/* ---- the work ---- */

/* Calls fn(arg) with the stack pointer at top; 16 bytes aligned. */
__attribute__((naked)) static void
call_on_stack(void *top UNUSED, void (*fn)(void *) UNUSED, void *arg UNUSED)
{
	__asm__("push %rbp\n\t"
		".cfi_adjust_cfa_offset 8\n\t"
		".cfi_rel_offset %rbp, 0\n\t"
		"mov %rsp, %rbp\n\t"
		".cfi_def_cfa_register %rbp\n\t"
		"mov %rdi, %rsp\n\t"
		"mov %rdx, %rdi\n\t"
		"call *%rsi\n\t"
		"leave\n\t"
		".cfi_def_cfa %rsp, 8\n\t"
		"ret");
}

static struct unwind_regs registers_of(const ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	return (struct unwind_regs){ (uintptr_t)g[REG_RIP], (uintptr_t)g[REG_RSP],
				     (uintptr_t)g[REG_RBP], (uintptr_t)g[REG_RBX],
				     (uintptr_t)g[REG_R12], (uintptr_t)g[REG_R13],
				     (uintptr_t)g[REG_R14], (uintptr_t)g[REG_R15] };
}

/*
 * What the interrupted thread holds: its stack and its registers, each where the kernel
 * has saved it. Not the rest of the signal's frame: in the words that the kernel leaves
 * as they were old pointers stand, and in the registers of AVX-512, which nobody clears,
 * too.
 */
static struct leak_interrupted interrupted_of(const ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	const uint64_t *state = (const uint64_t *)uc->uc_mcontext.fpregs;
	struct leak_interrupted at = {
		.sp = (uintptr_t)g[REG_RSP] - RED_ZONE,
		.registers[0] = { (const uintptr_t *)g, REG_RIP },
	};

	if (state)
		at.registers[1] = (struct leak_words){ state + XMM_AT, XMM_WORDS };
	if (state && (uint32_t)state[MAGIC_AT] == XSTATE_MAGIC &&
	    (state[COMPONENTS_AT] & XSTATE_YMM))
		at.registers[2] = (struct leak_words){ state + YMM_AT, XMM_WORDS };
	return at;
}

static void report(void *arg)
{
	exit_reports(arg);
}

static void work(int sig, const ucontext_t *uc)
{
	struct unwind_regs regs = registers_of(uc);
	struct leak_interrupted interrupted = interrupted_of(uc);
	struct exit_cause cause = { .way = EXIT_SIGNAL,
				    .signal = sig,
				    .interrupted = &interrupted,
				    .regs = &regs };

	fatal_signals.first = sig;
	atomic_store_release(&fatal_signals.began, os_now_ns());
	send_later(sig, os_gettid(), PATIENCE_S, 0);
	change_mask(SIG_UNBLOCK, sig);
	call_on_stack(fatal_signals.stack + STACK_BYTES, report, &cause);
}

static bool put_off(int sig)
{
	return atomic_add_relaxed(&fatal_signals.retries, 1u) <= RETRIES &&
	       send_later(sig, 0, 0, RETRY_NS);
}

/* Another thread is at it, and will end the process. */
static void stand_still(void)
{
	const uint32_t never = 0;

	for (;;)
		os_futex_wait(&never, 0, FOREVER_NS);
}

/* While a thread is at it. */
static void hurry(int sig, const siginfo_t *info)
{
	bool same = info->si_code != SI_TIMER && sig != SIGABRT &&
		    os_now_ns() - atomic_load_acquire(&fatal_signals.began) < MOMENT_NS;

	if (!same)
		die_now(fatal_signals.first);
}

/* The process has ended, as far as the program is concerned. */
static void come_late(int sig)
{
	uint64_t none = 0, now = os_now_ns();

	if (!atomic_cas_acq_rel(&fatal_signals.late, &none, now) &&
	    now - none >= MOMENT_NS)
		die_now(sig);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	int saved = errno, none = 0, tid = os_gettid();
	int worker = atomic_load_acquire(&fatal_signals.worker);
	bool synchronous = is_synchronous(sig, info);

	if (!exit_is_own_process()) {
		die(sig, info);
	} else if (worker != 0 && !synchronous) {
		hurry(sig, info);
	} else if (worker == tid) {
		die_now(fatal_signals.first);
	} else if (exit_is_ending() && !synchronous && sig != SIGABRT) {
		come_late(sig);
	} else if (exit_is_busy() && !synchronous) {
		atomic_store_release(&fatal_signals.pending, sig);
	} else if (exit_has_begun()) {
		/* What a thread uses may be gone by then; without us so would it be. */
		if (exit_is_ending() && !lock_any_held())
			exit_await_end();
		die(sig, info);
	} else if (lock_any_held()) {
		if (synchronous || sig == SIGABRT || !put_off(sig))
			die(sig, info);
	} else if (atomic_cas_acq_rel(&fatal_signals.worker, &none, tid)) {
		work(sig, context);
		die(sig, info);
	} else if (synchronous) {
		stand_still();
	}
	errno = saved;
}

void fatal_raise_pending(void)
{
	int sig = atomic_load_acquire(&fatal_signals.pending);

	if (sig)
		die_now(sig);
}

/* ---- installing ---- */

static void our_action(struct sigaction *act)
{
	uint64_t without = 0;

	memset(act, 0, sizeof(*act));
	act->sa_sigaction = on_signal;
	act->sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
	/* Blocked faults would kill by themselves, and others' instructions go on. */
	for (size_t i = 0; i < ARRAY_LEN(faults); i++)
		without |= bit_of(faults[i]);
	os_fill_signals(&act->sa_mask, without);
}

static void cover(int sig)
{
	struct sigaction act, now;

	/* Whoever ignores or handles it already is left alone. */
	fatal_signals.covered |= bit_of(sig);
	if (action_set(sig, NULL, &now) != 0 || now.sa_handler != SIG_DFL)
		return;
	our_action(&act);
	action_set(sig, &act, NULL);
}

void fatal_init(void)
{
	fatal_signals.stack = meta_map(STACK_BYTES, META_OTHER);
	if (!fatal_signals.stack)
		return;
	fatal_signals.on = true;
	for (size_t i = 0; i < ARRAY_LEN(faults); i++)
		cover(faults[i]);
	/* To the first process of a container these do nothing by default. */
	for (size_t i = 0; i < ARRAY_LEN(others) && os_getpid() != 1; i++)
		cover(others[i]);
}

void fatal_fork_child(void)
{
	fatal_signals.has_timer = false;
	atomic_store_release(&fatal_signals.worker, 0);
	atomic_store_release(&fatal_signals.pending, 0);
	atomic_store_release(&fatal_signals.late, (uint64_t)0);
}

bool fatal_is_late(int sig)
{
	if (sig != SIGTERM && sig != SIGINT && sig != SIGHUP && sig != SIGQUIT &&
	    sig != SIGALRM)
		return false;
	return fatal_signals.on && exit_is_ending();
}

const struct sigaction *fatal_action_in(int sig, const struct sigaction *act,
					struct sigaction *buf)
{
	if (!act || act->sa_handler != SIG_DFL ||
	    !(fatal_signals.covered & bit_of(sig)) || exit_has_begun())
		return act;
	our_action(buf);
	return buf;
}

void fatal_action_out(struct sigaction *old)
{
	if (old->sa_sigaction == on_signal)
		memset(old, 0, sizeof(*old));
}

void fatal_was_defaulted(int sig)
{
	struct sigaction buf, dfl = { .sa_handler = SIG_DFL };
	const struct sigaction *act = fatal_action_in(sig, &dfl, &buf);

	if (act == &buf)
		action_set(sig, act, NULL);
}

#else

void fatal_init(void)
{
}

void fatal_fork_child(void)
{
}

void fatal_raise_pending(void)
{
}

bool fatal_is_late(int sig)
{
	(void)sig;
	return false;
}

const struct sigaction *fatal_action_in(int sig, const struct sigaction *act,
					struct sigaction *buf)
{
	(void)sig;
	(void)buf;
	return act;
}

void fatal_action_out(struct sigaction *old)
{
	(void)old;
}

void fatal_was_defaulted(int sig)
{
	(void)sig;
}

#endif
