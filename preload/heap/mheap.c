/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mheap: the page heap, see mheap.h.
 *
 * Structure: a free run is an mspan in state FREE; its first and last page point to it,
 * so a span that is freed finds free neighbours by one load each (boundary tags). Lists
 * are by length: exact up to EXACT pages, then eight to a power of two; a bitmap shows
 * which are not empty. Allocation is best fit by list, dirty before clean.
 *
 * A run made of dirty and clean parts counts as dirty. Where in it the dirty pages lie is
 * not known, but for those at the end that have been given back, so when it is cut each
 * part counts as many as it may hold: ndirty is an upper bound, and 0 means that every
 * byte is zero.
 *
 * Large objects that come and go are cut off one run that is in no list, the victim (see
 * freelist.h), as long as no run of the lists would fit them better. Anything else that
 * wants pages enters it into the lists first. Most large objects do not come back at all,
 * but stay with the thread that freed them: see lcache.h. Before pages are used that hold
 * nothing the calling thread's are entered into the lists.
 *
 * Concurrency: all state is guarded by mheap_lock.
 */
#include "preload/heap/mheap.h"

#include "preload/base/check.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/freelist.h"
#include "preload/heap/lcache.h"
#include "preload/heap/mheap_int.h"
#include "preload/heap/run.h"
#include "preload/heap/scavenge.h"
#include "preload/heap/sizeclass.h"

#define UNSEEN_PAGES   3  /* see mheap_alloc_unseen() */
#define SCAVENGE_EVERY 16 /* frees of large objects between looks at the clock */
#define MANY_DIRTY     (32 * MIB >> PAGE_SHIFT)
/* Pages that may be cached while clean ones are used, and a share of those in use. */
#define CACHED_LEAST (256 * KIB >> PAGE_SHIFT)
#define CACHED_SHARE 32

struct lock mheap_lock = LOCK_INIT(LOCK_RANK_MHEAP);

static struct {
	struct fixalloc spans;
	struct mspan *inuse; /* newest first */
	struct mspan *spare; /* a struct for the next large object, or NULL */
	uint32_t nlarge_frees;
	struct mheap_stats stats;
	bool slow_frees;
	uint32_t ngrowths; /* atomic */
} mheap = { .spans = FIXALLOC_INIT(sizeof(struct mspan), META_SPAN) };

/* ---- free runs ---- */

static void put_struct(struct mspan *s)
{
	if (mheap.spare)
		fixalloc_put(&mheap.spans, s);
	else
		mheap.spare = s;
}

/* s, in no list, and a neighbour become one. */
static void absorb(struct mspan *s, struct mspan *other)
{
	run_join(s, other);
	put_struct(other);
}

/* Merges s with its neighbours in the lists, which lie in the same arena: before its
 * first page are its tables, behind its last nothing is looked up. */
static void merge_run(struct mspan *s)
{
	const struct arena *a = arena_of(s->base);
	struct mspan *before = mheap_free_run(a, s->base - 1);
	struct mspan *after = mheap_free_run(a, s->base + (s->npages << PAGE_SHIFT));

	if (before) {
		freelist_remove(before);
		absorb(s, before);
	}
	if (after) {
		freelist_remove(after);
		absorb(s, after);
	}
}

/* Enters a run into the lists, merged with its neighbours. */
static void insert_run(struct mspan *s)
{
	merge_run(s);
	arena_set_span(s, s, false);
	freelist_insert(s);
}

/* With old contents, but for a new one. NULL: out of memory. */
static struct mspan *get_struct(void)
{
	struct mspan *s = mheap.spare;

	mheap.spare = NULL;
	return s ? s : fixalloc_get(&mheap.spans);
}

void mheap_retire_victim_locked(void)
{
	if (freelist_victim())
		insert_run(freelist_take_victim());
}

void mheap_forget_run_locked(struct mspan *s)
{
	freelist_remove(s);
	fixalloc_put(&mheap.spans, s);
}

static bool joins_victim(const struct mspan *s)
{
	const struct mspan *v = freelist_victim();

	return v && (v->base == s->base + (s->npages << PAGE_SHIFT) ||
		     v->base + (v->npages << PAGE_SHIFT) == s->base);
}

static void join_victim(struct mspan *s)
{
	absorb(s, freelist_take_victim());
	freelist_set_victim(s);
}

/* Takes the place of the victim. */
static void make_victim(struct mspan *s)
{
	mheap_retire_victim_locked();
	merge_run(s);
	freelist_set_victim(s);
}

/* A large object's pages, which are in use no more. */
static void shelve(struct mspan *s)
{
	if (joins_victim(s))
		join_victim(s);
	else
		make_victim(s);
}

/* Pages that a thread may keep cached while its next large object takes clean ones. */
static size_t cached_pages(void)
{
	return CACHED_LEAST + mheap_inuse_pages() / CACHED_SHARE;
}

/* npages off the front of the victim, for a large object; NULL: better look elsewhere. */
static struct mspan *cut_victim(size_t npages)
{
	struct mspan *s, *v;

	if (!freelist_prefers_victim(npages))
		return NULL;
	if (freelist_victim()->ndirty < npages && lcache_has_own(cached_pages()))
		return NULL; /* dirty before clean */
	if (freelist_victim()->npages == npages)
		return freelist_take_victim();
	s = get_struct();
	if (!s)
		return NULL;
	v = freelist_take_victim();
	run_cut_front(v, s, npages);
	freelist_set_victim(v);
	return s;
}

/* Of fresh pages. */
static struct mspan *new_run(uintptr_t base, size_t npages)
{
	struct mspan *s = fixalloc_get(&mheap.spans);

	if (s)
		run_set_fresh(s, base, npages);
	return s;
}

/* The struct first: what has been made usable stays so, and may leave no memory for it.
 */
static bool grow(size_t npages, enum arena_for what)
{
	bool ready = fixalloc_ready(&mheap.spans, 1);
	size_t got;
	uintptr_t base = arena_grow(npages, what, &got);

	if (base == 0)
		return false;
	if (!ready)
		fixalloc_feed(&mheap.spans, (void *)(base + (--got << PAGE_SHIFT)),
			      PAGE_SIZE);
	if (got == 0)
		return false;
	insert_run(new_run(base, got));
	atomic_store_relaxed(&mheap.ngrowths, mheap.ngrowths + 1);
	return true;
}

uint32_t mheap_growths(void)
{
	return atomic_load_relaxed(&mheap.ngrowths);
}

/* Cuts s, which is in no list, to its first npages; the rest goes back to the lists. When
 * memory for the rest's struct is out, or s has an arena to itself, it keeps all. */
static void split(struct mspan *s, size_t npages)
{
	struct mspan *rest;

	if (s->npages == npages || mheap_is_single(s))
		return;
	rest = fixalloc_get(&mheap.spans);
	if (!rest)
		return;
	run_cut_back(s, rest, npages);
	insert_run(rest);
}

/* Memory for structs is out: the last page of s becomes some. It stays ours for ever and
 * belongs to no span. */
static void donate_page(struct mspan *s)
{
	s->npages--;
	run_set_dirty(s, s->ndirty, s->ntail > 0 ? s->ntail - 1 : 0);
	fixalloc_feed(&mheap.spans, (void *)(s->base + (s->npages << PAGE_SHIFT)),
		      PAGE_SIZE);
}

/* Takes a run of at least npages out of the lists, growing the arena if there is none;
 * the thread keeps cached pages at most, if clean ones are needed. Structs for the parts
 * that it may be cut into, before and behind, are there. */
static struct mspan *take_run(size_t npages, size_t cached, enum arena_for what)
{
	struct mspan *s;

	mheap_retire_victim_locked();
	s = freelist_find(npages);
	if ((!s || s->ndirty < npages) && lcache_drain_own_locked(cached))
		s = freelist_find(npages);
	if (!s && (grow(npages, what) || freelist_search(npages) ||
		   (lcache_drain_own_locked(0) && freelist_search(npages)) ||
		   (mheap_release_arenas_locked() && grow(npages, what))))
		s = freelist_search(npages);
	if (!s)
		return NULL;
	freelist_remove(s);
	if (s->ndirty < npages)
		scavenge_make_up_locked(npages, mheap_inuse_pages());
	if (s->npages > npages && !fixalloc_ready(&mheap.spans, 2))
		donate_page(s);
	return s;
}

/* ---- spans in use ---- */

static void enter_inuse(struct mspan *s)
{
	s->inuse_prev = NULL;
	s->inuse_next = mheap.inuse;
	if (mheap.inuse)
		mheap.inuse->inuse_prev = s;
	mheap.inuse = s;
}

static void leave_inuse(struct mspan *s)
{
	if (s->inuse_prev)
		s->inuse_prev->inuse_next = s->inuse_next;
	else
		mheap.inuse = s->inuse_next;
	if (s->inuse_next)
		s->inuse_next->inuse_prev = s->inuse_prev;
}

static void count_pages(const struct mspan *s, bool in)
{
	size_t *pages = s->state == MSPAN_LARGE ? &mheap.stats.large_pages
						: &mheap.stats.small_pages;
	size_t total;

	*pages += in ? s->npages : 0 - s->npages;
	mheap.stats.nspans += in ? 1 : (size_t)-1;
	if (s->state == MSPAN_LARGE)
		mheap.stats.nlarge += in ? 1 : (size_t)-1;
	total = mheap.stats.large_pages + mheap.stats.small_pages;
	if (total > mheap.stats.peak_pages)
		mheap.stats.peak_pages = total;
}

/* Turns a run that is in no list into a span in use. Its pages point to it already. */
static void start_span(struct mspan *s, enum mspan_state state)
{
	s->needs_zero = s->ndirty > 0;
	s->ndirty = 0;
	s->samples = NULL;
	s->next = s->prev = NULL;
	s->listed = false;
	atomic_store_release(&s->state, (uint8_t)state);
	enter_inuse(s);
	count_pages(s, true);
}

static void init_small(struct mspan *s, unsigned c)
{
	const struct sizeclass_info *info = &sizeclass_info[c];

	uint32_t nslots = (uint32_t)(s->npages << PAGE_SHIFT) / info->slot_size;

	s->nslots = s->nfree = (uint16_t)(nslots < info->nslots ? nslots : info->nslots);
	s->slot_size = info->slot_size;
	s->magic = info->magic;
	s->sizeclass = (uint8_t)c;
	for (size_t i = 0; i < ARRAY_LEN(s->alloc_bits); i++)
		s->alloc_bits[i] = 0;
}

struct mspan *mheap_alloc_small(unsigned c, uint32_t npages)
{
	bool large =
		sizeclass_info[c].slot_size >= 2 * OS_PAGE; /* may be hardly touched */
	struct mspan *s;

	lock_acquire(&mheap_lock);
	s = take_run(npages, 0, large ? ARENA_FOR_LARGE : ARENA_FOR_SMALL);
	if (s) {
		split(s, npages);
		init_small(s, c);
		arena_set_span(s, s, true);
		start_span(s, MSPAN_SMALL);
		arena_set_class(s, mheap.slow_frees ? 0 : (uint8_t)c);
	}
	scavenge_note_locked(npages);
	lock_release(&mheap_lock);
	return s;
}

/* Cuts off what lies before the first multiple of align in s. */
static void trim_front(struct mspan *s, size_t align)
{
	uintptr_t start = align_up(s->base, align);
	size_t front = (start - s->base) >> PAGE_SHIFT;
	struct mspan *head;

	if (front == 0)
		return;
	if (mheap_is_single(s)) {
		arena_start_at(arena_of(s->base), start);
		s->base = start;
		s->npages -= front;
		return;
	}
	head = fixalloc_get(&mheap.spans);
	if (!head)
		return;
	run_cut_front(s, head, front);
	insert_run(head);
}

static void init_large(struct mspan *s)
{
	s->nslots = 1;
	s->slot_size = 0;
	s->magic = 0;
	s->sizeclass = 0;
	s->nfree = 0;
	s->alloc_bits[0] = 0;
}

/* A run of npages on a multiple of align from the lists, want pages of which hold such.
 */
static struct mspan *cut_run(size_t npages, size_t want, size_t align)
{
	struct mspan *s = take_run(want, cached_pages(), ARENA_FOR_LARGE);

	if (!s)
		return NULL;
	if (want > npages)
		trim_front(s, align);
	if ((s->base & (align - 1)) != 0) { /* no memory for the head's struct */
		insert_run(s);
		return NULL;
	}
	split(s, npages);
	return s;
}

struct mspan *mheap_alloc_large(size_t npages, size_t align)
{
	size_t extra = align > PAGE_SIZE ? (align >> PAGE_SHIFT) - 1 : 0;
	size_t want;
	struct mspan *s;

	if (npages == 0 || __builtin_add_overflow(npages, extra, &want))
		return NULL;
	lock_acquire(&mheap_lock);
	s = extra == 0 ? cut_victim(npages) : NULL;
	if (!s)
		s = cut_run(npages, want, align);
	if (s) {
		arena_set_span(s, s, false);
		init_large(s);
		start_span(s, MSPAN_LARGE); /* free pages have class 0 already */
	}
	lcache_look_at_heap_locked();
	scavenge_note_locked(npages);
	lock_release(&mheap_lock);
	return s;
}

struct mspan *mheap_alloc_unseen(void)
{
	struct mspan *s = NULL, *rest = NULL;
	size_t got;
	uintptr_t base;

	lock_acquire(&mheap_lock);
	base = arena_grow(UNSEEN_PAGES, ARENA_FOR_LARGE, &got);
	/* Programs keep pointers a little past the end of what is before it, and their
	 * loops a little before what is behind it. */
	if (base) {
		fixalloc_feed(&mheap.spans, (void *)base, PAGE_SIZE);
		fixalloc_feed(&mheap.spans, (void *)(base + 2 * PAGE_SIZE), PAGE_SIZE);
		s = new_run(base + PAGE_SIZE, 1);
	}
	if (s && got > UNSEEN_PAGES &&
	    (rest = new_run(base + UNSEEN_PAGES * PAGE_SIZE, got - UNSEEN_PAGES)))
		insert_run(rest);
	if (s) {
		init_large(s);
		mspan_set_live(s, true);
		arena_set_span(s, s, false);
		start_span(s, MSPAN_LARGE);
	}
	lock_release(&mheap_lock);
	return s;
}

static void scavenge(void)
{
	if (!scavenge_is_due_locked())
		return;
	if (!scavenge_owes_locked())
		lcache_age_depot_locked(false);
	scavenge_tick_locked();
	mheap_release_idle_locked();
}

struct mspan *mheap_new_blank_locked(void)
{
	struct mspan *s = get_struct();

	if (!s)
		return NULL;
	run_set_fresh(s, arena_first.start, 0);
	init_large(s);
	start_span(s, MSPAN_LARGE);
	return s;
}

void mheap_drop_blank_locked(struct mspan *s)
{
	count_pages(s, false);
	leave_inuse(s);
	s->state = MSPAN_DEAD;
	put_struct(s);
}

void mheap_take_back_locked(struct mspan *s)
{
	count_pages(s, false);
	leave_inuse(s);
	run_soil(s);
	scavenge_note_locked(s->npages);
	insert_run(s);
}

void mheap_free_large_locked(struct mspan *s)
{
	count_pages(s, false);
	leave_inuse(s);
	if (mheap_is_single(s)) {
		arena_release(arena_of(s->base));
		s->state = MSPAN_DEAD;
		put_struct(s);
		return;
	}
	run_soil(s);
	scavenge_note_locked(s->npages);
	shelve(s);
	if (++mheap.nlarge_frees % SCAVENGE_EVERY == 0)
		scavenge();
}

void mheap_free(struct mspan *s)
{
	lock_acquire(&mheap_lock);
	if (s->state == MSPAN_LARGE) {
		mheap_free_large_locked(s);
		lock_release(&mheap_lock);
		return;
	}
	count_pages(s, false);
	leave_inuse(s);
	if (s->state == MSPAN_SMALL && !mheap.slow_frees)
		arena_set_class(s, 0);
	s->sizeclass = 0;
	run_soil(s);
	scavenge_note_locked(s->npages);
	insert_run(s);
	scavenge();
	lock_release(&mheap_lock);
}

/* Does a large span that some thread keeps begin at addr, in a? */
static bool is_cached(const struct arena *a, uintptr_t addr)
{
	const struct mspan *s = arena_span(a, addr);

	return s && s->state == MSPAN_LARGE && s->base == addr && !mspan_is_live(s);
}

/* The free run at addr, in a, of at least npages, still in its list; NULL: none. */
static struct mspan *run_behind(const struct arena *a, uintptr_t addr, size_t npages)
{
	struct mspan *s = mheap_free_run(a, addr);
	size_t len = s ? s->npages : 0;

	if (len < npages && is_cached(a, addr + (len << PAGE_SHIFT)) &&
	    lcache_drain_own_locked(0))
		s = mheap_free_run(a, addr);
	return s && s->npages >= npages ? s : NULL;
}

/* Grows a large span into the free run behind it. */
static bool extend_locked(struct mspan *s, size_t npages)
{
	uintptr_t end = s->base + (s->npages << PAGE_SHIFT);
	size_t more = npages - s->npages;
	struct mspan *after, *v = freelist_victim();

	if (v && v->base == end && v->npages > more) {
		freelist_take_victim();
		v->base += more << PAGE_SHIFT;
		v->npages -= more;
		run_set_dirty(v, v->ndirty, v->ntail);
		freelist_set_victim(v);
		count_pages(s, false);
		s->npages += more;
		count_pages(s, true);
		arena_set_span(s, s, false);
		return true;
	}
	mheap_retire_victim_locked();
	after = run_behind(arena_of(s->base), end, more);
	if (!after)
		return false;
	freelist_remove(after);
	split(after, more);
	count_pages(s, false);
	s->npages += after->npages;
	count_pages(s, true);
	arena_set_span(s, s, false);
	fixalloc_put(&mheap.spans, after);
	return true;
}

static bool shrink_locked(struct mspan *s, size_t npages)
{
	size_t rest_pages = s->npages - npages;
	struct mspan *rest = new_run(s->base + (npages << PAGE_SHIFT), rest_pages);

	if (!rest)
		return false;
	count_pages(s, false);
	s->npages = npages;
	count_pages(s, true);
	arena_set_span(s, s, false);
	run_soil(rest);
	insert_run(rest);
	scavenge();
	return true;
}

static bool resize_single(struct mspan *s, size_t npages)
{
	if (!arena_resize_single(arena_of(s->base), npages))
		return false;
	count_pages(s, false);
	s->npages = npages;
	count_pages(s, true);
	arena_set_span(s, s, false);
	return true;
}

bool mheap_resize_large(struct mspan *s, size_t npages)
{
	bool ok = true;

	lock_acquire(&mheap_lock);
	if (mheap_is_single(s))
		ok = resize_single(s, npages);
	else if (npages > s->npages)
		ok = extend_locked(s, npages);
	else if (npages < s->npages)
		ok = shrink_locked(s, npages);
	lock_release(&mheap_lock);
	return ok;
}

size_t mheap_trim(void)
{
	size_t npages;

	lock_acquire(&mheap_lock);
	mheap_retire_victim_locked();
	lcache_age_depot_locked(true);
	npages = scavenge_all_locked();
	mheap_release_arenas_locked();
	lock_release(&mheap_lock);
	return npages << PAGE_SHIFT;
}

NO_LOCK_CHECK bool mheap_tick(void)
{
	bool many;

	if (!lock_try_acquire(&mheap_lock))
		return false;
	scavenge();
	many = freelist_dirty_pages() > MANY_DIRTY;
	lock_release(&mheap_lock);
	return many;
}

size_t mheap_inuse_pages(void)
{
	return mheap.stats.large_pages + mheap.stats.small_pages;
}

struct mspan *mheap_inuse(void)
{
	return mheap.inuse;
}

void mheap_set_slow_frees(void)
{
	lock_acquire(&mheap_lock);
	atomic_store_relaxed(&mheap.slow_frees, true);
	for (struct mspan *s = mheap.inuse; s; s = s->inuse_next)
		arena_set_class(s, 0);
	lock_release(&mheap_lock);
}

bool mheap_has_slow_frees(void)
{
	return atomic_load_relaxed(&mheap.slow_frees);
}

void mheap_get_stats(struct mheap_stats *out)
{
	lock_acquire(&mheap_lock);
	*out = mheap.stats;
	out->dirty_pages = freelist_dirty_pages();
	out->depot_pages = lcache_depot_locked(&out->ndepot);
	out->clean_pages = freelist_total_pages() - out->dirty_pages;
	out->nfree_runs = freelist_count();
	out->purged_pages = scavenge_purged_pages();
	lock_release(&mheap_lock);
}
