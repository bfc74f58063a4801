/* SPDX-License-Identifier: Apache-2.0 */
/*
 * action: sigaction and signal as programs see them. Where fatal.c has put a handler in
 * the place of a default action, they see, set and restore the default action.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "preload/api/api.h"

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

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction buf;
	int ret = action_set(sig, fatal_action_in(sig, act, &buf), old);

	if (ret == 0 && old)
		fatal_action_out(old);
	return ret;
}

/* After one of the older functions: old is its result. */
static handler settle(int sig, handler set, handler old)
{
	struct sigaction seen = { .sa_handler = old };

	if (set == SIG_DFL && old != SIG_ERR)
		fatal_was_defaulted(sig);
	fatal_action_out(&seen);
	return seen.sa_handler;
}

static handler failed(void)
{
	errno = ENOSYS;
	return SIG_ERR;
}

EXPORT handler signal(int sig, handler fn)
{
	RESOLVE(signal, "signal");
	return real.signal ? settle(sig, fn, real.signal(sig, fn)) : failed();
}

EXPORT handler __sysv_signal(int sig, handler fn)
{
	RESOLVE(sysv_signal, "__sysv_signal");
	return real.sysv_signal ? settle(sig, fn, real.sysv_signal(sig, fn)) : failed();
}

EXPORT handler sigset(int sig, handler fn)
{
	RESOLVE(sigset, "sigset");
	return real.sigset ? settle(sig, fn, real.sigset(sig, fn)) : failed();
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
