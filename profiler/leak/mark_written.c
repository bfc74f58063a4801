/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark_written: marking again from pages of the heap that were written since they were
 * looked at. What is black there is scanned again, what is white will be when it is
 * reached. What is neither has been made since, or lies in a cache, or is free: a doubt,
 * which is settled by what the span and the caches say. What was made since is taken for
 * reached: it is in nobody's list of lost objects.
 *
 * Whether an object is only possibly lost depends on white ones that lead to it, and what
 * they hold, the program may change as soon as it goes on. So those are made black before
 * the stop, and followed like all others; afterwards they are told apart again. For a
 * pointer to their start that comes up meanwhile, all is marked a second time.
 */
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/heap/heap.h"
#include "preload/heap/sizeclass.h"
#include "profiler/leak/mark.h"

#define DOUBTS	    65536
#define TABLE	    (4 * DOUBTS) /* a power of two */
#define HASH	    0x9e3779b97f4a7c15u

#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

static size_t doubts_bytes(void)
{
	return DOUBTS * sizeof(struct mark_doubt) + TABLE * sizeof(uint32_t);
}

bool mark_doubts_map(struct mark_doubts *d)
{
	memset(d, 0, sizeof(*d));
	d->list = meta_map(doubts_bytes(), META_LEAK);
	d->table = d->list ? (uint32_t *)(void *)(d->list + DOUBTS) : NULL;
	return d->list != NULL;
}

void mark_doubts_unmap(struct mark_doubts *d)
{
	meta_unmap(d->list, doubts_bytes(), META_LEAK);
	memset(d, 0, sizeof(*d));
}

/* Its place, or that of nothing. */
static uint32_t *find(const struct mark_doubts *d, uintptr_t base)
{
	size_t i = (base >> 4) * HASH >> 40;

	for (;; i++) {
		uint32_t *at = &d->table[i & (TABLE - 1)];

		if (*at == 0 || d->list[*at - 1].base == base)
			return at;
	}
}

void mark_doubt(struct mark_doubts *d, uintptr_t base)
{
	uint32_t *at = find(d, base);

	if (*at != 0)
		return; /* by another of its pages */
	if (d->count == DOUBTS) {
		d->full = true;
		return;
	}
	d->list[d->count] = (struct mark_doubt){ .base = base };
	*at = (uint32_t)++d->count;
}

/* ---- a page ---- */

/* The span of a page as it is now. */
struct geometry {
	const struct mspan *s;
	uintptr_t base;
	size_t slot_size, nslots;
};

static NO_SANITIZE bool geometry_at(uintptr_t page, struct geometry *out)
{
	const struct mspan *s = heap_find(page, NULL);

	if (!s || (s->state != MSPAN_SMALL && s->state != MSPAN_LARGE))
		return false;
	*out = (struct geometry){ .s = s,
				  .base = s->base,
				  .slot_size = mspan_slot_bytes(s),
				  .nslots = s->nslots };
	return out->slot_size > 0 && page - s->base < s->npages << PAGE_SHIFT;
}

/* The span that the tables have there, if it still is that. An inner page of a large one
 * leads to nothing (heap_find()), so it is looked for where the tables say that it
 * begins.
 */
static NO_SANITIZE bool is_known(const struct marker *m, const struct mark_page *p,
				 struct geometry *out)
{
	const struct mspan *head;

	if (!p || p->first == 0)
		return false;
	head = mark_head_of(m, (size_t)p->first * 64);
	return geometry_at(head->base, out) && out->base == head->base &&
	       out->s->npages == head->npages && out->slot_size == mspan_slot_bytes(head);
}

/* One that is new: back to where it begins, or to the page that was asked for before.
 * False: there is none. */
static NO_SANITIZE bool find_new(struct mark_doubts *d, uintptr_t page,
				 struct geometry *out)
{
	uintptr_t at = page;
	bool found = false;

	for (; !found && at != d->walked && arena_of(at); at -= PAGE_SIZE)
		found = geometry_at(at, out);
	if (!found && at == d->walked && d->near)
		found = geometry_at(d->near, out);
	d->walked = page;
	d->near = found ? out->base : 0;
	return found && page - out->base < out->s->npages << PAGE_SHIFT;
}

static bool is_given_out(const struct geometry *g, size_t index)
{
	return atomic_load_relaxed(&g->s->alloc_bits[index / 64]) >> (index % 64) & 1;
}

/* lo to hi: of one page of the heap; p: NULL where the tables end before it. */
static void mark_page_again(struct marker *m, const struct mark_page *p, uintptr_t page,
			    uintptr_t lo, uintptr_t hi, struct mark_doubts *d)
{
	const uint64_t *white = m->workers[0].white; /* or maybe */
	struct geometry g;
	size_t first, last;
	bool known;

	known = is_known(m, p, &g);
	if (!known && (!d || !find_new(d, page, &g)))
		return; /* without d the next mark_refresh() finds it */
	first = (lo - g.base) / g.slot_size;
	last = (hi - 1 - g.base) / g.slot_size;
	for (size_t i = first; i <= last && i < g.nslots; i++) {
		const uintptr_t slot = g.base + i * g.slot_size;
		const size_t bit = known ? (size_t)p->first * 64 + i : 0;

		if (known && mark_test(m->live, bit)) {
			if (!mark_test(m->white, bit) && !mark_test(white, bit))
				mark_range(m, slot > lo ? slot : lo,
					   slot + g.slot_size < hi ? slot + g.slot_size
								   : hi);
		} else if (d && is_given_out(&g, i)) {
			mark_doubt(d, slot);
		}
	}
}

NO_SANITIZE void mark_written(struct marker *m, uintptr_t lo, uintptr_t hi,
			      struct mark_doubts *d)
{
	if (d && lo < d->walked)
		d->walked = d->near = 0;
	for (uintptr_t at = lo, next; at < hi; at = next) {
		const struct mark_arena *a = mark_arena_of(m, at);
		const uintptr_t page = align_down(at, PAGE_SIZE);

		next = page + PAGE_SIZE < hi ? page + PAGE_SIZE : hi;
		if (a || arena_of(at))
			mark_page_again(
				m, a ? &a->pages[(at - a->base) >> PAGE_SHIFT] : NULL,
				page, at, next, d);
	}
}

/* ---- what is in doubt ---- */

static void drop_doubt(uintptr_t slot, void *arg)
{
	const struct mark_doubts *d = arg;
	const uint32_t *at = find(d, slot);

	if (*at != 0)
		d->list[*at - 1].is_free = true;
}

static void ask_caches(struct mark_doubts *d)
{
	if (d->count > d->asked)
		heap_each_cached_now(drop_doubt, d);
	d->asked = d->count;
}

/* Is it the program's? */
static NO_SANITIZE bool is_object(const struct mark_doubt *d, size_t *out_bytes)
{
	struct geometry g;
	size_t index;

	if (d->is_free || !geometry_at(align_down(d->base, PAGE_SIZE), &g))
		return false;
	index = (d->base - g.base) / g.slot_size;
	if (out_bytes)
		*out_bytes = g.slot_size;
	return index < g.nslots && g.base + index * g.slot_size == d->base &&
	       is_given_out(&g, index);
}

NO_SANITIZE void mark_settle_white(struct marker *m, struct mark_doubts *d)
{
	uint32_t index;
	size_t bit;

	ask_caches(d);
	for (size_t i = 0; i < d->count; i++) {
		if (mark_find(m, d->list[i].base, &index, &bit) &&
		    (mark_test(m->white, bit) || mark_test(m->maybe, bit)) &&
		    !is_object(&d->list[i], NULL)) {
			mark_clear(m->live, bit);
			mark_clear(m->white, bit);
			mark_clear(m->maybe, bit);
		}
	}
}

void mark_settle(struct marker *m, struct mark_doubts *d)
{
	size_t bytes;

	ask_caches(d);
	for (size_t i = 0; i < d->count; i++)
		if (is_object(&d->list[i], &bytes))
			mark_range(m, d->list[i].base, d->list[i].base + bytes);
}

/* ---- what pointers into the middle reach ---- */

static void reach_inner_of(struct marker *m, const struct mspan *s)
{
	const size_t first = mark_first_bit(m, s);

	for (uint32_t i = 0; i < s->nslots; i++)
		if (mark_test(m->white, first + i) && mark_test(m->inner, first + i))
			mark_word(m, s->base + i * mspan_slot_bytes(s));
}

void mark_reach_inner(struct marker *m)
{
	const size_t words = mark_bitmap_bytes(m) / sizeof(*m->maybe);

	memcpy(m->maybe, m->white, mark_bitmap_bytes(m));
	m->strict = false;
	for (size_t i = 0; i < m->nspans; i++)
		reach_inner_of(m, m->spans[i]);
	mark_drain(m);
	m->has_maybe = false;
	for (size_t i = 0; i < words; i++) {
		m->maybe[i] &= ~m->white[i];
		m->has_maybe |= m->maybe[i] != 0;
	}
}

bool mark_begin_maybe(struct marker *m)
{
	if (!m->has_maybe)
		return false;
	m->workers[0].white = m->maybe;
	m->strict = true;
	return true;
}

void mark_end_maybe(struct marker *m)
{
	m->workers[0].white = m->white;
	m->strict = false;
}

void mark_show_maybe(struct marker *m)
{
	const size_t words = mark_bitmap_bytes(m) / sizeof(*m->maybe);

	for (size_t i = 0; i < words; i++)
		m->white[i] |= m->maybe[i] & m->live[i];
}
