/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork: all our locks are taken in rank order before a fork and released after it, so
 * that the child's copy of every structure is whole. The child then drops what described
 * the parent's other threads.
 *
 * Ours are the first handlers of all, since registering is interposed: the prepare
 * handlers of others run before ours, and may wait for threads that allocate; their
 * parent and child handlers run after ours. Where a program registers before libc is
 * ready, in its preinit_array, theirs run between ours. They may allocate:
 * lock_fork_begin() tells the locks who holds them all.
 *
 * libc's fork() takes the lock of the list of all streams after the handlers and before
 * its own malloc's locks: a thread in fflush(NULL) holds it and waits for a stream, whose
 * thread in getline() waits for memory. So it is ours before the heap is. It is recursive
 * and made anew in a child of several threads.
 *
 * Children that the program makes without libc's fork(), by clone() or a system call, run
 * no handlers of libc's; ours are called here. Such a child of a process with threads may
 * allocate, too.
 *
 * One lock of the first rank is held across the fork itself: glibc may interleave the
 * handlers of two threads that fork at once, and the second must wait at the first step.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/filter.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/tls.h"
#if CONFIG_PROFILER
#include "profiler/control/agent.h"
#include "profiler/control/runtable.h"
#include "profiler/escape/escape.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/stop.h"
#include "profiler/pprof/symbol.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"
#endif

static struct {
	struct lock lock;
} forking = { .lock = LOCK_INIT(LOCK_RANK_FORK) };

/* libc's clone(), by its other name. */
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);

/* libc's, in no header. */
void _IO_list_lock(void) __attribute__((weak));
void _IO_list_unlock(void) __attribute__((weak));
void _IO_list_resetlock(void) __attribute__((weak));

static NO_LOCK_CHECK void before(void)
{
	if (_IO_list_lock)
		_IO_list_lock();
	lock_acquire(&forking.lock);
#if CONFIG_PROFILER
	runtable_fork_prepare();
	escape_fork_prepare();
	thread_fork_prepare();
	module_fork_prepare();
	sample_fork_prepare();
	site_fork_prepare();
#endif
	heap_fork_prepare();
#if CONFIG_PROFILER
	sample_pool_fork_prepare();
#endif
	meta_fork_prepare();
	lock_fork_begin();
}

static NO_LOCK_CHECK void in_parent(void)
{
	lock_fork_end();
	meta_fork_done(false);
#if CONFIG_PROFILER
	sample_pool_fork_done(false);
#endif
	heap_fork_done(false);
#if CONFIG_PROFILER
	site_fork_done(false);
	sample_fork_done(false);
	module_fork_done(false);
	thread_fork_done(false);
	escape_fork_done(false);
#endif
	lock_release(&forking.lock);
	if (_IO_list_unlock)
		_IO_list_unlock();
}

static NO_LOCK_CHECK void in_child(void)
{
	lock_fork_end();
	if (os_is_filtered() || filter_from_before())
		os_learn_ids();
	meta_fork_done(true);
#if CONFIG_PROFILER
	sample_pool_fork_done(true);
	escape_fork_done(true);
	site_fork_done(true);
	module_fork_done(true);
	thread_fork_done(true);
	unwind_fork_child();
	loader_fork_child();
	symbol_fork_child();
	world_fork_child();
	leak_fork_child();
	agent_fork_child();
#endif
	heap_fork_done(true);
	lock_reset(&forking.lock);
#if CONFIG_PROFILER
	sample_fork_done(true);
	runtable_fork_child();
#endif
	if (_IO_list_resetlock)
		_IO_list_resetlock();
	exit_fork_child();
	fatal_fork_child();
	sandbox_fork_child();
}

/* ---- children without fork() ---- */

long fork_by_syscall(long nr, long a, long b, long c, long d, long e)
{
	bool ours = exit_is_own_process();
	long ret;

	if (ours)
		before();
	ret = os_call_unasked(nr, a, b, c, d, e, 0);
	if (ours && ret == 0)
		in_child();
	else if (ours)
		in_parent();
	return ret;
}

struct birth {
	int (*fn)(void *);
	void *arg;
};

/* The first function of a child, whose memory is a copy. libc would end it by a system
 * call that nobody sees. */
static int born(void *arg)
{
	struct birth b = *(const struct birth *)arg;

	in_child();
	_exit(b.fn(b.arg));
}

EXPORT int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	struct birth b = { fn, arg };
	void *parent_tid, *tls, *child_tid;
	va_list more;
	int ret, saved;

	va_start(more, arg); /* what was not passed is not used */
	parent_tid = va_arg(more, void *);
	tls = va_arg(more, void *);
	child_tid = va_arg(more, void *);
	va_end(more);
	if (!fn || !stack || (flags & FORK_NOT_ALIKE) || !exit_is_own_process())
		return __clone(fn, stack, flags, arg, parent_tid, tls, child_tid);
	before();
	ret = __clone(born, stack, flags, &b, parent_tid, tls, child_tid);
	saved = errno;
	in_parent();
	errno = saved;
	return ret;
}

/* ---- handlers ---- */

/* What libc's static pthread_atfork() calls. */
typedef int (*register_function)(void (*prepare)(void), void (*parent)(void),
				 void (*child)(void), void *dso);
int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
		      void *dso);

static int register_next(void (*prepare)(void), void (*parent)(void), void (*child)(void),
			 void *dso)
{
	static register_function real;

	if (!real) {
		void *found = dlsym(RTLD_NEXT, "__register_atfork");

		memcpy(&real, &found, sizeof(found));
	}
	return real ? real(prepare, parent, child, dso) : ENOSYS;
}

EXPORT int __register_atfork(void (*prepare)(void), void (*parent)(void),
			     void (*child)(void), void *dso)
{
	bool (*begin)(void) = atomic_load_acquire(&heap_begin);

	if (begin)
		begin(); /* registers ours */
	return register_next(prepare, parent, child, dso);
}

/* For good, and so for no library: exit() would take them back while another thread is
 * between ours, which then kept all locks. The library is never unloaded. */
void fork_init(void)
{
	register_next(before, in_parent, in_child, NULL);
}
