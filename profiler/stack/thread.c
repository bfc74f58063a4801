/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread: the registry, see thread.h.
 *
 * Concurrency: the list is guarded by one lock. A thread reads its own entry without it,
 * through seep_tls.thread. Entries of finished threads are reused for the next thread on
 * the same stack, and the oldest goes when there are too many.
 */
#include "profiler/stack/thread.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>

#include "preload/base/filter.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/tls.h"
#include "profiler/stack/creator.h"
#include "profiler/stack/unwind.h"

#define MAIN_STACK_MAX (64 * GIB)
#define FINISHED_MAX   4096 /* finished threads that are remembered */

static struct {
	struct lock lock;
	struct fixalloc pool;	  /* guarded by lock */
	struct thread_info *list; /* newest first; guarded by lock */
	uint32_t nfinished;	  /* guarded by lock */
	uint32_t serials;	  /* numbers given out; atomic */
	bool has_main;		  /* the main thread is registered; atomic, one way */
	/* In libc's descriptor; 0: not found; atomic. */
	uint32_t tid_at;   /* in ints */
	uint32_t stack_at; /* in words: the stack's block, its size, its guard's size */
} registry = { .lock = LOCK_INIT(LOCK_RANK_THREAD),
	       .pool = FIXALLOC_INIT(sizeof(struct thread_info), META_THREAD) };

bool thread_are_many;

uint32_t thread_serial(void)
{
	if (UNLIKELY(seep_tls.serial == 0))
		seep_tls.serial = atomic_add_relaxed(&registry.serials, 1u);
	return seep_tls.serial;
}

void thread_become_many(void)
{
	if (!atomic_load_relaxed(&thread_are_many))
		atomic_store_release(&thread_are_many, true);
}

/* The main thread's stack: glibc would read /proc/self/maps. The kernel puts the name of
 * the program at the very top, with a NULL word above it, and no mapping into the space
 * that RLIMIT_STACK lets the stack grow into. False: not found. */
static bool find_main_stack(struct thread_info *t)
{
	const char *name = (const char *)getauxval(AT_EXECFN);
	struct rlimit limit;
	size_t room = MAIN_STACK_MAX;
	uintptr_t hi;

	if (!name || os_call(SYS_prlimit64, 0, RLIMIT_STACK, 0, (long)&limit, 0, 0) != 0)
		return false;
	hi = align_up((uintptr_t)name + strlen(name) + 1 + sizeof(void *), OS_PAGE);
	if (limit.rlim_cur < room)
		room = align_up(limit.rlim_cur, OS_PAGE);
	t->stack_lo = room < hi ? hi - room : OS_PAGE;
	t->stack_hi = hi;
	return (uintptr_t)&limit >= t->stack_lo && (uintptr_t)&limit < hi;
}

#define DESCRIPTOR_WORDS (THREAD_DESCRIPTOR_BYTES / sizeof(uintptr_t))

/* By what libc's descriptor holds at that word. False: it makes no sense. */
static bool read_stack(struct thread_info *t, uint32_t at)
{
	const uintptr_t *word = (const uintptr_t *)t->self + at;
	uintptr_t lo = word[0] + word[2], hi = word[0] + word[1];

	if ((uintptr_t)&lo < lo || (uintptr_t)&lo >= hi || t->self < lo || t->self >= hi)
		return false;
	t->stack_lo = lo;
	t->stack_hi = hi;
	return true;
}

/* Where is it in the descriptor of t, whose stack is known? */
static void learn_stack(const struct thread_info *t)
{
	for (uint32_t i = 1; i < DESCRIPTOR_WORDS - 2; i++) {
		struct thread_info same = *t;

		if (read_stack(&same, i) && same.stack_lo == t->stack_lo &&
		    same.stack_hi == t->stack_hi) {
			atomic_store_relaxed(&registry.stack_at, i);
			return;
		}
	}
}

/* Where libc may not ask for the set of processors: the only place in the descriptor
 * that could be it, a stack of whole pages. */
static void guess_stack(struct thread_info *t)
{
	const uintptr_t *word = (const uintptr_t *)t->self;
	uint32_t found = 0;

	for (uint32_t i = 1; i < DESCRIPTOR_WORDS - 2; i++) {
		struct thread_info guess = *t;

		if ((word[i] | word[i + 1] | word[i + 2]) % OS_PAGE != 0 ||
		    word[i + 2] >= word[i + 1] || !read_stack(&guess, i))
			continue;
		if (found)
			return;
		found = i;
	}
	if (found && read_stack(t, found))
		atomic_store_relaxed(&registry.stack_at, found);
}

/* libc would make a system call and two objects, for the set of processors. */
static void find_stack(struct thread_info *t, bool is_main)
{
	uint32_t at = atomic_load_relaxed(&registry.stack_at);
	pthread_attr_t attr;
	void *addr;
	size_t size;

	if (is_main ? find_main_stack(t) : at && read_stack(t, at))
		return;
	if (!is_main && filter_from_before()) {
		guess_stack(t);
		return;
	}
	if (pthread_getattr_np(pthread_self(), &attr) != 0)
		return;
	if (pthread_attr_getstack(&attr, &addr, &size) == 0) {
		t->stack_lo = (uintptr_t)addr;
		t->stack_hi = (uintptr_t)addr + size;
		if (!is_main && !at)
			learn_stack(t);
	}
	pthread_attr_destroy(&attr);
}

/* Its stack and its descriptor are nobody else's afterwards. */
static bool is_main_thread(const struct thread_info *t)
{
	return t->tid == os_getpid();
}

/* Takes the entry of a finished thread whose stack this one has inherited, or the oldest
 * finished one when there are many. NULL: none. Needs the lock. */
static struct thread_info *reuse(const struct thread_info *fresh)
{
	struct thread_info *oldest = NULL, *oldest_leaked = NULL;
	const int main_tid = os_getpid();

	for (struct thread_info *t = registry.list; t; t = t->next) {
		if (t->state != THREAD_FINISHED || t->tid == main_tid)
			continue;
		if (t->stack_lo < fresh->stack_hi && fresh->stack_lo < t->stack_hi)
			return t;
		if (t->released)
			oldest = t;
		else
			oldest_leaked = t;
	}
	if (registry.nfinished < FINISHED_MAX)
		return NULL;
	return oldest ? oldest : oldest_leaked;
}

/* Needs the lock. A new entry in the list; NULL: no memory. */
static struct thread_info *add_entry(const struct thread_info *fresh)
{
	struct thread_info *t = fixalloc_get(&registry.pool);

	if (t) {
		*t = *fresh;
		t->next = registry.list;
		registry.list = t;
	}
	return t;
}

static struct thread_info *find_announced(uintptr_t self)
{
	for (struct thread_info *t = registry.list; t; t = t->next)
		if (t->state == THREAD_ANNOUNCED && t->self == self)
			return t;
	return NULL;
}

/* libc's descriptor holds the kernel's id; -1 when the thread has been joined. An id that
 * is there twice, small or like half an address, is left to the next thread. */
static void find_tid(const struct thread_info *t)
{
	const int *word = (const int *)t->self;
	uint32_t at = 0;

	for (uint32_t i = 1; i < THREAD_DESCRIPTOR_BYTES / sizeof(int); i++) {
		if (word[i] != t->tid)
			continue;
		if (at)
			return;
		at = i;
	}
	if (at)
		atomic_store_relaxed(&registry.tid_at, at);
}

/* The kernel clears the id of a thread that is gone; who joins it then writes -1. */
bool thread_is_given_back(const struct thread_info *t)
{
	uint32_t at = atomic_load_relaxed(&registry.tid_at);
	int id = at && t->released ? ((const int *)t->self)[at] : 1;

	return id == -1 || (id == 0 && t->detached);
}

void thread_set_signal_stack(uintptr_t lo)
{
	struct thread_info *t = seep_tls.thread;

	if (t)
		atomic_store_relaxed(&t->signal_stack, lo);
}

/* libc has asked the kernel already. */
static int own_tid(void)
{
	uint32_t at = atomic_load_relaxed(&registry.tid_at);

	return at ? ((const int *)pthread_self())[at] : os_gettid();
}

struct thread_info *thread_register(uint32_t creator_site, bool detached)
{
	struct thread_info fresh = { .tid = own_tid(),
				     .self = (uintptr_t)pthread_self(),
				     .creator_site = creator_site,
				     .released = detached,
				     .detached = detached,
				     .started_ns = os_now_ns() };
	struct thread_info *t, *announced;
	bool is_main =
		!atomic_load_relaxed(&registry.has_main) && fresh.tid == os_getpid();

	if (is_main)
		atomic_store_relaxed(&registry.has_main, true);
	find_stack(&fresh, is_main);
	if (!is_main && atomic_load_relaxed(&registry.tid_at) == 0)
		find_tid(&fresh);
	lock_acquire(&registry.lock);
	announced = find_announced(fresh.self);
	fresh.released |= announced && announced->released;
	fresh.detached |= announced && announced->detached;
	t = announced ? announced : reuse(&fresh);
	if (!is_main)
		fresh.creator = creator_thread_begins(creator_site, fresh.started_ns);
	if (t) {
		registry.nfinished -= t->state == THREAD_FINISHED;
		fresh.next = t->next;
		*t = fresh;
	} else {
		t = add_entry(&fresh);
	}
	lock_release(&registry.lock);
	seep_tls.thread = t;
	return t;
}

/* Needs the lock. */
static void note_end(struct thread_info *t)
{
	t->state = THREAD_FINISHED;
	registry.nfinished++;
	if (t->creator)
		creator_thread_ends(t->creator, os_now_ns());
	t->creator = NULL;
}

void thread_finished(void)
{
	struct thread_info *t = seep_tls.thread;

	unwind_thread_end();
	if (!t)
		return;
	seep_tls.thread = NULL;
	lock_acquire(&registry.lock);
	note_end(t);
	lock_release(&registry.lock);
}

/* Needs the lock. The entry of a finished thread becomes that of its heir. */
static void announce(struct thread_info *t, const struct thread_info *announced)
{
	struct thread_info *next = t->next;

	*t = *announced;
	t->next = next;
	registry.nfinished--;
}

static void set_end(uintptr_t self, bool released, bool detached)
{
	const struct thread_info announced = { .self = self,
					       .state = THREAD_ANNOUNCED,
					       .released = released,
					       .detached = detached };
	struct thread_info *t;

	lock_acquire(&registry.lock);
	for (t = registry.list; t; t = t->next)
		if (t->self == self)
			break;
	if (!t) {
		add_entry(&announced);
	} else if (t->state != THREAD_FINISHED || !t->released || is_main_thread(t)) {
		t->released = released;
		t->detached = detached;
	} else { /* another has its descriptor now, and so its stack */
		announce(t, &announced);
	}
	lock_release(&registry.lock);
}

void thread_set_released(uintptr_t self, bool released)
{
	set_end(self, released, false);
}

void thread_set_detached(uintptr_t self)
{
	set_end(self, true, true);
}

void thread_init(void)
{
	if (!seep_tls.thread)
		thread_register(0, true); /* nobody joins the main thread */
}

NO_LOCK_CHECK void thread_lock(void)
{
	lock_acquire(&registry.lock);
}

NO_LOCK_CHECK bool thread_try_lock(void)
{
	return lock_try_acquire(&registry.lock);
}

NO_LOCK_CHECK void thread_unlock(void)
{
	lock_release(&registry.lock);
}

struct thread_info *thread_list(void)
{
	return registry.list;
}

void thread_fork_prepare(void)
{
	thread_lock();
}

void thread_fork_done(bool child)
{
	struct thread_info *own = seep_tls.thread;

	if (!child) {
		thread_unlock();
		return;
	}
	lock_reset(&registry.lock);
	for (struct thread_info *t = registry.list; t; t = t->next) {
		if (t != own && t->state == THREAD_RUNNING)
			note_end(t);
		if (t != own)
			t->released = true; /* only the parent can join it */
	}
	if (own)
		own->tid = os_gettid();
}

void thread_internal_enter(void)
{
	seep_tls.internal++;
}

void thread_internal_leave(void)
{
	seep_tls.internal--;
}
