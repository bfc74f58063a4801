/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mheap: the page heap. Gives out runs of pages as spans and takes them back, coalescing
 * neighbours. Free runs lie in two sets of lists, dirty (may hold memory) and clean
 * (given back, or never used), each by length.
 *
 * Locks: one, rank MHEAP. Functions without _locked take it.
 */
#ifndef PRELOAD_HEAP_MHEAP_H
#define PRELOAD_HEAP_MHEAP_H

#include "preload/base/base.h"
#include "preload/base/lock.h"
#include "preload/heap/mspan.h"

extern struct lock mheap_lock;

/* A span of small objects, npages long, as its class has or less; every slot free. NULL:
 * no memory. */
struct mspan *mheap_alloc_small(unsigned sizeclass, uint32_t npages);
/* A large object of npages on a boundary of align bytes (a power of two; PAGE_SIZE or
 * less is free); not live yet, see mspan_set_live(): its address must be somewhere where
 * a leak check finds it first. needs_zero tells whether the pages may hold old bytes. */
struct mspan *mheap_alloc_large(size_t npages, size_t align);
/* A large object of one page that was never part of any object before. */
struct mspan *mheap_alloc_unseen(void);
/* Takes a span back, whatever it was. samples were released by the caller. */
void mheap_free(struct mspan *s);
/* Needs the lock. The same for a large span, and for one of an lcache. */
void mheap_free_large_locked(struct mspan *s);
void mheap_take_back_locked(struct mspan *s);
/* Needs the lock. A large span in use that has no pages yet and is no object; NULL: no
 * memory. */
struct mspan *mheap_new_blank_locked(void);
void mheap_drop_blank_locked(struct mspan *s);
/* Large object: makes it npages long in place. False: nothing changed (no room). */
bool mheap_resize_large(struct mspan *s, size_t npages);

/* Gives every dirty free page back to the system; bytes given back. */
size_t mheap_trim(void);
/* Called now and then from slow paths: lets old dirty pages go, see scavenge.c. True:
 * there are many, and somebody had better come by soon again. */
bool mheap_tick(void);

/* FAST. How often the heap had to grow, since nothing free would do. Without the lock. */
uint32_t mheap_growths(void);
/* Needs the lock. Of all spans in use. */
size_t mheap_inuse_pages(void);
/* Needs the lock. All spans in use, newest first, linked by inuse_next. */
struct mspan *mheap_inuse(void);
/* A change that covers spans to come (exact mode): class bytes of new spans stay 0. */
void mheap_set_slow_frees(void);
bool mheap_has_slow_frees(void);

struct mheap_stats {
	size_t small_pages, large_pages, dirty_pages, clean_pages, peak_pages;
	size_t nspans, nlarge, nfree_runs;
	size_t depot_pages, ndepot; /* free, among large_pages and nlarge */
	uint64_t purged_pages;
};
void mheap_get_stats(struct mheap_stats *out);

#endif
