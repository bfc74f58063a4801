/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark_table: the tables of the marker: which objects there are, and where their bits
 * lie.
 *
 * Two ways to make them. With the heap's locks held, in one go: mark_init(). Beside a
 * program that runs, without any lock: mark_count(), mark_map(), mark_fill(). There a
 * span may change under our eyes, so all that counts of it is copied first (its first
 * cache line, a "head"), compared with what a span of its class must be, and never read
 * from the span again. What is missed is never white; what was freed meanwhile may be.
 */
#include "profiler/leak/mark.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/sizeclass.h"

#define STACK_FIRST    4096		 /* of the sweep */
#define STACK_LEAST    4096		 /* of a worker, words */
#define STACK_FRACTION 256		 /* of the heap, in bytes */
#define STACK_OF_LOOK  ((size_t)1 << 20) /* of the sweep; it cannot grow */
#define ROOM_SPANS     1024		 /* of a look: more than were counted */
#define ROOM_BITS      65536
#define ROOM_PAGES     1024 /* of an arena */
#define ODD_TRIES      16

#define NO_SANITIZE    __attribute__((no_sanitize("address", "thread", "undefined")))

size_t mark_bitmap_bytes(const struct marker *m)
{
	return (m->nbits / 64 + 1) * sizeof(uint64_t);
}

/* As mapped. */
static size_t map_bytes(const struct marker *m)
{
	size_t n = m->room_bits > m->nbits ? m->room_bits : m->nbits;

	return (n / 64 + 1) * sizeof(uint64_t);
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
	m->nbits += mark_bits_of(s);
	m->nspans++;
	m->heap_bytes += s->npages << PAGE_SHIFT;
}

static void note_pages(struct marker *m, const struct mspan *s)
{
	const struct mark_arena *a = mark_arena_of(m, s->base);
	struct mark_page *page;

	if (!a)
		return;
	page = &a->pages[(s->base - a->base) >> PAGE_SHIFT];
	for (size_t i = 0; i < s->npages; i++)
		page[i] = (struct mark_page){ .magic = s->slot_size ? s->magic : 0,
					      .slot_size = s->slot_size,
					      .first = (uint32_t)(mark_first_bit(m, s) /
								  64),
					      .page = (uint32_t)i };
}

static void note_span(struct marker *m, struct mspan *s)
{
	size_t nwords = align_up(s->nslots, 64) / 64;
	uint64_t *live = &m->live[s->mark_index / 64];

	m->spans[m->nspans++] = s;
	memcpy(live, s->alloc_bits, nwords * sizeof(*live));
	if (s->nslots % 64)
		live[nwords - 1] &= ((uint64_t)1 << s->nslots % 64) - 1;
	note_pages(m, s);
}

static void drop_cached(uintptr_t slot, void *arg)
{
	struct marker *m = arg;
	uint32_t index;
	struct mspan *s = heap_find(slot, &index);

	if (s)
		mark_clear(m->live, s->mark_index + index);
}

static bool init_tables(struct marker *m)
{
	for (size_t i = 0; i < arena_count(); i++) {
		const struct arena *from = arena_at(i);
		size_t npages = atomic_load_acquire(&from->end_page) - from->first_page;
		struct mark_arena *a = &m->arenas[m->narenas++];

		a->base = from->base + (from->first_page << PAGE_SHIFT);
		a->bytes = npages << PAGE_SHIFT;
		a->table_bytes = (npages + 1) * sizeof(*a->pages);
		a->pages = meta_map(a->table_bytes, META_LEAK);
		if (!a->pages)
			return false;
	}
	return true;
}

bool mark_worker_init(struct marker *m, struct mark_worker *w)
{
	w->m = m;
	w->lo = m->narenas == 1 ? m->arenas[0].base : m->lo;
	w->hi = m->narenas == 1 ? w->lo + m->arenas[0].bytes : m->hi;
	w->capacity = m->heap_bytes / STACK_FRACTION / sizeof(*w->stack);
	if (w->capacity < STACK_LEAST)
		w->capacity = STACK_LEAST;
	w->stack = meta_map(w->capacity * sizeof(*w->stack), META_LEAK);
	w->ranges = meta_map(MARK_RANGES * sizeof(*w->ranges), META_LEAK);
	return w->stack && w->ranges;
}

void mark_worker_free(struct mark_worker *w)
{
	meta_unmap(w->stack, w->capacity * sizeof(*w->stack), META_LEAK);
	meta_unmap(w->ranges, MARK_RANGES * sizeof(*w->ranges), META_LEAK);
	w->stack = NULL;
	w->ranges = NULL;
}

static size_t most_spans(const struct marker *m)
{
	return (m->room_spans ? m->room_spans : m->nspans) + 1;
}

static bool init_memory(struct marker *m)
{
	size_t bytes = map_bytes(m), nspans = most_spans(m);

	m->live = meta_map(bytes, META_LEAK);
	m->white = meta_map(bytes, META_LEAK);
	m->pointed = meta_map(bytes, META_LEAK);
	m->inner = meta_map(bytes, META_LEAK);
	m->spans = meta_map(nspans * sizeof(struct mspan *), META_LEAK);
	m->capacity = m->room_spans ? STACK_OF_LOOK : STACK_FIRST;
	m->stack = meta_map(m->capacity * sizeof(*m->stack), META_LEAK);
	m->nworkers = 1;
	m->workers[0].white = m->white;
	return m->live && m->white && m->pointed && m->inner && m->spans && m->stack &&
	       mark_worker_init(m, &m->workers[0]);
}

bool mark_init(struct marker *m)
{
	memset(m, 0, sizeof(*m));
	heap_bounds(&m->lo, &m->hi);
	m->nbits = 64; /* of pages without objects, never white */
	each_span(m, number_span);
	if (!init_tables(m) || !init_memory(m))
		return false;
	m->nspans = 0;
	each_span(m, note_span);
	heap_each_cached(drop_cached, m);
	memcpy(m->white, m->live, mark_bitmap_bytes(m));
	m->refill_at = m->nspans;
	return true;
}

void mark_free(struct marker *m)
{
	size_t bytes = map_bytes(m), nspans = most_spans(m);

	for (unsigned i = 0; i < m->nworkers; i++)
		mark_worker_free(&m->workers[i]);
	for (size_t i = 0; i < m->narenas; i++)
		meta_unmap(m->arenas[i].pages, m->arenas[i].table_bytes, META_LEAK);
	meta_unmap(m->live, bytes, META_LEAK);
	meta_unmap(m->white, bytes, META_LEAK);
	meta_unmap(m->pointed, bytes, META_LEAK);
	meta_unmap(m->inner, bytes, META_LEAK);
	meta_unmap(m->spans, nspans * sizeof(struct mspan *), META_LEAK);
	meta_unmap(m->heads, nspans * CACHE_LINE, META_LEAK);
	meta_unmap(m->born, bytes, META_LEAK);
	meta_unmap(m->maybe, bytes, META_LEAK);
	meta_unmap(m->stack, m->capacity * sizeof(*m->stack), META_LEAK);
	memset(m, 0, sizeof(*m));
}

/* ---- beside a running program ---- */

static struct mspan *nth_head(const struct marker *m, size_t i)
{
	return (struct mspan *)(void *)(m->heads + i * CACHE_LINE);
}

struct mspan *mark_head_of(const struct marker *m, size_t bit)
{
	size_t first = 0, end = m->nspans;

	while (end - first > 1) {
		size_t middle = (first + end) / 2;

		if (mark_first_bit(m, nth_head(m, middle)) <= bit)
			first = middle;
		else
			end = middle;
	}
	return nth_head(m, first);
}

/* What a span of its class must be, which may be a short one, and inside the arena, which
 * ends at end. */
static bool makes_sense(const struct mspan *s, uintptr_t end)
{
	const struct sizeclass_info *c;
	size_t nslots;

	if (s->npages == 0 || s->npages > (end - s->base) >> PAGE_SHIFT)
		return false;
	if (s->state == MSPAN_LARGE)
		return s->slot_size == 0 && s->nslots == 1;
	if (s->state != MSPAN_SMALL || s->sizeclass == 0 ||
	    s->sizeclass >= SIZECLASS_COUNT)
		return false;
	c = &sizeclass_info[s->sizeclass];
	nslots = s->npages <= c->npages ? (s->npages << PAGE_SHIFT) / c->slot_size : 0;
	return s->slot_size == c->slot_size && s->magic == c->magic && nslots > 0 &&
	       s->nslots == (nslots < c->nslots ? nslots : c->nslots);
}

/* The span that begins at addr, as it was in one moment. NULL: none does. */
static NO_SANITIZE struct mspan *read_once(uintptr_t addr, uintptr_t end,
					   struct mspan *head)
{
	struct mspan *s = heap_find(addr, NULL);

	head->base = 0;
	if (!s || *(volatile uintptr_t *)&s->base != addr)
		return NULL;
	memcpy(head, s, CACHE_LINE);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (head->base != addr || !makes_sense(head, end) || heap_find(addr, NULL) != s ||
	    s->base != addr || s->npages != head->npages ||
	    s->slot_size != head->slot_size)
		return NULL;
	return s;
}

/* In use, whole for all that can be seen, and yet no span as it has to be: what this does
 * not know must not be left out in silence. */
static bool stays_odd(uintptr_t addr, uintptr_t end, struct mspan *head)
{
	for (unsigned i = 0; i < ODD_TRIES; i++) {
		if (head->base != addr ||
		    (head->state != MSPAN_SMALL && head->state != MSPAN_LARGE))
			return false;
		os_yield();
		if (read_once(addr, end, head))
			return false;
	}
	return true;
}

static struct mspan *read_head(struct marker *m, uintptr_t addr, uintptr_t end,
			       struct mspan *head)
{
	struct mspan *s = read_once(addr, end, head);

	if (!s && UNLIKELY(head->base == addr)) {
		m->has_odd |= stays_odd(addr, end, head);
		s = read_once(addr, end, head);
	}
	return s;
}

typedef bool (*head_fn)(struct marker *m, const struct mspan *s, struct mspan *head);

/* Of the arena that m has in place i. False: fn said so. */
static bool each_head_of(struct marker *m, size_t i, head_fn fn)
{
	const uintptr_t end = m->arenas[i].base + m->arenas[i].bytes;
	union {
		struct mspan span;
		char line[CACHE_LINE];
	} head;

	for (uintptr_t addr = m->arenas[i].base; addr < end;) {
		struct mspan *s = read_head(m, addr, end, &head.span);

		addr += s ? head.span.npages << PAGE_SHIFT : PAGE_SIZE;
		if (s && !fn(m, s, &head.span))
			return false;
	}
	return true;
}

static bool count_head(struct marker *m, const struct mspan *s, struct mspan *head)
{
	(void)s;
	m->nbits += mark_bits_of(head);
	m->nspans++;
	m->heap_bytes += head->npages << PAGE_SHIFT;
	return true;
}

void mark_count(struct marker *m)
{
	memset(m, 0, sizeof(*m));
	m->nbits = 64;
	m->lo = UINTPTR_MAX;
	for (size_t i = 0; i < arena_count(); i++) {
		const struct arena *from = arena_at(i);
		size_t end = atomic_load_acquire(&from->end_page);
		struct mark_arena *a = &m->arenas[m->narenas];

		if (atomic_load_acquire(&from->size) == 0 || end <= from->first_page)
			continue;
		a->base = from->base + (from->first_page << PAGE_SHIFT);
		a->bytes = (end - from->first_page) << PAGE_SHIFT;
		if (a->base < m->lo)
			m->lo = a->base;
		if (a->base + a->bytes > m->hi)
			m->hi = a->base + a->bytes;
		each_head_of(m, m->narenas++, count_head);
	}
	if (m->narenas == 0)
		m->lo = 0;
}

bool mark_map(struct marker *m)
{
	m->room_spans = 2 * m->nspans + ROOM_SPANS;
	m->room_bits = 2 * m->nbits + ROOM_BITS;
	for (size_t i = 0; i < m->narenas; i++) {
		struct mark_arena *a = &m->arenas[i];

		a->room_pages = a->bytes >> PAGE_SHIFT;
		a->room_pages += a->room_pages + ROOM_PAGES;
		a->table_bytes = (a->room_pages + 1) * sizeof(*a->pages);
		a->pages = meta_map(a->table_bytes, META_LEAK);
		if (!a->pages)
			return false;
	}
	m->heads = meta_map(most_spans(m) * CACHE_LINE, META_LEAK);
	m->born = meta_map(map_bytes(m), META_LEAK);
	m->maybe = meta_map(map_bytes(m), META_LEAK);
	return m->heads && m->born && m->maybe && init_memory(m);
}

static NO_SANITIZE bool note_head(struct marker *m, const struct mspan *s,
				  struct mspan *head)
{
	struct mspan *to = nth_head(m, m->nspans);
	uint64_t *live = &m->live[m->nbits / 64];

	if (m->nspans == m->room_spans || m->nbits + mark_bits_of(head) > m->room_bits)
		return false;
	memcpy(to, head, CACHE_LINE);
	to->alloc_bits[0] = m->nbits;
	for (size_t i = 0; i < align_up(head->nslots, 64) / 64; i++)
		live[i] = atomic_load_relaxed(&s->alloc_bits[i]);
	if (head->nslots % 64)
		live[head->nslots / 64] &= ((uint64_t)1 << head->nslots % 64) - 1;
	m->nbits += mark_bits_of(head);
	m->heap_bytes += head->npages << PAGE_SHIFT;
	m->spans[m->nspans++] = to;
	note_pages(m, to);
	return true;
}

static void drop_cached_here(uintptr_t slot, void *arg)
{
	struct marker *m = arg;
	uint32_t index;
	size_t bit;

	if (mark_find(m, slot, &index, &bit)) {
		mark_clear(m->live, bit);
		mark_clear(m->white, bit);
	}
}

void mark_drop_cached(struct marker *m)
{
	heap_each_cached_now(drop_cached_here, m);
}

/* The arenas may have grown, as far as their tables go. */
static void fit_arenas(struct marker *m)
{
	struct mark_worker *w = &m->workers[0];

	for (size_t i = 0; i < m->narenas; i++) {
		struct mark_arena *a = &m->arenas[i];
		const struct arena *now = arena_of(a->base);
		size_t pages;

		if (!now || now->base + (now->first_page << PAGE_SHIFT) != a->base)
			continue;
		pages = atomic_load_acquire(&now->end_page) - now->first_page;
		if (pages > a->room_pages)
			pages = a->room_pages;
		a->bytes = pages << PAGE_SHIFT;
		if (a->base + a->bytes > m->hi)
			m->hi = a->base + a->bytes;
	}
	w->hi = m->narenas == 1 ? w->lo + m->arenas[0].bytes : m->hi;
}

bool mark_fill(struct marker *m)
{
	m->nbits = 64;
	m->nspans = m->heap_bytes = 0;
	fit_arenas(m);
	for (size_t i = 0; i < m->narenas; i++)
		if (!each_head_of(m, i, note_head))
			return false;
	mark_drop_cached(m);
	memcpy(m->white, m->live, mark_bitmap_bytes(m));
	m->refill_at = m->nspans;
	return true;
}

/* ---- what has come since ---- */

/* Its objects are no more, for all that is known. */
static void forget_head(struct marker *m, const struct mspan *head)
{
	const size_t first = mark_first_bit(m, head) / 64;

	memset(&m->live[first], 0, mark_bits_of(head) / 8);
	memset(&m->white[first], 0, mark_bits_of(head) / 8);
}

static NO_SANITIZE void add_objects(struct marker *m, const struct mspan *s,
				    const struct mspan *head)
{
	const size_t first = mark_first_bit(m, head) / 64;

	for (size_t i = 0; i < align_up(head->nslots, 64) / 64; i++) {
		uint64_t now = atomic_load_relaxed(&s->alloc_bits[i]);

		if (head->nslots % 64 && i == head->nslots / 64)
			now &= ((uint64_t)1 << head->nslots % 64) - 1;
		now &= ~m->live[first + i];
		m->live[first + i] |= now;
		m->white[first + i] |= now;
		m->born[first + i] |= now;
	}
}

static NO_SANITIZE bool refresh_head(struct marker *m, const struct mspan *s,
				     struct mspan *head)
{
	const struct mark_arena *a = mark_arena_of(m, head->base);
	const size_t first_page = a ? (head->base - a->base) >> PAGE_SHIFT : 0;
	struct mspan *to;

	for (size_t i = 0; a && i < head->npages; i++) {
		const struct mark_page *p = &a->pages[first_page + i];

		if (p->first == 0)
			continue;
		to = mark_head_of(m, (size_t)p->first * 64);
		if (to->base == head->base && to->npages == head->npages &&
		    to->slot_size == head->slot_size) {
			add_objects(m, s, to);
			return true;
		}
		forget_head(m, to);
	}
	if (!note_head(m, s, head))
		return false;
	to = m->spans[m->nspans - 1];
	forget_head(m, to);
	add_objects(m, s, to);
	return true;
}

bool mark_refresh(struct marker *m)
{
	bool room = true;

	fit_arenas(m);
	for (size_t i = 0; room && i < m->narenas; i++)
		room = each_head_of(m, i, refresh_head);
	mark_drop_cached(m);
	m->refill_at = m->nspans;
	return room;
}

void mark_again(struct marker *m)
{
	for (size_t i = 0; i < m->nspans; i++) {
		const struct mspan *s = m->spans[i];
		const size_t size = mspan_slot_bytes(s), bit = mark_first_bit(m, s);
		uint32_t from = 0;

		for (uint32_t k = 0; k <= s->nslots; k++) {
			if (k < s->nslots && mark_test(m->live, bit + k) &&
			    !mark_test(m->white, bit + k))
				continue;
			if (from < k)
				mark_range(m, s->base + from * size, s->base + k * size);
			from = k + 1;
		}
	}
}

void mark_clear_all(struct marker *m)
{
	struct mark_worker *w = &m->workers[0];
	uint64_t *const maps[] = { m->live,  m->white, m->pointed,
				   m->inner, m->born,  m->maybe };

	size_t used = m->nbits + MSPAN_MAX_SLOTS + 64; /* one more may have been begun */

	if (used > m->room_bits)
		used = m->room_bits;
	for (size_t i = 0; i < ARRAY_LEN(maps); i++)
		memset(maps[i], 0, used / 8);
	for (size_t i = 0; i < m->narenas; i++)
		memset(m->arenas[i].pages, 0, m->arenas[i].table_bytes);
	w->used = w->nfound = w->nranges = 0;
	w->head = w->tail = 0;
	w->objects = w->bytes = 0;
	m->objects = m->bytes = 0;
	m->used = 0;
	m->spilled = 0;
	m->strict = m->out_of_memory = false;
}

static bool is_set(const uint64_t *words, uint32_t index)
{
	return atomic_load_relaxed(&words[index / 64]) >> (index % 64) & 1;
}

NO_SANITIZE bool mark_is_still_live(const struct mspan *head, uint32_t index)
{
	struct mspan now;
	const struct mspan *s = read_once(head->base, UINTPTR_MAX, &now);

	return s && now.npages == head->npages && now.slot_size == head->slot_size &&
	       is_set(s->alloc_bits, index);
}

NO_SANITIZE bool mark_has_new_samples(const struct mspan *head)
{
	struct mspan now;

	return read_once(head->base, UINTPTR_MAX, &now) && now.samples != head->samples;
}
