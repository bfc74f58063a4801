/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lcache: the slow paths, see lcache.h.
 */
#include "preload/heap/lcache.h"

#include "preload/base/lock.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/freelist.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mheap.h"

#define ALL_LEAST   (2 * MIB >> PAGE_SHIFT) /* pages in all threads' caches, */
#define ALL_BUSY    (8 * MIB >> PAGE_SHIFT) /* instead, if a thread is busy */
#define ALL_MOST    (32 * MIB >> PAGE_SHIFT)
#define ALL_SHARE   16			      /* and of those in use */
#define LIMIT_SHARE 64			      /* of a limited address space */
#define GRAIN	    (512 * KIB >> PAGE_SHIFT) /* reserved at once, at least */
#define HOLES_LEAST (1 * MIB >> PAGE_SHIFT)   /* see lcache_look_at_heap_locked() */
#define HOLES_SHARE 32
#define PROBES	    4
#define BLANKS	    4		/* got at once */
#define HAND_OVER   (2 * GRAIN) /* by a thread that only frees, about */
#define BATCHES	    8		/* looked at */
#define LOOK_NS	    200000000u
#define BUSY	    32 /* frees without room between two looks; objects taken */

static struct {
	size_t reserved; /* pages, sum of all limits; guarded by mheap_lock */
	size_t nholders; /* caches with a limit; guarded by mheap_lock */
	bool scattered;	 /* atomic; see lcache_look_at_heap_locked() */
	/* The depot; guarded by mheap_lock. */
	struct mspan *depot;
	size_t npages; /* atomic */
	size_t nspans;
	size_t least; /* pages, the fewest since it was last aged */
} lcaches;

/* A span may be as much longer than asked for. */
static size_t waste(size_t npages)
{
	size_t few = npages / 4, many = 4 + npages / 32;

	return few < many ? few : many;
}

/* ---- the rest ---- */

static void set_rest(struct lcache *lc, struct mspan *s)
{
	atomic_store_release(&lc->rest, s);
	lc->fast_limit = s ? 0 : lc->limit;
}

static void count_in(struct lcache *lc, uint64_t held)
{
	atomic_store_relaxed(&lc->held, lc->held + held);
}

ALWAYS_INLINE void count_out(struct lcache *lc, uint64_t held)
{
	atomic_store_relaxed(&lc->held, lc->held - held + LCACHE_TAKEN);
	if (lcache_pages(lc) < lc->least)
		lc->least = lcache_pages(lc);
}

static uintptr_t end_of(const struct mspan *s)
{
	return s->base + (s->npages << PAGE_SHIFT);
}

static void push(struct mspan **list, struct mspan *s)
{
	s->next = *list;
	atomic_store_release(list, s);
}

/* s is not linked and has given its pages away. */
static void keep_blank(struct lcache *lc, struct mspan *s)
{
	atomic_store_relaxed(&s->npages, (size_t)0);
	push(&lc->blanks, s);
}

/* The rest loses its first npages, or all. Its length first: it never covers others'. */
ALWAYS_INLINE void shrink_rest(struct lcache *lc, size_t npages)
{
	struct mspan *rest = lc->rest;

	if (npages == rest->npages) {
		set_rest(lc, NULL);
		keep_blank(lc, rest);
		return;
	}
	atomic_store_release(&rest->npages, rest->npages - npages);
	atomic_store_release(&rest->base, rest->base + (npages << PAGE_SHIFT));
	arena_set_first(rest);
}

/* s, which is no object any more, joins the rest if the two are neighbours. */
ALWAYS_INLINE bool join(struct lcache *lc, struct mspan *s)
{
	struct mspan *rest = lc->rest;
	size_t npages = s->npages;
	bool before = end_of(s) == rest->base;

	if ((!before && end_of(rest) != s->base) || rest->npages + npages > LCACHE_PAGES)
		return false;
	if (before) /* the length last: as above */
		atomic_store_release(&rest->base, s->base);
	keep_blank(lc, s);
	atomic_store_release(&rest->npages, rest->npages + npages);
	if (before)
		arena_set_first(rest);
	else
		arena_set_last(rest);
	count_in(lc, npages + LCACHE_SPAN);
	return true;
}

bool lcache_extend(struct lcache *lc, struct mspan *s, size_t npages)
{
	struct mspan *rest = lc->rest;
	size_t more = npages - s->npages;

	if (!rest || rest->base != end_of(s) || rest->npages < more)
		return false;
	count_out(lc, more);
	shrink_rest(lc, more);
	atomic_store_release(&s->npages, npages);
	arena_set_last(s);
	return true;
}

static void get_blanks(struct lcache *lc)
{
	lock_acquire(&mheap_lock);
	for (int i = 0; i < BLANKS; i++) {
		struct mspan *s = mheap_new_blank_locked();

		if (!s)
			break;
		push(&lc->blanks, s);
		count_in(lc, LCACHE_SPAN);
	}
	lock_release(&mheap_lock);
}

/* Where the page heap has much that is free and holds memory, in short runs, objects go
 * where they fit best instead of being cut off what this thread freed last: else the heap
 * ends up as small pieces, and grows for whatever is longer. */
void lcache_look_at_heap_locked(void)
{
	size_t holes = freelist_short_pages();

	atomic_store_relaxed(&lcaches.scattered,
			     holes > HOLES_LEAST + mheap_inuse_pages() / HOLES_SHARE);
}

/* The shortest span of the bins that is longer than npages becomes the rest. */
static void change_rest(struct lcache *lc, size_t npages)
{
	struct mspan *old = lc->rest, *s = NULL;

	for (size_t bin = lcache_bin(npages) + 1; bin < LCACHE_BINS && !s; bin++) {
		s = lc->bins[bin];
		if (s)
			atomic_store_release(&lc->bins[bin], s->next);
	}
	if (!s)
		return;
	set_rest(lc, s);
	if (old)
		push(&lc->bins[lcache_bin(old->npages)], old);
}

static struct mspan *cut(struct lcache *lc, size_t npages)
{
	struct mspan *rest, *s;

	if (!lc->rest || lc->rest->npages < npages)
		change_rest(lc, npages);
	rest = lc->rest;
	if (!rest || rest->npages < npages)
		return NULL;
	if (rest->npages - npages <= waste(npages)) {
		set_rest(lc, NULL);
		count_out(lc, rest->npages + LCACHE_SPAN);
		return rest;
	}
	if (!lc->blanks)
		get_blanks(lc);
	s = lc->blanks;
	if (!s)
		return NULL;
	atomic_store_release(&lc->blanks, s->next);
	count_out(lc, npages + LCACHE_SPAN);
	atomic_store_release(&s->base, rest->base);
	atomic_store_release(&s->npages, npages);
	s->needs_zero = true;
	shrink_rest(lc, npages);
	arena_set_first(s);
	arena_set_last(s);
	return s;
}

/* ---- taking ---- */

/* One of the bin that is long enough, among those behind the first. */
static struct mspan *take_among(struct lcache *lc, size_t bin, size_t npages)
{
	struct mspan *before = lc->bins[bin], *s = NULL;

	for (int i = 0; before && i < PROBES; i++, before = s) {
		s = before->next;
		if (!s || s->npages >= npages)
			break;
	}
	if (!s || s->npages < npages)
		return NULL;
	lcache_unlink(lc, &before->next, s);
	return s;
}

/* One that is not much longer. */
static struct mspan *take_near(struct lcache *lc, size_t npages)
{
	size_t most = npages + waste(npages);
	size_t bin = lcache_bin(npages);
	size_t last = lcache_bin(most < LCACHE_PAGES ? most : LCACHE_PAGES);
	struct mspan *s = take_among(lc, bin, npages);

	while (!s && ++bin <= last) {
		s = lc->bins[bin];
		if (s && s->npages <= most)
			lcache_unlink(lc, &lc->bins[bin], s);
		else
			s = NULL;
	}
	return s;
}

/* Are the bins empty? */
static bool only_rest(const struct lcache *lc)
{
	return lc->rest && lc->rest->npages == lcache_pages(lc);
}

struct mspan *lcache_take_slow(struct lcache *lc, size_t npages)
{
	struct mspan *s = NULL;

	if (lcache_pages(lc) < npages)
		return NULL;
	if (!only_rest(lc))
		s = take_near(lc, npages);
	return s || atomic_load_relaxed(&lcaches.scattered) ? s : cut(lc, npages);
}

/* ---- giving back ---- */

static void release_rest_locked(struct lcache *lc)
{
	struct mspan *s = lc->rest;

	if (!s)
		return;
	set_rest(lc, NULL);
	count_out(lc, s->npages + LCACHE_SPAN);
	mheap_take_back_locked(s);
}

/* The rest goes, and bins are emptied in turn, until at most keep pages are left. */
static void release_locked(struct lcache *lc, size_t keep)
{
	if (lcache_pages(lc) > keep)
		release_rest_locked(lc);
	for (unsigned n = 0; n < LCACHE_BINS && lcache_pages(lc) > keep; n++) {
		struct mspan **bin;

		lc->hand = (lc->hand + 1) % LCACHE_BINS;
		bin = &lc->bins[lc->hand];
		while (*bin && lcache_pages(lc) > keep) {
			struct mspan *s = *bin;

			lcache_unlink(lc, bin, s);
			mheap_take_back_locked(s);
		}
	}
}

/* Spans are released as far as they are among idle pages. */
static void release_idle_locked(struct lcache *lc, size_t idle)
{
	if (lc->rest && lc->rest->npages <= idle) {
		idle -= lc->rest->npages;
		release_rest_locked(lc);
	}
	for (unsigned bin = LCACHE_BINS; bin > 0; bin--) {
		struct mspan **link = &lc->bins[bin - 1], *s = *link;

		while (s && s->npages <= idle) {
			idle -= s->npages;
			lcache_unlink(lc, link, s);
			mheap_take_back_locked(s);
			s = *link;
		}
	}
}

/* Whatever the counts say: see lcache.h about a forked child. */
static void release_all_locked(struct lcache *lc)
{
	release_rest_locked(lc);
	while (lc->blanks) {
		struct mspan *s = lc->blanks;

		lc->blanks = s->next;
		mheap_drop_blank_locked(s);
	}
	for (unsigned bin = 0; bin < LCACHE_BINS; bin++) {
		while (lc->bins[bin]) {
			struct mspan *s = lc->bins[bin];

			lc->bins[bin] = s->next;
			mheap_take_back_locked(s);
		}
	}
	lc->held = 0;
	lc->taken = 0;
	lc->least = 0;
	lc->nfull = 0;
	lc->busy = false;
}

static void set_limit_locked(struct lcache *lc, size_t limit)
{
	lcaches.reserved += limit - lc->limit;
	lcaches.nholders += (size_t)(limit > 0) - (size_t)(lc->limit > 0);
	lc->limit = (uint32_t)limit;
	lc->fast_limit = lc->rest ? 0 : lc->limit;
}

/* What a limited address space allows of npages. */
static size_t within_space(size_t npages)
{
	size_t space = (arena_limit() >> PAGE_SHIFT) / LIMIT_SHARE;

	return npages < space ? npages : space;
}

/* Pages that all threads together may keep, if some are busy or not. */
static size_t most_locked(bool busy)
{
	size_t most = mheap_inuse_pages() / ALL_SHARE;
	size_t least = busy ? ALL_BUSY : ALL_LEAST;

	if (most < least)
		most = least;
	return within_space(most < ALL_MOST ? most : ALL_MOST);
}

/* Reserves room for more pages: most of what is left for the only thread that needs some,
 * else half of it, so that there is always something for one that comes later. */
static void grow_locked(struct lcache *lc, size_t more, bool busy)
{
	size_t most = most_locked(busy);
	size_t kept = lcaches.reserved;
	size_t left = most > kept ? most - kept : 0;
	bool alone = lcaches.reserved == lc->limit;

	left = alone ? left - left / 8 : (left + 1) / 2;
	more = more < GRAIN ? GRAIN : more;
	if (more > left)
		more = left;
	if (more > 0)
		set_limit_locked(lc, lc->limit + more);
}

/* ---- the depot ----
 * Its pages are in the lists before clean ones are used, and what lies idle goes back: so
 * it may be large, and all it costs is that neighbours are not merged.
 *
 * Batches, the newest first, each what one thread handed over: its spans are linked by
 * next; in the first one, prev is the next batch, ndirty the pages of all, and size_asked
 * has a bit for each bin that one of them is of. */

static struct mspan *next_batch(const struct mspan *batch)
{
	return batch->prev;
}

static size_t batch_pages(const struct mspan *batch)
{
	return batch->ndirty;
}

static void count_depot(size_t npages, size_t nspans)
{
	atomic_store_relaxed(&lcaches.npages, lcaches.npages + npages);
	lcaches.nspans += nspans;
	if (lcaches.npages < lcaches.least)
		lcaches.least = lcaches.npages;
}

/* The batch that *link points to; its spans are not counted any more. */
static struct mspan *unlink_batch(struct mspan **link)
{
	struct mspan *batch = *link;
	size_t nspans = 0;

	for (const struct mspan *s = batch; s; s = s->next)
		nspans++;
	*link = next_batch(batch);
	count_depot(0 - batch_pages(batch), 0 - nspans);
	batch->prev = NULL;
	batch->ndirty = 0;
	return batch;
}

/* The oldest batches go until at most keep pages are left. */
static bool shrink_depot_locked(size_t keep)
{
	struct mspan **link = &lcaches.depot;
	bool any = false;

	for (size_t newer = 0; *link; link = &(*link)->prev) {
		newer += batch_pages(*link);
		if (newer > keep)
			break;
	}
	while (*link) {
		struct mspan *s = unlink_batch(link), *next;

		for (; s; s = next) {
			next = s->next;
			mheap_take_back_locked(s);
		}
		any = true;
	}
	return any;
}

void lcache_age_depot_locked(bool all)
{
	shrink_depot_locked(all ? 0 : lcaches.npages - lcaches.least);
	lcaches.least = lcaches.npages;
}

size_t lcache_depot_locked(size_t *out_nspans)
{
	*out_nspans = lcaches.nspans;
	return lcaches.npages;
}

static unsigned taken(const struct lcache *lc)
{
	return (unsigned)(lc->held / LCACHE_TAKEN);
}

/* Does the thread free what others allocate, and nothing else? */
static bool only_frees(const struct lcache *lc)
{
	return taken(lc) == lc->taken && mcache_are_several();
}

/* Pages that are worth it. */
static size_t hand_over(const struct lcache *lc)
{
	return lc->busy ? 2 * HAND_OVER : HAND_OVER;
}

static void hand_over_locked(struct lcache *lc)
{
	struct mspan *batch = NULL;
	size_t npages = 0, nspans = 0, bins = 0;
	size_t rest = lc->rest ? lc->rest->npages : 0;
	size_t most = within_space(ALL_MOST);

	for (unsigned bin = 0; bin < LCACHE_BINS && lcache_pages(lc) > rest; bin++) {
		while (lc->bins[bin]) {
			struct mspan *s = lc->bins[bin];

			lcache_unlink(lc, &lc->bins[bin], s);
			npages += s->npages;
			nspans++;
			bins |= (size_t)1 << bin;
			s->next = batch;
			batch = s;
		}
	}
	if (!batch)
		return;
	if (lcaches.npages + npages > most)
		shrink_depot_locked(most > npages ? most - npages : 0);
	batch->ndirty = npages;
	batch->size_asked = bins;
	batch->prev = lcaches.depot;
	lcaches.depot = batch;
	count_depot(npages, nspans);
}

/* The first batch, of some, that has a span of one of bins; NULL: none. */
static struct mspan **find_batch(size_t bins)
{
	struct mspan **link = &lcaches.depot;

	for (int i = 0; *link && i < BATCHES; i++, link = &(*link)->prev) {
		if ((*link)->size_asked & bins)
			return link;
	}
	return NULL;
}

/* Bins whose spans are near npages, or, when none is, all above. */
static struct mspan **find_near(size_t npages)
{
	size_t above = ~(size_t)0 << lcache_bin(npages);
	size_t last = npages + waste(npages);
	size_t near = above;
	struct mspan **link;

	if (last < LCACHE_PAGES)
		near &= ((size_t)2 << lcache_bin(last)) - 1;
	link = find_batch(near);
	if (!link && !atomic_load_relaxed(&lcaches.scattered))
		link = find_batch(above & ~near);
	return link;
}

/* Room for a batch: it is only moved here, so it is not counted twice. */
static bool make_batch_fit_locked(struct lcache *lc, size_t npages)
{
	size_t need = lcache_pages(lc) + npages;

	if (need > lc->limit)
		grow_locked(lc, need - lc->limit, true);
	if (need > lc->limit && npages <= lc->limit)
		release_locked(lc, lc->limit - npages);
	return lcache_pages(lc) + npages <= lc->limit;
}

static bool fetch_locked(struct lcache *lc, size_t npages)
{
	struct mspan **link = find_near(npages);
	struct mspan *s, *next;

	if (!link || !make_batch_fit_locked(lc, batch_pages(*link)))
		return false;
	for (s = unlink_batch(link); s; s = next) {
		next = s->next;
		push(&lc->bins[lcache_bin(s->npages)], s);
		count_in(lc, s->npages + LCACHE_SPAN);
	}
	return true;
}

bool lcache_fetch(struct lcache *lc, size_t npages)
{
	bool found;

	if (lc == &mcache_empty.large)
		return false;
	count_in(lc, LCACHE_TAKEN); /* it does not only free */
	if (atomic_load_relaxed(&lcaches.npages) < npages)
		return false;
	lock_acquire(&mheap_lock);
	found = fetch_locked(lc, npages);
	lock_release(&mheap_lock);
	return found;
}

/* ---- bounds ---- */

/* Room for npages is made, if there may be as much. */
static void make_room_locked(struct lcache *lc, size_t npages)
{
	size_t need = lcache_pages(lc) + npages;

	lcache_look_at_heap_locked();
	if (need > lc->limit && ++lc->nfull >= BUSY)
		lc->busy = true;
	if (need > lc->limit && (lcache_pages(lc) < hand_over(lc) || !only_frees(lc)))
		grow_locked(lc, need - lc->limit, lc->busy);
	if (need > lc->limit && only_frees(lc)) {
		hand_over_locked(lc);
		need = lcache_pages(lc) + npages;
	}
	if (need > lc->limit && npages <= lc->limit)
		release_locked(lc, (lc->limit - npages) / 2);
	lc->taken = taken(lc);
}

/* lcache_put_fast(), and where there is a rest. */
ALWAYS_INLINE bool put(struct lcache *lc, struct mspan *s)
{
	size_t npages = s->npages;

	if (lcache_pages(lc) + npages > lc->limit || npages > LCACHE_PAGES)
		return false;
	s->needs_zero = true;
	mspan_set_live(s, false);
	if (!lc->rest || !join(lc, s)) {
		push(&lc->bins[lcache_bin(npages)], s);
		count_in(lc, npages + LCACHE_SPAN);
	}
	return true;
}

static NOINLINE void free_with_lock(struct lcache *lc, struct mspan *s)
{
	lock_acquire(&mheap_lock);
	if (s->npages <= LCACHE_PAGES && lc != &mcache_empty.large)
		make_room_locked(lc, s->npages);
	if (!put(lc, s))
		mheap_free_large_locked(s);
	lock_release(&mheap_lock);
}

void lcache_free(struct lcache *lc, struct mspan *s)
{
	if (!put(lc, s))
		free_with_lock(lc, s);
}

static void note_pause(struct lcache *lc)
{
	if ((uint16_t)(taken(lc) - lc->look_taken) < BUSY)
		lc->busy = false;
	lc->look_taken = (uint16_t)taken(lc);
	lc->nfull = 0;
}

void lcache_look_around(struct lcache *lc, uint64_t now)
{
	size_t share;

	if (lc->limit == 0 || now - lc->look_ns < LOOK_NS)
		return;
	lc->look_ns = now;
	note_pause(lc);
	lock_acquire(&mheap_lock);
	lcache_look_at_heap_locked();
	release_idle_locked(lc, lc->least);
	share = most_locked(lc->busy) / lcaches.nholders;
	if (lc->limit > share) {
		release_locked(lc, share);
		set_limit_locked(lc, share);
	}
	if (lcache_pages(lc) == 0)
		set_limit_locked(lc, 0);
	lock_release(&mheap_lock);
	lc->least = lcache_pages(lc);
}

void lcache_empty_out(struct lcache *lc)
{
	if (lc->limit == 0)
		return;
	lock_acquire(&mheap_lock);
	release_all_locked(lc);
	set_limit_locked(lc, 0);
	lock_release(&mheap_lock);
}

bool lcache_has_own(size_t keep)
{
	return lcache_pages(&mcache_self()->large) + lcaches.npages > keep;
}

bool lcache_drain_own_locked(size_t keep)
{
	if (!lcache_has_own(keep))
		return false;
	shrink_depot_locked(0);
	release_all_locked(&mcache_self()->large);
	return true;
}
