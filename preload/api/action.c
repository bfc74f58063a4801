/* SPDX-License-Identifier: Apache-2.0 */
/*
 * action: sigaction and signal as programs see them. Where fatal.c has put a handler in
 * the place of a default action, they see, set and restore the default action; where
 * signal.c has put its entry in the place of a handler, they see the handler.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "preload/api/api.h"
#include "preload/base/os.h"
#if CONFIG_PROFILER
#include "profiler/stack/thread.h"
#endif

typedef void (*handler)(int);

static struct {
	int (*sigaction)(int, const struct sigaction *, struct sigaction *);
	handler (*signal)(int, handler);
	handler (*sysv_signal)(int, handler);
	handler (*sigset)(int, handler);
} real;

#define RESOLVE(name, symbol)                                       \
	do {                                                        \
		if (!real.name) {                                   \
			void *found = dlsym(RTLD_NEXT, symbol);     \
			memcpy(&real.name, &found, sizeof(void *)); \
		}                                                   \
	} while (0)

int action_set(int sig, const struct sigaction *act, struct sigaction *old)
{
	RESOLVE(sigaction, "sigaction");
	if (real.sigaction)
		return real.sigaction(sig, act, old);
	errno = ENOSYS;
	return -1;
}

void action_again(int sig, int flags)
{
	struct sigaction act;
	void *known = signal_known(sig);

	if (action_set(sig, NULL, &act) != 0)
		return;
	act.sa_flags = flags;
	act.sa_handler = (handler)(uintptr_t)signal_in(sig, known, flags);
	action_set(sig, &act, NULL);
}

/* The agent's handler, like those of fatal.c, stands for the default action. */
static void hide_own(int sig, struct sigaction *old)
{
	const void *seen;

	fatal_action_out(old);
	seen = (const void *)(uintptr_t)old->sa_handler;
	if (seen && !signal_program_handler(sig, seen))
		memset(old, 0, sizeof(*old));
}

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	void *known = signal_known(sig);
	struct sigaction buf, ours;
	int ret;

	act = fatal_action_in(sig, act, &buf);
	if (act && act != &buf) {
		ours = *act;
		ours.sa_handler = (handler)(uintptr_t)signal_in(
			sig, (void *)(uintptr_t)act->sa_handler, act->sa_flags);
		act = &ours;
	}
	ret = action_set(sig, act, old);
	if (ret == 0 && old) {
		hide_own(sig, old);
		old->sa_handler = (handler)(uintptr_t)signal_out(
			(void *)(uintptr_t)old->sa_handler, known);
	}
	return ret;
}

/* With one of the older functions, which gives handlers these flags. */
static handler set_old(int sig, handler fn, int flags, handler (*real_fn)(int, handler))
{
	void *known = signal_known(sig);
	void *in = signal_in(sig, (void *)(uintptr_t)fn, flags);
	struct sigaction seen = { .sa_handler = real_fn(sig, (handler)(uintptr_t)in) };

	if (fn == SIG_DFL && seen.sa_handler != SIG_ERR)
		fatal_was_defaulted(sig);
	hide_own(sig, &seen);
	return (handler)(uintptr_t)signal_out((void *)(uintptr_t)seen.sa_handler, known);
}

static handler failed(void)
{
	errno = ENOSYS;
	return SIG_ERR;
}

/* Only the kernel knows the stack from now on: the leak check is told. */
EXPORT int sigaltstack(const stack_t *stack, stack_t *old)
{
	long error = os_call(SYS_sigaltstack, (long)stack, (long)old, 0, 0, 0, 0);

	if (error < 0) {
		errno = (int)-error;
		return -1;
	}
#if CONFIG_PROFILER
	if (stack && exit_seems_own_process())
		thread_set_signal_stack(
			stack->ss_flags & SS_DISABLE ? 0 : (uintptr_t)stack->ss_sp);
#endif
	return 0;
}

EXPORT handler signal(int sig, handler fn)
{
	RESOLVE(signal, "signal");
	return real.signal ? set_old(sig, fn, SA_RESTART, real.signal) : failed();
}

EXPORT handler __sysv_signal(int sig, handler fn)
{
	RESOLVE(sysv_signal, "__sysv_signal");
	return real.sysv_signal ? set_old(sig, fn, (int)(SA_RESETHAND | SA_NODEFER),
					  real.sysv_signal)
				: failed();
}

EXPORT handler sigset(int sig, handler fn)
{
	RESOLVE(sigset, "sigset");
	return real.sigset ? set_old(sig, fn, 0, real.sigset) : failed();
}

#if defined(__clang__)
#define ALIAS(name) __attribute__((alias(#name), visibility("default")))
#else
#define ALIAS(name) __attribute__((alias(#name), visibility("default"), copy(name)))
#endif
handler bsd_signal(int sig, handler fn) ALIAS(signal);
handler ssignal(int sig, handler fn) ALIAS(signal);
handler sysv_signal(int sig, handler fn) ALIAS(__sysv_signal);
int __sigaction(int sig, const struct sigaction *act, struct sigaction *old)
	ALIAS(sigaction);
