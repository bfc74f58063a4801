/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lcache: a thread's own free large objects, kept whole: the next object of about the
 * same length is had without the page heap's lock, and without a fault where it was
 * touched.
 *
 * Structure: spans of up to LCACHE_PAGES lie in bins by length, eight to a power of two,
 * linked by next, the newest first. One more, the rest, is what objects are cut off for
 * whose bins hold nothing near; a freed neighbour joins it again, and what has no pages
 * any more is a blank span, kept for the next cut.
 *
 * A span in here stays in state LARGE and on the page heap's list of spans in use; what
 * tells it from an object is its bit in alloc_bits, which is clear. So whoever looks at
 * the heap sees at once that it is free, and freeing it again is noticed. Its pages are
 * its own at any moment, also in the middle of a cut.
 *
 * A thread that only frees what others allocate hands all it has to the depot, as one
 * batch, of any lengths. A thread that finds nothing of its own takes a whole batch that
 * has something near: nothing is merged or cut between the two.
 *
 * What all threads may hold is bounded by a share of the heap, of which each thread
 * reserves its part: see grow_locked(). In a small heap that share is too little for a
 * thread that makes and frees objects of megabytes all the time: such a busy thread may
 * hold more, until it pauses. The thread's own are entered into the lists
 * before the page heap takes pages that hold nothing, but for a small part, and when they
 * lay idle between two ticks of the thread.
 *
 * Concurrency: owner only. The list is whole after every store, so that a forked child
 * may give back what the threads of its parent had. Reservations and the depot are
 * guarded by mheap's lock.
 */
#ifndef PRELOAD_HEAP_LCACHE_H
#define PRELOAD_HEAP_LCACHE_H

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/heap/mspan.h"

#define LCACHE_PAGES ((size_t)512) /* of the longest span kept: 4 MiB */
#define LCACHE_BINS  57		   /* lcache_bin(LCACHE_PAGES) + 1 */

struct lcache {
	/* Pages of all spans; above LCACHE_SPAN how many those are, blank ones too; above
	 * LCACHE_TAKEN how many were taken ever: one word, so that all are counted at
	 * once. */
	uint64_t held;
	uint32_t limit;	     /* pages; what is reserved for it */
	uint32_t least;	     /* pages, the fewest since the last look */
	uint32_t fast_limit; /* what lcache_put_fast() sees: 0 while there is a rest */
	struct mspan *rest;  /* NULL: none */
	struct mspan *bins[LCACHE_BINS];
	struct mspan *blanks;
	uint64_t look_ns; /* time of the last look */
	unsigned hand;	  /* bin to be emptied next */
	unsigned taken;	  /* of held, when there was no room the last time */
	/* Frees without room since the last look; as many that the thread is busy. */
	unsigned nfull;
	uint16_t look_taken; /* of held, at the last look */
	bool busy;
};
#define LCACHE_SPAN  ((uint64_t)1 << 32) /* one span, in held */
#define LCACHE_TAKEN ((uint64_t)1 << 48)

/* By npages, one more than LCACHE_PAGES included: the padding may make it that. */
extern const uint8_t lcache_bins[LCACHE_PAGES + 2] HIDDEN;

/* FAST. The bin of spans of npages, 1 to LCACHE_PAGES: each below 16, then eight steps to
 * a power of two. */
static inline size_t lcache_bin(size_t npages)
{
	return lcache_bins[npages];
}

/* FAST. Pages and spans held; for others than the owner a guess. */
static inline uint32_t lcache_pages(const struct lcache *lc)
{
	return (uint32_t)atomic_load_relaxed(&lc->held);
}

static inline uint32_t lcache_spans(const struct lcache *lc)
{
	return (uint16_t)(atomic_load_relaxed(&lc->held) >> 32);
}

/* FAST. Takes s out, which *link points to. */
static inline void lcache_unlink(struct lcache *lc, struct mspan **link, struct mspan *s)
{
	uint64_t held = lc->held - s->npages - LCACHE_SPAN + LCACHE_TAKEN;

	atomic_store_relaxed(link, s->next);
	atomic_store_relaxed(&lc->held, held);
	if ((uint32_t)held < lc->least)
		lc->least = (uint32_t)held;
}

/* FAST. A span of npages, up to LCACHE_PAGES, or a little more; NULL: none, but perhaps
 * lcache_take_slow() has one. It may hold old bytes. The caller says when it is
 * an object: mspan_set_live(). */
static inline struct mspan *lcache_take(struct lcache *lc, size_t npages)
{
	size_t bin = lcache_bin(npages);
	struct mspan *s = lc->bins[bin];

	if (UNLIKELY(!s) || UNLIKELY(s->npages < npages))
		return NULL;
	FORGET(bin);
	lcache_unlink(lc, &lc->bins[bin], s);
	return s;
}

/* SLOW. The same of a span that is not the first of its bin, or cut off a longer one. */
struct mspan *lcache_take_slow(struct lcache *lc, size_t npages);

/* SLOW. Moves spans from the depot here, one of npages or more among them; false: there
 * is none, or no room for it. */
bool lcache_fetch(struct lcache *lc, size_t npages);

/* FAST. Keeps s, a large object that the program is done with; false: it is too long, or
 * there is no room, or a rest that it may have to join. */
static inline bool lcache_put_fast(struct lcache *lc, struct mspan *s)
{
	size_t npages = s->npages;
	uint64_t held = lc->held + npages;
	size_t bin;

	if (UNLIKELY((uint32_t)held > lc->fast_limit) || UNLIKELY(npages > LCACHE_PAGES))
		return false;
	s->needs_zero = true;
	mspan_set_live(s, false);
	bin = lcache_bin(npages);
	s->next = lc->bins[bin];
	FORGET(bin);
	atomic_store_release(&lc->bins[bin], s);
	atomic_store_relaxed(&lc->held, held + LCACHE_SPAN);
	return true;
}

/* SLOW. The same in any case, if need be after room was made; else s goes back to the
 * page heap. */
void lcache_free(struct lcache *lc, struct mspan *s);
/* SLOW. The object s becomes npages long, more than now, if what lies behind it is the
 * rest of lc. */
bool lcache_extend(struct lcache *lc, struct mspan *s, size_t npages);
/* SLOW. What lay idle since the last look goes back to the page heap. */
void lcache_look_around(struct lcache *lc, uint64_t now);
/* SLOW. Everything goes back, and so does the reservation. */
void lcache_empty_out(struct lcache *lc);

/* Needs mheap's lock. The page heap is about to use pages that hold nothing, or wants
 * what lies behind some object: the calling thread's spans and the depot's are entered
 * into the lists, when they are more than keep. False: nothing was. */
bool lcache_drain_own_locked(size_t keep);
/* Would anything be? */
bool lcache_has_own(size_t keep);
/* Called now and then: is the page heap full of holes? Then nothing is cut off spans kept
 * here. */
void lcache_look_at_heap_locked(void);
/* What lay idle in the depot since the last call is entered into the lists; or all. */
void lcache_age_depot_locked(bool all);
/* Pages and spans in the depot. */
size_t lcache_depot_locked(size_t *out_nspans);

#endif
