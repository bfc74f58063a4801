/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread: a thread's beginning (pthread_create and thrd_create are interposed to learn
 * stack bounds and who created it) and its end (a thread-specific destructor gives its
 * mcache back).
 *
 * Other destructors may free and allocate after ours, so ours re-arms itself once; what
 * still comes later, from those that re-arm themselves, uses the heap's fallback. (Each
 * round costs libc's walk of its table, 600 instructions.)
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <threads.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/opt.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/tls.h"
#if CONFIG_PROFILER
#include "profiler/control/alone.h"
#include "profiler/escape/escape.h"
#include "profiler/sample/sample.h"
#include "profiler/site/share.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"
#endif

#define ROUNDS 2 /* of destructors */
/* Of libc's thread descriptor, which has as many or more. */
#define DESCRIPTOR_BYTES 2304

typedef void *(*start_routine)(void *);

static struct {
	pthread_key_t key;
	bool has_key;
	int (*create)(pthread_t *, const pthread_attr_t *, start_routine, void *);
	int (*create_c11)(thrd_t *, thrd_start_t, void *);
	size_t argument_at; /* the word of libc's descriptor that holds a routine's
			       argument; 0: not known yet. Atomic */
} threads;

struct start {
	start_routine routine;
	void *arg;
	uint32_t creator_site;
	bool detached, own_stack;
};

/* libc's descriptor keeps the argument for the life of the stack, though nobody reads it
 * any more. It has got ours; while the thread runs, let it be the program's, as it would
 * be without us; afterwards it would hide a leak. */
static void set_argument(const void *block, void *arg)
{
	uintptr_t *word = (uintptr_t *)pthread_self();
	size_t at = atomic_load_relaxed(&threads.argument_at);

	if (at && word[at] == (uintptr_t)block) {
		word[at] = (uintptr_t)arg;
		return;
	}
	for (size_t i = 0; i < DESCRIPTOR_BYTES / sizeof(*word); i++)
		if (word[i] == (uintptr_t)block) {
			word[i] = (uintptr_t)arg;
			atomic_store_relaxed(&threads.argument_at, i);
		}
}

#if CONFIG_PROFILER
static void forget_argument(void)
{
	uintptr_t *word = (uintptr_t *)pthread_self();
	size_t at = atomic_load_relaxed(&threads.argument_at);

	if (at)
		word[at] = 0;
}
#endif

/* value counts the rounds that are left. */
static void thread_end(void *value)
{
	uintptr_t left = (uintptr_t)value;

	if (left > 1 && pthread_setspecific(threads.key, (void *)(left - 1)) == 0)
		return;
#if CONFIG_PROFILER
	escape_thread_end((uintptr_t)__builtin_frame_address(0));
	sample_thread_end();
	share_thread_end();
	forget_argument();
	thread_finished();
#endif
	heap_thread_exit();
}

static void arm(uintptr_t rounds)
{
	if (threads.has_key) {
		int saved = errno;

		pthread_setspecific(threads.key, (void *)rounds);
		errno = saved;
	}
}

/* A thread's first allocation. If it was not begun by us (libc's own helpers, or before
 * our constructor) this may already be its last round of destructors: one must do. */
static void arm_late(void)
{
	if (threads.has_key && !pthread_getspecific(threads.key))
		arm(1);
}

static uint32_t creator_site(void)
{
#if CONFIG_PROFILER
	struct capture c;
	bool ok;

	if (!sample_is_on())
		return SITE_NONE;
	thread_internal_enter();
	ok = capture_here(&c);
	thread_internal_leave();
	return ok ? c.site : SITE_NONE;
#else
	return 0;
#endif
}

/* The new thread's first function; a tail call, so that it is in nobody's stack. */
static void *thread_begin(void *block)
{
	struct start s = *(struct start *)block;
#if CONFIG_PROFILER
	struct thread_info *t;
#endif

	set_argument(block, s.arg);
	heap_free(block);
	arm(ROUNDS); /* also for a thread that never allocates: its end is recorded */
#if CONFIG_PROFILER
	thread_internal_enter();
	t = thread_register(s.creator_site, s.detached);
	if (t) { /* the routine takes our place on the stack: below two words */
		t->frames_hi = (uintptr_t)__builtin_frame_address(0) + 16;
		t->own_stack = s.own_stack;
	}
	thread_internal_leave();
#endif
	return s.routine(s.arg);
}

static bool is_detached(const pthread_attr_t *attr)
{
	int state = PTHREAD_CREATE_JOINABLE;

	return attr && pthread_attr_getdetachstate(attr, &state) == 0 &&
	       state == PTHREAD_CREATE_DETACHED;
}

/* Memory of the program's. libc counts an address that was not set from 0 down. */
static bool has_own_stack(const pthread_attr_t *attr)
{
	void *lo;
	size_t size;

	return attr && pthread_attr_getstack(attr, &lo, &size) == 0 &&
	       (uintptr_t)lo + size != 0;
}

/* glibc's first pthread_create() copies a struct that it has not filled through vector
 * registers that stay as they are for long: what our work, or the program's, left on the
 * stack would look like a reference to the object it points to. */
static NOINLINE void clear_stack_below(void)
{
	uintptr_t words[112];

	memset(words, 0, sizeof(words));
	__asm__ volatile("" : : "r"(words) : "memory");
}

/* NULL: no memory. */
static struct start *prepare(start_routine routine, void *arg, const pthread_attr_t *attr)
{
	struct start *s;

	seep_tls.internal++;
	s = heap_malloc(sizeof(*s));
	seep_tls.internal--;
	if (!s)
		return NULL;
#if CONFIG_PROFILER
	thread_become_many();
	alone_begin_thread();
#endif
	*s = (struct start){ routine, arg, creator_site(), is_detached(attr),
			     has_own_stack(attr) };
	return s;
}

/* Of prepare(). */
static void finish(struct start *s, bool made)
{
#if CONFIG_PROFILER
	alone_end_thread();
#endif
	if (!made)
		heap_free(s);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  start_routine routine, void *arg)
{
	struct start *s;
	int ret;

	if (!threads.create)
		threads.create = (__typeof__(threads.create))(uintptr_t)dlsym(
			RTLD_NEXT, "pthread_create");
	if (!threads.create)
		return EAGAIN;
	s = prepare(routine, arg, attr);
	if (!s)
		return EAGAIN;
	clear_stack_below();
	ret = threads.create(thread, attr, thread_begin, s);
	if (ret == EAGAIN && heap_make_room()) /* for its stack */
		ret = threads.create(thread, attr, thread_begin, s);
	clear_stack_below(); /* of the thread's handle */
	finish(s, ret == 0);
	return ret;
}

/* C11's. Its threads' functions return an int, in the same register as a pointer; libc
 * takes no more from there. */
EXPORT int thrd_create(thrd_t *thread, thrd_start_t routine, void *arg)
{
	struct start *s;
	int ret;

	if (!threads.create_c11)
		threads.create_c11 = (__typeof__(threads.create_c11))(uintptr_t)dlsym(
			RTLD_NEXT, "thrd_create");
	if (!threads.create_c11)
		return thrd_error;
	s = prepare((start_routine)(uintptr_t)routine, arg, NULL);
	if (!s)
		return thrd_nomem;
	clear_stack_below();
	ret = threads.create_c11(thread, (thrd_start_t)(uintptr_t)thread_begin, s);
	if ((ret == thrd_nomem || ret == thrd_error) && heap_make_room())
		ret = threads.create_c11(thread, (thrd_start_t)(uintptr_t)thread_begin,
					 s);
	clear_stack_below();
	finish(s, ret == thrd_success);
	return ret;
}

void thread_api_init(void)
{
	if (pthread_key_create(&threads.key, thread_end) == 0)
		threads.has_key = true;
	heap_hooks.thread_start = arm_late;
	arm_late();
}
