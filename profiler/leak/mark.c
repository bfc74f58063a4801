/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark: see mark.h.
 *
 * A word of a root or an object counts as a pointer when it lies in a live object, at its
 * start or inside. Candidates pass a small queue on their way to the bitmap: the span's
 * and the object's cache lines are asked for when a candidate enters and used when it
 * leaves.
 */
#include "profiler/leak/mark.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"

#define STACK_FIRST 65536

#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

size_t mark_bitmap_bytes(const struct marker *m)
{
	return (m->nbits / 64 + 1) * sizeof(uint64_t);
}

/* Calls fn for every span in use of a, by address. */
static void each_span_of(const struct arena *a,
			 void (*fn)(struct marker *, struct mspan *), struct marker *m)
{
	size_t end = atomic_load_acquire(&a->end_page);

	for (size_t page = a->first_page; page < end;) {
		uintptr_t addr = a->base + (page << PAGE_SHIFT);
		struct mspan *s = heap_find(addr, NULL);

		if (s && s->base == addr) {
			fn(m, s);
			page += s->npages;
		} else {
			page++;
		}
	}
}

static void each_span(struct marker *m, void (*fn)(struct marker *, struct mspan *))
{
	for (size_t i = 0; i < arena_count(); i++)
		each_span_of(arena_at(i), fn, m);
}

static void number_span(struct marker *m, struct mspan *s)
{
	s->mark_index = m->nbits;
	m->nbits += align_up(s->nslots, 64);
	m->nspans++;
}

static void note_span(struct marker *m, struct mspan *s)
{
	size_t nwords = align_up(s->nslots, 64) / 64;
	uint64_t *live = &m->live[s->mark_index / 64];

	m->spans[m->nspans++] = s;
	memcpy(live, s->alloc_bits, nwords * sizeof(*live));
	if (s->nslots % 64)
		live[nwords - 1] &= ((uint64_t)1 << s->nslots % 64) - 1;
}

static void drop_cached(uintptr_t slot, void *arg)
{
	struct marker *m = arg;
	uint32_t index;
	struct mspan *s = heap_find(slot, &index);

	if (s)
		m->live[(s->mark_index + index) / 64] &=
			~((uint64_t)1 << ((s->mark_index + index) % 64));
}

bool mark_init(struct marker *m)
{
	memset(m, 0, sizeof(*m));
	heap_bounds(&m->lo, &m->hi);
	each_span(m, number_span);
	m->live = meta_map(mark_bitmap_bytes(m), META_LEAK);
	m->marked = meta_map(mark_bitmap_bytes(m), META_LEAK);
	m->pointed = meta_map(mark_bitmap_bytes(m), META_LEAK);
	m->spans = meta_map((m->nspans + 1) * sizeof(struct mspan *), META_LEAK);
	m->capacity = STACK_FIRST;
	m->stack = meta_map(m->capacity * sizeof(*m->stack), META_LEAK);
	if (!m->live || !m->marked || !m->pointed || !m->spans || !m->stack)
		return false;
	m->nspans = 0;
	each_span(m, note_span);
	heap_each_cached(drop_cached, m);
	return true;
}

void mark_free(struct marker *m)
{
	meta_unmap(m->live, mark_bitmap_bytes(m), META_LEAK);
	meta_unmap(m->marked, mark_bitmap_bytes(m), META_LEAK);
	meta_unmap(m->pointed, mark_bitmap_bytes(m), META_LEAK);
	meta_unmap(m->spans, (m->nspans + 1) * sizeof(struct mspan *), META_LEAK);
	meta_unmap(m->stack, m->capacity * sizeof(*m->stack), META_LEAK);
	memset(m, 0, sizeof(*m));
}

struct mspan *mark_find(const struct marker *m, uintptr_t word, uint32_t *out_index,
			size_t *out_bit)
{
	struct mspan *s;

	if (word - m->lo >= m->hi - m->lo)
		return NULL;
	s = heap_find(word, out_index);
	if (!s)
		return NULL;
	*out_bit = s->mark_index + *out_index;
	return mark_test(m->live, *out_bit) ? s : NULL;
}

static bool grow_stack(struct marker *m)
{
	size_t bytes = m->capacity * sizeof(*m->stack);
	void *p = meta_remap(m->stack, bytes, bytes * 2, META_LEAK);

	if (!p) {
		m->out_of_memory = true;
		return false;
	}
	m->stack = p;
	m->capacity *= 2;
	return true;
}

void mark_push(struct marker *m, uintptr_t lo, uintptr_t hi)
{
	if (m->used == m->capacity && !grow_stack(m))
		return;
	m->stack[m->used++] = (struct grey){ lo, hi };
}

void mark_word(struct marker *m, uintptr_t word)
{
	uint32_t index;
	size_t bit;
	struct mspan *s = mark_find(m, word, &index, &bit);
	uintptr_t base;

	if (!s || mark_test(m->marked, bit))
		return;
	mark_set(m->marked, bit);
	base = s->slot_size ? mspan_slot(s, index) : s->base;
	m->objects++;
	m->bytes += mspan_slot_bytes(s);
	mark_push(m, base, base + mspan_slot_bytes(s));
}

NO_SANITIZE void mark_range(struct marker *m, uintptr_t lo, uintptr_t hi)
{
	uintptr_t start = m->lo, span = m->hi - m->lo;

	lo = align_up(lo, sizeof(uintptr_t));
	for (; lo + sizeof(uintptr_t) <= hi; lo += sizeof(uintptr_t)) {
		uintptr_t word = *(const volatile uintptr_t *)lo;

		if (LIKELY(word - start >= span))
			continue;
		__builtin_prefetch((const void *)align_down(word, CACHE_LINE));
		m->queue[m->tail++ % MARK_QUEUE] = word;
		if (m->tail - m->head == MARK_QUEUE)
			mark_word(m, m->queue[m->head++ % MARK_QUEUE]);
	}
}

void mark_drain(struct marker *m)
{
	for (;;) {
		if (m->used > 0) {
			struct grey g = m->stack[--m->used];

			mark_range(m, g.lo, g.hi);
		} else if (m->head != m->tail) {
			mark_word(m, m->queue[m->head++ % MARK_QUEUE]);
		} else {
			return;
		}
	}
}
