/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join: a thread that has ended and was neither joined nor detached keeps its stack. Who
 * does either is watched here. It is noted before the real call, since the handle may be
 * another thread's right after it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <threads.h>

#include "preload/api/api.h"
#include "profiler/stack/thread.h"

static struct {
	void *join, *detach, *try_join, *timed_join, *clock_join, *join_c11, *detach_c11;
} joins; /* the real functions; atomic by being words */

/* The real function behind slot. */
static uintptr_t real(void **slot, const char *name)
{
	if (!*slot)
		*slot = api_next_symbol(name);
	return (uintptr_t)*slot;
}

/* Tail calls, so that our frame is in nobody's stack. */
EXPORT int pthread_join(pthread_t thread, void **value)
{
	__typeof__(&pthread_join) call =
		(__typeof__(call))real(&joins.join, "pthread_join");

	if (!call)
		return EINVAL;
	thread_set_released((uintptr_t)thread, true);
	return call(thread, value);
}

EXPORT int pthread_detach(pthread_t thread)
{
	__typeof__(&pthread_detach) call =
		(__typeof__(call))real(&joins.detach, "pthread_detach");

	if (!call)
		return EINVAL;
	thread_set_detached((uintptr_t)thread);
	return call(thread);
}

/* These three may well fail, and the thread stays as it was. */
static int outcome(pthread_t thread, int error)
{
	if (error)
		thread_set_released((uintptr_t)thread, false);
	return error;
}

EXPORT int pthread_tryjoin_np(pthread_t thread, void **value)
{
	__typeof__(&pthread_tryjoin_np) call =
		(__typeof__(call))real(&joins.try_join, "pthread_tryjoin_np");

	if (!call)
		return EINVAL;
	thread_set_released((uintptr_t)thread, true);
	return outcome(thread, call(thread, value));
}

EXPORT int pthread_timedjoin_np(pthread_t thread, void **value,
				const struct timespec *limit)
{
	__typeof__(&pthread_timedjoin_np) call =
		(__typeof__(call))real(&joins.timed_join, "pthread_timedjoin_np");

	if (!call)
		return EINVAL;
	thread_set_released((uintptr_t)thread, true);
	return outcome(thread, call(thread, value, limit));
}

EXPORT int pthread_clockjoin_np(pthread_t thread, void **value, clockid_t clock,
				const struct timespec *limit)
{
	__typeof__(&pthread_clockjoin_np) call =
		(__typeof__(call))real(&joins.clock_join, "pthread_clockjoin_np");

	if (!call)
		return EINVAL;
	thread_set_released((uintptr_t)thread, true);
	return outcome(thread, call(thread, value, clock, limit));
}

EXPORT int thrd_join(thrd_t thread, int *value)
{
	__typeof__(&thrd_join) call =
		(__typeof__(call))real(&joins.join_c11, "thrd_join");

	if (!call)
		return thrd_error;
	thread_set_released((uintptr_t)thread, true);
	return call(thread, value);
}

EXPORT int thrd_detach(thrd_t thread)
{
	__typeof__(&thrd_detach) call =
		(__typeof__(call))real(&joins.detach_c11, "thrd_detach");

	if (!call)
		return thrd_error;
	thread_set_detached((uintptr_t)thread);
	return call(thread);
}
