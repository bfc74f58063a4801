/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcache: a thread's own free slots: per size class an array of pointers, popped by
 * malloc and pushed by free. The functions inline here are the fast path; they touch the
 * class's top and limit, the array's top and, in malloc, the byte budget and the size
 * table, and nothing of the object itself.
 *
 * Structure of a class's bin: base <= top <= limit; base[-1] and base[-2] are always
 * NULL. It lies in one of two arrays: top tells in which, so that whoever reads top once
 * knows base as well. malloc sees that a bin is empty by the NULL below its top; free
 * compares p with the two pointers below, so that a double free is named at once when at
 * most one other object of the class was freed in between. Tops and limits lie in arrays
 * of their own: a mixed load touches a third of the cache lines that one struct a class
 * would take.
 *
 * In the empty mcache, which every thread starts with, nothing can be popped (its table
 * maps each size to class 0, whose bin is always empty) and nothing pushed (every top is
 * its limit), so the slow path runs.
 *
 * Concurrency: owner only, but for tops, which others may read: a push stores the pointer
 * before it moves top. A bin goes over to its other array under mcache_lock, top and
 * limit together, when the pointers are there.
 */
#ifndef PRELOAD_HEAP_MCACHE_H
#define PRELOAD_HEAP_MCACHE_H

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/lcache.h"
#include "preload/heap/sizeclass.h"
#include "preload/heap/tls.h"

#define MCACHE_BELOW 2 /* NULL words in front of each array */

struct mcache {
	int64_t budget; /* bytes until the next sample; negative: sample now */
	void **top[SIZECLASS_COUNT];   /* one past the newest free slot */
	void **limit[SIZECLASS_COUNT]; /* top may not pass it: base + room in use */
	/* Copies of sizeclass_fine and sizeclass_coarse: one address less to form. */
	uint8_t fine[SIZECLASS_FINE_MAX / 16 + 1];
	uint8_t coarse[SIZECLASS_MAX_SIZE / 128 + 1];
	struct lcache large; /* owner only */
	/* Of profiler/sample, owner only: random numbers, 0: none yet; the next budget.
	 */
	uint64_t random;
	double variate;
	uint64_t share_objects, share_bytes, share_check; /* the same: see draw.h */
	uint64_t coin;	   /* the same, for what is tossed; 0: not yet */
	void *sampled;	   /* the same: recorded last */
	uint32_t nsampled; /* the same: objects, beside other threads */
	/* What follows is for slow paths. */
	struct mcache *next, *prev; /* all mcaches in use; guarded by mcache_lock */
	uint64_t nrefill, nflush;   /* owner only */
	size_t argument;	    /* owner only: see mcache_note_argument() */
	uint32_t tick;		    /* owner only: slow calls so far */
	uint64_t tick_ns;	    /* owner only: time of the last look around */
	/* Owner only: of the budget, what is held back; bytes that it is given in one
	 * part; time of the last part. See mcache_take_back(). */
	int64_t later, part;
	uint64_t part_ns;
	bool hurry;	      /* owner only: many pages lie idle */
	uint32_t decay_class; /* owner only: looked at last by decay_bin() */
	uint32_t big_class;   /* owner only: the same of big slots */
	uint32_t nbig;	      /* owner only: see is_big_due() */
	uint32_t growths;     /* owner only: mheap_growths() when last seen */
	void *interruption;   /* owner only, of preload/api/signal.c */
	/* Owner only: what heap_thread_push() put this one in the place of; NULL: none.
	 */
	struct mcache *below;
	uint16_t decay_count[SIZECLASS_COUNT]; /* owner only: pointers seen then */
	uint16_t last_room[SIZECLASS_COUNT];   /* of the thread that had it before */
	/* Owner only, see mcache_room.c: bytes from the pool; bytes of slots for which
	 * there is room; those moved from and to mcentral. */
	int64_t granted, charged;
	uint64_t moved;
	bool limited; /* owner only: there was no room when it was wanted */
};

/* Where a class's arrays begin, in words from the struct's beginning, and how long the
 * short one is. The same in each mcache. */
struct mcache_arrays {
	uint16_t brief, lasting, brief_room;
};
extern struct mcache_arrays mcache_arrays[SIZECLASS_COUNT] HIDDEN;

/* Read-only by convention: looks empty to malloc and full to free. */
extern struct mcache mcache_empty;
extern struct lock mcache_lock;

/* FAST. The calling thread's mcache; mcache_empty in a thread that has none. */
ALWAYS_INLINE struct mcache *mcache_self(void)
{
	return (struct mcache *)((uintptr_t)&mcache_empty + seep_tls.cache_offset);
}

/* FAST. A slot of class c, charged with size bytes; NULL: none there, or time to sample.
 */
ALWAYS_INLINE void *mcache_pop(struct mcache *mc, unsigned c, size_t size)
{
	void **top = mc->top[c];
	void *p = top[-1];

	if (UNLIKELY(!p) || UNLIKELY((mc->budget -= (int64_t)size) < 0))
		return NULL;
	mc->top[c] = top - 1;
	return p;
}

/* FAST. size bytes from the calling thread's mcache; NULL: heap_malloc_slow() must do it.
 */
ALWAYS_INLINE void *heap_malloc_fast(size_t size)
{
	struct mcache *mc = mcache_self();

	if (LIKELY(size <= SIZECLASS_FINE_MAX))
		return mcache_pop(mc, mc->fine[(size + 15) >> 4], size);
	if (LIKELY(size <= SIZECLASS_MAX_SIZE))
		return mcache_pop(mc, mc->coarse[(size + 127) >> 7], size);
	return NULL;
}

/* FAST. s, of mc's lcache, becomes an object of size bytes. */
ALWAYS_INLINE void *mcache_give_large(struct mcache *mc, struct mspan *s, size_t size)
{
	void *p = (void *)s->base;

	s->size_asked = size;
	FORGET(p); /* where a leak check finds it from now on */
	mspan_set_live(s, true);
	mc->budget -= (int64_t)size;
	return LIKELY(mc->budget >= 0) ? p : heap_sample_large(s, size);
}

/* FAST. size bytes, more than SIZECLASS_MAX_SIZE, from the thread's lcache, for
 * mcache_give_large(); NULL: heap_malloc_large_slow() must do it. */
ALWAYS_INLINE struct mspan *mcache_take_large(struct mcache *mc, size_t size)
{
	if (UNLIKELY(size > LCACHE_PAGES << PAGE_SHIFT))
		return NULL;
	/* One page more than LCACHE_PAGES, with the padding, is found nowhere. */
	return lcache_take(&mc->large,
			   (size + heap_padding + PAGE_SIZE - 1) >> PAGE_SHIFT);
}

/* FAST. The same, from wherever; NULL when memory is out. */
ALWAYS_INLINE void *heap_malloc_large(size_t size)
{
	struct mcache *mc = mcache_self();
	struct mspan *s = mcache_take_large(mc, size);

	return LIKELY(s != NULL) ? mcache_give_large(mc, s, size)
				 : heap_malloc_large_slow(size);
}

/* FAST. The same on a multiple of align, a power of two; NULL: heap_memalign_slow(). */
ALWAYS_INLINE void *heap_memalign_fast(size_t align, size_t size)
{
	struct mcache *mc = mcache_self();
	size_t need; /* see sizeclass_of_aligned() */

	if (UNLIKELY(size > SIZECLASS_FINE_MAX) || UNLIKELY(align > SIZECLASS_FINE_MAX))
		return NULL;
	need = align_up(size + (size == 0), align);
	if (UNLIKELY(need > SIZECLASS_FINE_MAX))
		return NULL;
	return mcache_pop(mc, mc->fine[(need + 15) >> 4], size);
}

/* FAST. size bytes, or NULL when memory is out. */
ALWAYS_INLINE void *heap_malloc(size_t size)
{
	void *p = heap_malloc_fast(size);

	return LIKELY(p != NULL) ? p : heap_malloc_slow(size);
}

/* FAST. size bytes on a multiple of align, a power of two; NULL: memory is out. */
ALWAYS_INLINE void *heap_memalign(size_t align, size_t size)
{
	void *p = heap_memalign_fast(align, size);

	return LIKELY(p != NULL) ? p : heap_memalign_slow(align, size);
}

/* FAST. heap_free: any p, also NULL and foreign. A pointer that is no multiple of 16
 * fails the range check, since its low bits are rotated to the top. */
ALWAYS_INLINE void heap_free(void *p)
{
	const uint8_t *classes = (const uint8_t *)arena_fast.base;
	uintptr_t offset = (uintptr_t)p - arena_fast.base;
	uintptr_t units = offset >> 4 | offset << 60;

	if (LIKELY(units < arena_fast.units)) {
		size_t page = units >> (PAGE_SHIFT - 4);
		uintptr_t c = atomic_load_relaxed(&classes[page]);
		struct mcache *mc = mcache_self();
		void **top = mc->top[c];

		FORGET(c);
		if (LIKELY(top != mc->limit[c]) && LIKELY(top[-1] != p) &&
		    LIKELY(top[-2] != p)) {
			*top = p;
			/* In this order, for mcache_any_holds(). */
			__asm__("" : "+r"(c) : "m"(*top));
			mc->top[c] = top + 1;
			return;
		}
		if (c == 0) {
			heap_free_unclassed(p, page);
			return;
		}
	}
	heap_free_slow(p);
}

/* FAST. Where the array begins that this top of class c, not 0, is in. */
static inline void **mcache_base_of(const struct mcache *mc, unsigned c, void **top)
{
	void **words = (void **)(uintptr_t)mc;
	void **lasting = words + mcache_arrays[c].lasting;

	return top >= lasting ? lasting : words + mcache_arrays[c].brief;
}

static inline void **mcache_base(const struct mcache *mc, unsigned c)
{
	return mcache_base_of(mc, c, mc->top[c]);
}

/* FAST. Pointers in a class's array, and how many there may be now. */
static inline uint32_t mcache_count(const struct mcache *mc, unsigned c)
{
	return (uint32_t)(mc->top[c] - mcache_base(mc, c));
}

static inline uint32_t mcache_room(const struct mcache *mc, unsigned c)
{
	return (uint32_t)(mc->limit[c] - mcache_base(mc, c));
}

/* SLOW. Moves a batch into an empty bin; false: memory is out, or there may be no room.
 */
bool mcache_refill(struct mcache *mc, unsigned sizeclass);
/* SLOW. After that: one slot past the bin. NULL: memory is out. */
void *mcache_take_one(struct mcache *mc, unsigned sizeclass);
/* SLOW. p is the first object of its class that the thread frees, and it has made none:
 * another thread made p and its neighbours. Pushes p below a fresh slot, which is used
 * first, so that both threads do not write to one cache line; or p alone, where slots do
 * not share any; or gives p to mcentral, where there may be no room. False: nothing was
 * done. */
bool mcache_open(struct mcache *mc, unsigned sizeclass, void *p);
/* SLOW. Makes room for at least one more pointer, which is to be p, in a full bin. False:
 * there may be none, and p went to mcentral. */
bool mcache_flush(struct mcache *mc, unsigned sizeclass, void *p);
#define MCACHE_CLOCK_EVERY 4 /* slow calls between looks at the clock */
#define MCACHE_TICK_NS	   200000000u
/* SLOW. Every so many slow calls: if enough time has passed, idle memory is looked for.
 */
void mcache_look_around(struct mcache *mc);
/* SLOW. Called at every slow call. */
static inline void mcache_tick(struct mcache *mc)
{
	if (UNLIKELY(++mc->tick % MCACHE_CLOCK_EVERY == 0))
		mcache_look_around(mc);
}
/* SLOW. Called with each sample: a program that needs nothing but its mcache makes no
 * other slow calls, and these may be seconds apart. */
static inline void mcache_tick_sample(struct mcache *mc)
{
	mc->tick++;
	mcache_look_around(mc);
}
/* SLOW. As mcache_tick() where the time is known, for calls that would be slowed down by
 * looking around every so many. */
static inline void mcache_tick_at(struct mcache *mc, uint64_t now)
{
	if (UNLIKELY(now - mc->tick_ns >= MCACHE_TICK_NS))
		mcache_look_around(mc);
}
/* SLOW. The budget is spent, but for what was held back of it: a program that needs
 * nothing but its mcache looks around with its samples only, and where many pages lie
 * idle that is too seldom. So the budget comes in parts, as small as makes one in some
 * tenth of a second. True: it is not spent. */
bool mcache_take_back(struct mcache *mc);
#define MCACHE_CALLS_EVERY 256
/* SLOW. Called by each malloc where all of them are slow. */
static inline void mcache_tick_call(struct mcache *mc)
{
	if (UNLIKELY(++mc->tick % MCACHE_CALLS_EVERY == 0))
		mcache_tick_at(mc, os_coarse_ns());
}

/* SLOW. What the call that is being served was given beside the size: calloc's count, an
 * alignment; 0 afterwards. For whoever records the object, see mcache_argument(). */
static inline void mcache_note_argument(size_t argument)
{
	if (seep_tls.state == TLS_LIVE)
		mcache_self()->argument = argument;
}

/* FAST. 0: there is none, or it is not known. */
static inline size_t mcache_argument(void)
{
	return mcache_self()->argument;
}

/* SLOW. Everything back to mcentral. */
void mcache_empty_out(struct mcache *mc);
struct mcache *mcache_new(void); /* NULL: memory is out */
/* Emptied, with those below it; kept for the next thread. */
void mcache_release(struct mcache *mc);

/* Is p in the class's bin of any thread? Nobody else frees or allocates p meanwhile. */
bool mcache_any_holds(unsigned sizeclass, const void *p);

/* Names a pointer of the own mcache that is free twice, or no slot. */
void mcache_refuse_misused(const struct mcache *mc);

/* Did more than one thread allocate? Without the lock: a guess. */
bool mcache_are_several(void);

/* With mcache_lock held. */
struct mcache *mcache_list(void);
/* forked child: gives up every mcache but keep and those below it, emptying them. Locks
 * are reset already. */
void mcache_reap_others(const struct mcache *keep);

#endif
