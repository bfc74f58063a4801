/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock: the classic three-state futex mutex, after a short spin. Debug builds keep, per
 * thread, a mask of the ranks held.
 *
 * A thread that forks holds every lock while fork handlers of the program and its
 * libraries run, before ours have let go; those may allocate. For that thread, and until
 * lock_fork_end(), locks are its own already: taking and giving them back does nothing.
 */
#include "preload/base/lock.h"

#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/base/os.h"

#define SPINS                                                                     \
	60 /* about a microsecond: longer than any of our short critical sections \
	    */

static void (*when_free)(uint64_t arg); /* the same for all threads */

/* Locks that the thread holds or is about to. */
static __thread struct {
	uint64_t arg; /* of when_free */
	uint32_t held_count;
	bool waits; /* when_free(arg) is to be called */
} own __attribute__((tls_model("initial-exec")));

static struct {
	uintptr_t owner; /* atomic: thread pointer of the thread that forks, else 0 */
} forking;

static inline bool is_forking(void)
{
	uintptr_t owner = atomic_load_relaxed(&forking.owner);

	return UNLIKELY(owner != 0) && owner == (uintptr_t)__builtin_thread_pointer();
}

void lock_fork_begin(void)
{
	atomic_store_relaxed(&forking.owner, (uintptr_t)__builtin_thread_pointer());
}

void lock_fork_end(void)
{
	atomic_store_relaxed(&forking.owner, (uintptr_t)0);
}

#if CONFIG_ASSERTIONS >= 1
static __thread uint32_t held_ranks __attribute__((tls_model("initial-exec")));

static void note_acquire(const struct lock *l, bool nested)
{
	uint32_t above = held_ranks >> l->rank;

	if (nested)
		above &= ~1u;
	if (above != 0)
		fatal("lock order: rank %u acquired with ranks %#x held",
		      (unsigned)l->rank, (unsigned)held_ranks);
	held_ranks |= 1u << l->rank;
}

static void note_release(const struct lock *l)
{
	held_ranks &= ~(1u << l->rank);
}
#else
static void note_acquire(const struct lock *l, bool nested)
{
	(void)l;
	(void)nested;
}

static void note_release(const struct lock *l)
{
	(void)l;
}
#endif

static COLD void run_waiting(void)
{
	own.waits = false;
	when_free(own.arg);
}

/* One lock less is held. A signal that comes after the count is not put off. */
static void count_release(void)
{
	atomic_signal_barrier();
	if (--own.held_count == 0) {
		atomic_signal_barrier();
		if (UNLIKELY(own.waits))
			run_waiting();
	}
}

static COLD void wait_for(struct lock *l)
{
	for (int i = 0; i < SPINS; i++) {
		uint32_t expected = 0;

		if (atomic_load_relaxed(&l->state) == 0 &&
		    atomic_cas_acquire(&l->state, &expected, 1u))
			return;
		__builtin_ia32_pause();
	}
	while (atomic_exchange_acquire(&l->state, 2u) != 0)
		os_futex_wait(&l->state, 2, 0);
}

/* Counted first: a signal from here on is put off. */
static void take(struct lock *l, bool nested)
{
	uint32_t expected = 0;

	own.held_count++;
	atomic_signal_barrier();
	note_acquire(l, nested);
	if (!atomic_cas_acquire(&l->state, &expected, 1u))
		wait_for(l);
}

NO_LOCK_CHECK void lock_acquire(struct lock *l)
{
	if (is_forking())
		return;
	take(l, false);
}

NO_LOCK_CHECK void lock_acquire_nested(struct lock *l)
{
	if (is_forking())
		return;
	take(l, true);
}

bool lock_try_acquire(struct lock *l)
{
	uint32_t expected = 0;

	if (is_forking())
		return true;
	own.held_count++;
	atomic_signal_barrier();
	if (!atomic_cas_acquire(&l->state, &expected, 1u)) {
		count_release();
		return false;
	}
	note_acquire(l, true);
	return true;
}

void lock_when_free(void (*fn)(uint64_t arg), uint64_t arg)
{
	when_free = fn;
	own.arg = arg;
	atomic_signal_barrier();
	own.waits = true;
}

NO_LOCK_CHECK void lock_release(struct lock *l)
{
	if (is_forking())
		return;
	note_release(l);
	if (atomic_exchange_release(&l->state, 0u) == 2)
		os_futex_wake(&l->state, 1);
	count_release();
}

void lock_reset(struct lock *l)
{
	atomic_store_release(&l->state, 0u);
}

bool lock_is_held(const struct lock *l)
{
	return atomic_load_relaxed(&l->state) != 0;
}

#if CONFIG_ASSERTIONS >= 1
void lock_assert_none(void)
{
	/* The ranks up to PROFILE are held over whole reports, which may allocate. */
	if (held_ranks >> LOCK_RANK_THREAD != 0 && !is_forking())
		fatal("a thread holding ranks %#x entered the allocator",
		      (unsigned)held_ranks);
}
#endif

bool lock_any_held(void)
{
	return own.held_count != 0;
}

void lock_forget_held(void)
{
	own.held_count = 0;
	if (own.waits)
		run_waiting();
#if CONFIG_ASSERTIONS >= 1
	held_ranks = 0;
#endif
}
