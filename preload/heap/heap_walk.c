/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_walk: looking at the heap: from an address to its object, over all spans, and
 * numbers.
 */
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/mheap.h"
#include "preload/heap/sizeclass.h"

struct mspan *heap_find(uintptr_t addr, uint32_t *out_index)
{
	const struct arena *a = arena_of(addr);
	struct mspan *s = a ? arena_span(a, addr) : NULL;
	uint8_t state;
	uint32_t index;

	if (!s)
		return NULL;
	state = atomic_load_acquire(&s->state);
	if (state != MSPAN_SMALL && state != MSPAN_LARGE)
		return NULL;
	if (addr - s->base >= s->npages << PAGE_SHIFT)
		return NULL; /* a stale entry */
	if (state == MSPAN_LARGE && !mspan_is_live(s))
		return NULL;
	index = mspan_index_of(s, addr);
	if (index >= s->nslots)
		return NULL; /* the unused tail */
	if (out_index)
		*out_index = index;
	return s;
}

void heap_bounds(uintptr_t *out_lo, uintptr_t *out_hi)
{
	size_t n = arena_count();

	*out_lo = UINTPTR_MAX;
	*out_hi = 0;
	for (size_t i = 0; i < n; i++) {
		const struct arena *a = arena_at(i);
		uintptr_t lo = a->base + (a->first_page << PAGE_SHIFT);
		uintptr_t hi =
			a->base + (atomic_load_acquire(&a->end_page) << PAGE_SHIFT);

		if (lo < *out_lo)
			*out_lo = lo;
		if (hi > *out_hi)
			*out_hi = hi;
	}
	if (n == 0)
		*out_lo = 0;
}

void heap_index_large(void)
{
	for (struct mspan *s = mheap_inuse(); s; s = s->inuse_next)
		if (s->state == MSPAN_LARGE && mspan_is_live(s))
			arena_set_span(s, s, true);
}

void heap_each_span(bool (*fn)(struct mspan *s, void *arg), void *arg)
{
	for (struct mspan *s = mheap_inuse(), *next; s; s = next) {
		next = s->inuse_next;
		if ((s->state != MSPAN_LARGE || mspan_is_live(s)) && !fn(s, arg))
			return;
	}
}

/* Pointers of class c in mc, which its owner may be using, and where they begin. */
static size_t find_cached(const struct mcache *mc, unsigned c, void *const **out_base)
{
	void **top = atomic_load_acquire(&mc->top[c]);
	ptrdiff_t n = top - (*out_base = mcache_base_of(mc, c, top));

	return n > 0 && n <= (ptrdiff_t)sizeclass_info[c].cache_max ? (size_t)n : 0;
}

static size_t count_cached(const struct mcache *mc, unsigned c)
{
	void *const *base;

	return find_cached(mc, c, &base);
}

void heap_each_cached(void (*fn)(uintptr_t slot, void *arg), void *arg)
{
	for (struct mcache *mc = mcache_list(); mc; mc = mc->next)
		for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
			for (void **p = mcache_base(mc, c); p < mc->top[c]; p++)
				fn((uintptr_t)*p, arg);
	mcentral_each_cached(fn, arg);
}

#define MCACHES_MOST 1000000 /* a list that changes might lead in a circle */

void heap_each_cached_now(void (*fn)(uintptr_t slot, void *arg), void *arg)
{
	size_t left = MCACHES_MOST;

	for (struct mcache *mc = mcache_list(); mc && left > 0; mc = mc->next, left--)
		for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
			void *const *base;
			size_t n = find_cached(mc, c, &base);

			for (size_t i = 0; i < n; i++)
				fn((uintptr_t)atomic_load_relaxed(&base[i]), arg);
		}
	mcentral_each_cached(fn, arg);
}

void heap_slow_frees(void)
{
	mheap_set_slow_frees();
}

/* Of all threads' lcaches: out->nlarge and inuse_large are theirs, so far. */
static void count_caches(struct heap_stats *out)
{
	lock_acquire(&mcache_lock);
	for (const struct mcache *mc = mcache_list(); mc; mc = mc->next) {
		out->nmcaches++;
		out->nlarge += lcache_spans(&mc->large);
		out->inuse_large += (size_t)lcache_pages(&mc->large) << PAGE_SHIFT;
		out->nrefill += atomic_load_relaxed(&mc->nrefill);
		out->nflush += atomic_load_relaxed(&mc->nflush);
		for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
			size_t n = count_cached(mc, c);

			out->ncached += n;
			out->cached += n * sizeclass_info[c].slot_size;
		}
	}
	lock_release(&mcache_lock);
}

static size_t minus(size_t a, size_t b)
{
	return a > b ? a - b : 0;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

void heap_get_stats(struct heap_stats *out)
{
	struct mheap_stats m;
	size_t kept;

	memset(out, 0, sizeof(*out));
	count_caches(out);
	out->central_free = mcentral_free_bytes(&out->nfree_slots, &out->tails);
	mheap_get_stats(&m);
	for (size_t i = 0; i < arena_count(); i++) {
		const struct arena *a = arena_at(i);

		out->reserved += a->size;
		out->committed += (atomic_load_relaxed(&a->end_page) - a->first_page)
				  << PAGE_SHIFT;
	}
	out->inuse_small = m.small_pages << PAGE_SHIFT;
	out->nlarge += m.ndepot;
	out->inuse_large += m.depot_pages << PAGE_SHIFT;
	kept = least(out->inuse_large, m.large_pages << PAGE_SHIFT);
	out->inuse_large = (m.large_pages << PAGE_SHIFT) - kept;
	out->free_dirty = (m.dirty_pages << PAGE_SHIFT) + kept;
	out->free_clean = m.clean_pages << PAGE_SHIFT;
	out->peak_inuse = m.peak_pages << PAGE_SHIFT;
	out->npurged_bytes = m.purged_pages << PAGE_SHIFT;
	out->nspans = m.nspans;
	out->nfree_runs = m.nfree_runs + out->nlarge;
	out->nlarge = minus(m.nlarge, out->nlarge);
	out->nforeign = heap_foreign_count();
	out->live_bytes = minus(out->inuse_small + out->inuse_large,
				out->central_free + out->tails + out->cached);
}

void heap_get_class_stats(unsigned c, struct heap_class_stats *out)
{
	struct mcentral_counts counts;

	mcentral_count(c, &counts);
	*out = (struct heap_class_stats){
		.slot_size = sizeclass_info[c].slot_size,
		.nspans = counts.nspans,
		.span_bytes = counts.npages << PAGE_SHIFT,
		.free = counts.nfree,
		.transfer = counts.ntransfer,
	};
	lock_acquire(&mcache_lock);
	for (const struct mcache *mc = mcache_list(); mc; mc = mc->next)
		out->cached += count_cached(mc, c);
	lock_release(&mcache_lock);
	out->live = minus(counts.nslots, out->free + out->transfer + out->cached);
}
