/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena: address space for the heap, and what is known about each of its pages.
 *
 * Structure: see the drawing in heap.h. The first arena is reserved as large as the
 * system allows (halving until it fits) and serves the fast path; when it is full, or
 * where RLIMIT_AS keeps it small, further arenas of the same layout follow, which only
 * the slow path knows; a very large object has one to itself there.
 *
 * Concurrency: everything is written under mheap's lock, but for the span pointers of
 * pages that a thread keeps in its lcache: the thread's. Class bytes and span pointers
 * are read without it: the page of a live object has a stable entry, and a span's fields
 * are set before its pointers are published (release). A further arena's slot is used
 * again after its release, so who looks an address up there reads the slot's version
 * before and after: what changes meanwhile is not the arena of a live object.
 */
#ifndef PRELOAD_HEAP_ARENA_H
#define PRELOAD_HEAP_ARENA_H

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/heap/mspan.h"

#define ARENA_MAX 128 /* arenas of one process */

struct arena {
	uintptr_t base;	      /* also the address of the class bytes; atomic */
	size_t size;	      /* reserved bytes; 0: released, slot to be reused; atomic */
	size_t npages;	      /* pages of [base, base+size), tables included */
	struct mspan **spans; /* by page index */
	size_t first_page;    /* of the heap proper */
	uintptr_t start;      /* its address; immutable once in use; atomic */
	size_t end_page;    /* committed up to here; atomic: written under mheap's lock */
	size_t classes_end; /* class bytes writable up to here, bytes */
	size_t spans_end;   /* span pointers usable up to here, bytes */
	bool single;	    /* made for one large object, which has all its pages */
	uint32_t version;   /* atomic; odd: being filled */
};

/* What free() needs, on one cache line. Zero: no arena yet, nothing is ours. */
struct arena_fast {
	uintptr_t base;
	size_t size;
	size_t units; /* size / 16, or 0: every free takes the slow path */
};
HIDDEN extern struct arena_fast arena_fast;

/* All arenas made so far. */
size_t arena_count(void);
struct arena *arena_at(size_t i);
/* arena_of() for an address outside the first arena. */
struct arena *arena_of_further(uintptr_t addr);
HIDDEN extern struct arena arena_first;

/* FAST. The arena among whose pages (not its tables) addr lies, or NULL. */
static inline struct arena *arena_of(uintptr_t addr)
{
	if (LIKELY(addr - arena_fast.base < arena_fast.size) &&
	    LIKELY(addr >= arena_first.start))
		return &arena_first;
	return arena_of_further(addr);
}

/* What pages are wanted for: objects that fill theirs, or such as have pages of their
 * own. */
enum arena_for { ARENA_FOR_SMALL, ARENA_FOR_LARGE };

/* SLOW, needs mheap's lock. Adds at least npages of fresh zero pages at the end of an
 * arena, making a new one if need be. Returns their address and how many in *out_npages;
 * 0 when memory is out. */
uintptr_t arena_grow(size_t npages, enum arena_for what, size_t *out_npages);

/* SLOW, needs mheap's lock. From now on free() may take its fast path. */
void arena_allow_fast(void);

/* The arena of the fast path is never released, nor single. */
bool arena_is_first(const struct arena *a);
/* SLOW, needs mheap's lock. Gives the address space back of an arena that holds nothing
 * and has no run in the free lists. */
void arena_release(struct arena *a);

/* SLOW, needs mheap's lock. a is single and fresh: its heap begins at start. */
void arena_start_at(struct arena *a, uintptr_t start);
/* SLOW, needs mheap's lock. a is single: it shall have npages. False: it has no room, or
 * memory is out. */
bool arena_resize_single(struct arena *a, size_t npages);

/* FAST. addr lies in a, below its end_page. */
static inline size_t arena_page(const struct arena *a, uintptr_t addr)
{
	return (addr - a->base) >> PAGE_SHIFT;
}

/* FAST. The class byte of addr's page. */
static inline uint8_t *arena_class(const struct arena *a, uintptr_t addr)
{
	return (uint8_t *)(a->base + arena_page(a, addr));
}

/* FAST. The span pointer of addr's page: NULL or possibly stale, so check its bounds. */
static inline struct mspan *arena_span(const struct arena *a, uintptr_t addr)
{
	size_t page = arena_page(a, addr);

	if (page < a->first_page || page >= atomic_load_acquire(&a->end_page))
		return NULL;
	return atomic_load_acquire(&a->spans[page]);
}

/* FAST. The span of p, an object that the caller holds. */
static inline struct mspan *arena_span_of(const void *p)
{
	uintptr_t offset = (uintptr_t)p - arena_fast.base;

	if (LIKELY(offset < arena_fast.size))
		return atomic_load_relaxed(&arena_first.spans[offset >> PAGE_SHIFT]);
	return arena_span(arena_of_further((uintptr_t)p), (uintptr_t)p);
}

/* FAST. The class byte of the page of p, an object that the caller holds. */
static inline void arena_set_page(const void *p, uint8_t sizeclass)
{
	uintptr_t offset = (uintptr_t)p - arena_fast.base;
	uint8_t *where =
		LIKELY(offset < arena_fast.size)
			? (uint8_t *)arena_fast.base + (offset >> PAGE_SHIFT)
			: arena_class(arena_of_further((uintptr_t)p), (uintptr_t)p);

	atomic_store_release(where, sizeclass);
}

/* FAST. Where the span pointer of addr's page is; addr lies in an arena. */
static inline struct mspan **arena_span_place(uintptr_t addr)
{
	const struct arena *a = &arena_first;

	if (UNLIKELY(addr - arena_fast.base >= arena_fast.size))
		a = arena_of_further(addr);
	return &a->spans[arena_page(a, addr)];
}

/* FAST, needs mheap's lock, or for a large span its owner. Points the first page of s, or
 * the last, to it. */
static inline void arena_set_first(struct mspan *s)
{
	atomic_store_release(arena_span_place(s->base), s);
}

static inline void arena_set_last(struct mspan *s)
{
	atomic_store_release(arena_span_place(s->base + ((s->npages - 1) << PAGE_SHIFT)),
			     s);
}

/* SLOW; needs mheap_lock, or to be the large span's owner. Points the first and last page
 * (all: every page) to s. */
void arena_set_span(const struct mspan *where, struct mspan *s, bool all);
/* Sets the class bytes of all pages of s. */
void arena_set_class(const struct mspan *s, uint8_t sizeclass);

/* From now on arena_grow() advises huge pages for what it adds (auto mode past the first
 * megabytes, or always), or never does. */
enum arena_huge { ARENA_HUGE_AUTO, ARENA_HUGE_ALWAYS, ARENA_HUGE_NEVER };
void arena_set_huge(enum arena_huge mode);

/* SLOW, needs mheap's lock. The program limits its address space (RLIMIT_AS) to limit
 * bytes: gives back most of what is reserved and not in use, which counts against it. */
void arena_set_limit(size_t limit);

/* Needs mheap's lock. The limit when last seen, bytes; SIZE_MAX: none. */
size_t arena_limit(void);

#endif
