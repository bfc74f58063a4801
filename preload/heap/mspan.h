/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mspan: a run of pages, either cut into equal slots of one size class, or one large
 * object, or free.
 *
 * Structure
 *   base                                   base + (npages << PAGE_SHIFT)
 *   |slot 0|slot 1| ...       |slot nslots-1|tail|
 *   alloc_bits: one bit a slot, 1 = given out by mcentral (to a program, an mcache array
 * or a transfer cache). The metadata lies off the heap, so a program that scribbles over
 *   freed memory cannot reach it.
 *
 * Invariants
 *   nfree == nslots - popcount(alloc_bits); bits past nslots are 0;
 *   live objects = alloc_bits - cached pointers. A large span in a thread's lcache has
 * its bit clear. spans[] of the arena's first and last page of a span point to it, in
 * between too when the span is small (class != 0).
 */
#ifndef PRELOAD_HEAP_MSPAN_H
#define PRELOAD_HEAP_MSPAN_H

#include "preload/base/atomic.h"
#include "preload/base/base.h"

#define PAGE_SHIFT	  13 /* the heap's page: 8 KiB. "OS page" is the kernel's */
#define PAGE_SIZE	  ((size_t)1 << PAGE_SHIFT)
#define MSPAN_MAGIC_SHIFT 35
#define MSPAN_MAX_SLOTS	  1024 /* of a small span */

enum mspan_state {
	MSPAN_DEAD,   /* struct in the fixalloc pool */
	MSPAN_FREE,   /* in mheap's free lists */
	MSPAN_VICTIM, /* free, kept out of the lists: see freelist.h */
	MSPAN_SMALL,  /* class != 0: owned by mcentral */
	MSPAN_LARGE   /* one object, owned by the program, or free in an lcache */
};

/* What freeing, and making a large object, needs lies on one cache line. */
struct mspan {
	/* immutable while not FREE */
	uintptr_t base; /* address of the first page */
	size_t npages;
	uint32_t slot_size; /* bytes; 0 when large: npages << PAGE_SHIFT counts */
	uint32_t magic;	    /* of the size class */
	uint16_t nslots;    /* 1 when large */

	/* guarded by the class's mcentral lock (small), by mheap's lock (free) */
	uint16_t nfree;

	/* immutable while not FREE, but listed */
	uint8_t sizeclass; /* 0: large or free */
	uint8_t state;	   /* enum mspan_state; written under mheap's lock */
	bool needs_zero;   /* large, free: pages may hold old bytes */
	bool listed;	   /* small: on mcentral's list of spans with free slots */

	struct mspan *next; /* guarded as nfree; so is prev */

	/* large only; written by the thread that owns the object */
	size_t size_asked; /* bytes the program asked for */

	/* Owned by profiler/sample: records of sampled objects. NULL: none. Released
	 * through heap_hooks.release_samples when the span is freed. Atomic. */
	void *samples;

	/* Written under the lock that guards nfree, read without it for checks of an
	 * object that the reader owns: atomic, relaxed. A large object uses the first
	 * word only; what follows is room for its samples, see mspan_room(). */
	uint64_t alloc_bits[MSPAN_MAX_SLOTS / 64];

	struct mspan *prev;
	size_t ndirty; /* free: most pages that may hold memory, see run.h */
	size_t ntail;  /* free: pages at its end that are zero */

	/* guarded by mheap's lock: list of all spans in use */
	struct mspan *inuse_next, *inuse_prev;

	/* Owned by the leak check while it runs: where this span's bits start. */
	size_t mark_index;
} __attribute__((aligned(CACHE_LINE)));
_Static_assert(offsetof(struct mspan, alloc_bits) + sizeof(uint64_t) == CACHE_LINE,
	       "one cache line");
_Static_assert(MSPAN_MAX_SLOTS <= UINT16_MAX, "nslots");
#define MSPAN_ROOM ((MSPAN_MAX_SLOTS / 64 - 1) * sizeof(uint64_t)) /* bytes */

/* FAST. Memory of MSPAN_ROOM bytes that goes with the large object s, with old contents:
 * for profiler/sample. */
static inline void *mspan_room(struct mspan *s)
{
	return &s->alloc_bits[1];
}

/* FAST. Is the large span s an object of the program, or one that a thread keeps? */
static inline bool mspan_is_live(const struct mspan *s)
{
	return atomic_load_acquire(&s->alloc_bits[0]) & 1;
}

static inline void mspan_set_live(struct mspan *s, bool live)
{
	atomic_store_release(&s->alloc_bits[0], (uint64_t)live);
}

/* FAST. Bytes of one slot. */
static inline size_t mspan_slot_bytes(const struct mspan *s)
{
	return s->slot_size ? s->slot_size : s->npages << PAGE_SHIFT;
}

/* FAST. Index of the slot that addr, inside the span, falls into; may be nslots or more
 * in the unused tail. Exact for every class and offset: the unit
 * test tries them all. */
static inline uint32_t mspan_index_of(const struct mspan *s, uintptr_t addr)
{
	if (s->slot_size == 0)
		return 0;
	return (uint32_t)(((uint64_t)(addr - s->base) * s->magic) >> MSPAN_MAGIC_SHIFT);
}

static inline uintptr_t mspan_slot(const struct mspan *s, uint32_t index)
{
	return s->base + (uintptr_t)index * s->slot_size;
}

#endif
