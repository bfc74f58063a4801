/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcache: a thread's own free slots: per size class an array of pointers, popped by
 * malloc and pushed by free. The functions inline here are the fast path; they touch the
 * bin, the array's top and, in malloc, the byte budget, and nothing of the object itself.
 *
 * Structure of a bin: base <= top <= limit; base[-1] is always NULL, so that top[-1] may
 * be read for any top. In the empty mcache, which every thread starts with, all three are
 * NULL: nothing can be popped and nothing pushed, so the slow path runs.
 *
 * Concurrency: owner only. With all heap locks held and the owner stopped, others may
 * read base and top: a push stores the pointer before it moves top.
 */
#ifndef PRELOAD_HEAP_MCACHE_H
#define PRELOAD_HEAP_MCACHE_H

#include "preload/base/base.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/sizeclass.h"
#include "preload/heap/tls.h"

struct mcache_bin {
	void **top;   /* one past the newest free slot */
	void **limit; /* top may not pass it: base + room in use */
	void **base;
	uint32_t room;	   /* limit - base; grows up to the class's cache_max */
	uint32_t room_max; /* what the array has space for */
};

struct mcache {
	int64_t budget; /* bytes until the next sample; negative: sample now */
	struct mcache_bin bins[SIZECLASS_COUNT];
	struct mcache *next, *prev; /* all mcaches in use; guarded by mcache_lock */
	uint64_t nrefill, nflush;   /* owner only */
	uint32_t tick; /* owner only: slow calls since the last mheap_tick() */
};

/* Read-only by convention: looks empty to malloc and full to free. */
extern struct mcache mcache_empty;
extern struct lock mcache_lock;

/* FAST. The calling thread's mcache; mcache_empty in a thread that has none. */
ALWAYS_INLINE struct mcache *mcache_self(void)
{
	return (struct mcache *)((uintptr_t)&mcache_empty + seep_tls.cache_offset);
}

/* FAST. heap_malloc: size bytes, or NULL when memory is out. */
ALWAYS_INLINE void *heap_malloc(size_t size)
{
	struct mcache *mc = mcache_self();
	struct mcache_bin *bin;
	void **top;

	if (LIKELY(size <= SIZECLASS_FINE_MAX))
		bin = &mc->bins[sizeclass_fine[(size + 15) >> 4]];
	else if (LIKELY(size <= SIZECLASS_MAX_SIZE))
		bin = &mc->bins[sizeclass_coarse[(size + 127) >> 7]];
	else
		return heap_malloc_slow(size);
	top = bin->top;
	if (LIKELY(top != bin->base) && LIKELY((mc->budget -= (int64_t)size) >= 0)) {
		bin->top = top - 1;
		return top[-1];
	}
	return heap_malloc_slow(size);
}

/* FAST. heap_free: any p, also NULL and foreign. */
ALWAYS_INLINE void heap_free(void *p)
{
	struct mcache *mc = mcache_self();
	uintptr_t base = arena_fast.base;
	uintptr_t offset = (uintptr_t)p - base;

	if (LIKELY(offset < arena_fast.size)) {
		struct mcache_bin *bin =
			&mc->bins[((const uint8_t *)base)[offset >> PAGE_SHIFT]];
		void **top = bin->top;

		if (LIKELY(top != bin->limit) && LIKELY(top[-1] != p)) {
			*top = p;
			bin->top = top + 1;
			return;
		}
	}
	heap_free_slow(p);
}

/* SLOW. Moves a batch into an empty bin; false: memory is out. */
bool mcache_refill(struct mcache *mc, unsigned sizeclass);
/* SLOW. Makes room for at least one more pointer in a full bin. */
void mcache_flush(struct mcache *mc, unsigned sizeclass);
/* SLOW. Everything back to mcentral. */
void mcache_empty_out(struct mcache *mc);
struct mcache *mcache_new(void);	/* NULL: memory is out */
void mcache_release(struct mcache *mc); /* emptied; kept for the next thread */

/* With mcache_lock held. */
struct mcache *mcache_list(void);
/* forked child: gives up every mcache but keep, emptying it. Locks are reset already. */
void mcache_reap_others(struct mcache *keep);

#endif
