/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock: futex mutexes with a rank. Ranks are acquired in ascending order; debug builds
 * check the order at every acquisition, per thread. A zeroed lock with its rank set is
 * free, so locks are constant-initialised and work before any constructor.
 */
#ifndef PRELOAD_BASE_LOCK_H
#define PRELOAD_BASE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__clang__)
#define CAPABILITY    __attribute__((capability("mutex")))
#define REQUIRES(l)   __attribute__((requires_capability(l)))
#define ACQUIRES(l)   __attribute__((acquire_capability(l)))
#define RELEASES(l)   __attribute__((release_capability(l)))
#define NO_LOCK_CHECK __attribute__((no_thread_safety_analysis))
#else
#define CAPABILITY
#define REQUIRES(l)
#define ACQUIRES(l)
#define RELEASES(l)
#define NO_LOCK_CHECK
#endif

/* In acquisition order. MCENTRAL locks (one per size class) count as one rank except in
 * lock_acquire_nested(), which fork and the leak check use to take them all. */
enum lock_rank {
	LOCK_RANK_NONE,
	LOCK_RANK_INIT,
	LOCK_RANK_FORK,
	LOCK_RANK_LEAK,
	LOCK_RANK_PROFILE,
	LOCK_RANK_ESCAPE,
	LOCK_RANK_THREAD,
	LOCK_RANK_MODULE,
	LOCK_RANK_SAMPLE,
	LOCK_RANK_SITE,
	LOCK_RANK_SITE_CHUNK,
	LOCK_RANK_STORE,
	LOCK_RANK_FALLBACK, /* the shared mcache of dying threads */
	LOCK_RANK_MCACHE,   /* list of all mcaches */
	LOCK_RANK_MCENTRAL,
	LOCK_RANK_MHEAP,
	LOCK_RANK_SAMPLE_POOL, /* inside mcentral: a span is released */
	LOCK_RANK_META,
	LOCK_RANK_OUTPUT,
	LOCK_RANK_COUNT
};

struct CAPABILITY lock {
	uint32_t state; /* 0 free, 1 held, 2 held and contended; atomic, all threads */
	uint32_t rank;	/* enum lock_rank, immutable; 0 without assertions */
};

/* All zero without assertions, so that big structs with a lock in them lie in .bss and
 * not, page by page as neighbours are read, in memory mapped from the file. */
#define LOCK_INIT(r)                                                  \
	{                                                             \
		.state = 0, .rank = CONFIG_ASSERTIONS >= 1 ? (r) : 0u \
	}

/* SLOW. Not recursive. lock_release() is called by the holder. */
void lock_acquire(struct lock *l) ACQUIRES(l);
void lock_acquire_nested(struct lock *l) ACQUIRES(l); /* same rank as one already held */
bool lock_try_acquire(struct lock *l) __attribute__((warn_unused_result));
void lock_release(struct lock *l) RELEASES(l);
/* In a forked child: makes a lock free whatever the parent's other threads held. */
void lock_reset(struct lock *l);
bool lock_is_held(const struct lock *l); /* by anybody */
/* Debug builds abort when the calling thread holds a lock of rank THREAD or later, inside
 * which the allocator must not be entered. Nothing otherwise. */
#if CONFIG_ASSERTIONS >= 1
void lock_assert_none(void);
#else
static inline void lock_assert_none(void)
{
}
#endif
/* The calling thread has taken every lock in order to fork: from here to lock_fork_end()
 * it acquires and releases nothing, since all is its own. Both also in the child. */
void lock_fork_begin(void);
void lock_fork_end(void);
/* In a forked child: the calling thread holds nothing any more. */
void lock_forget_held(void);
/* SIGNAL. Does the calling thread hold, or wait for, any lock of ours? If not, code that
 * interrupted it can take them all: other threads give them back. */
bool lock_any_held(void);
/* SIGNAL, in a thread that holds a lock. fn(arg) runs when it has released its last one.
 * One at a time: the signals that lead here are blocked in between. fn is always the
 * same. */
void lock_when_free(void (*fn)(uint64_t arg), uint64_t arg);

#endif
