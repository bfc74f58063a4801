/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark: see mark.h.
 *
 * A word of a root or an object counts as a pointer when it lies in a live object, at its
 * start or inside. Reached objects go on a stack; what comes off it passes a small queue,
 * where its cache lines are asked for when it enters and used when it leaves. How many
 * pointers an object has, and whether what they lead to is white already, is decided
 * without a branch, since no branch predictor knows: what an object has is put with what
 * others had, and a number of them is looked up at once.
 *
 * The stack is bounded, to a small part of the heap: what does not fit is spilled, as a
 * bit in a bitmap, and comes back in order of address when the rest is done.
 */
#include "profiler/leak/mark.h"

#include <emmintrin.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/heap/heap.h"
#include "profiler/leak/absent.h"
#include "profiler/leak/inner.h"

#define REFILL_PART	4   /* of a stack that spilled objects may take */
#define SHARE_TURNS	32  /* between looks at whether somebody waits for work */
#define EXCHANGE_TURNS	256 /* between looks at what others have reached */
#define EXCHANGE_LOGGED 256
#define CODE_STEP	16
#define CODE_TOPS	3	/* ranges of addresses that differ in their upper bytes */
#define TOP_SHIFT	40	/* to byte 5 of a word; those above are 0 */
#define ODD_PLACES	0xfefeu /* of CODE_STEP places, those at odd addresses */
#define SCAN_BYTES	(MARK_SCAN_WORDS * sizeof(uintptr_t))
#define LOW_BITS	8 /* an address with something in these is no inner pointer */

#define NO_SANITIZE	__attribute__((no_sanitize("address", "thread", "undefined")))
#define INLINE		static inline __attribute__((always_inline))

/* ---- from a word to its object ---- */

/* An object, or a place where there is none: then its bit is never white. */
struct place {
	uintptr_t base;
	size_t inside; /* bytes from the base to the word */
	size_t bit;
};

INLINE NO_SANITIZE struct place place_of(const struct mark_arena *a, uintptr_t word)
{
	size_t at = word - a->base;
	const struct mark_page *p = &a->pages[at >> PAGE_SHIFT];
	size_t in_span = ((size_t)p->page << PAGE_SHIFT) + (at & (PAGE_SIZE - 1));
	size_t index = (size_t)((uint64_t)in_span * p->magic >> MSPAN_MAGIC_SHIFT);
	size_t inside = in_span - index * p->slot_size;

	return (struct place){ word - inside, inside, (size_t)p->first * 64 + index };
}

/* Its span in the tables of a look; NULL: there is none. */
static NO_SANITIZE COLD const struct mspan *
head_at(const struct marker *m, const struct mark_arena *a, uintptr_t addr)
{
	const struct mark_page *p = &a->pages[(addr - a->base) >> PAGE_SHIFT];

	return p->first ? mark_head_of(m, (size_t)p->first * 64) : NULL;
}

static NO_SANITIZE struct mspan *find_head(const struct marker *m, uintptr_t word,
					   uint32_t *out_index, size_t *out_bit)
{
	const struct mark_arena *a = mark_arena_of(m, word);
	struct mspan *s;

	if (!a)
		return NULL;
	*out_bit = place_of(a, word).bit;
	if (!mark_test(m->live, *out_bit))
		return NULL;
	s = mark_head_of(m, *out_bit);
	*out_index = (uint32_t)(*out_bit - mark_first_bit(m, s));
	return s;
}

struct mspan *mark_find(const struct marker *m, uintptr_t word, uint32_t *out_index,
			size_t *out_bit)
{
	struct mspan *s;

	if (word - m->lo >= m->hi - m->lo)
		return NULL;
	if (m->heads)
		return find_head(m, word, out_index, out_bit);
	s = heap_find(word, out_index);
	if (!s)
		return NULL;
	*out_bit = s->mark_index + *out_index;
	return mark_test(m->live, *out_bit) ? s : NULL;
}

/* Of an object's first byte. */
INLINE NO_SANITIZE size_t size_at(const struct marker *m, uintptr_t base)
{
	const struct mark_arena *a = &m->arenas[0];
	const struct mspan *s;

	if (LIKELY(base - a->base < a->bytes)) {
		uint32_t size = a->pages[(base - a->base) >> PAGE_SHIFT].slot_size;

		if (LIKELY(size != 0))
			return size;
		if (m->heads) {
			s = head_at(m, a, base);
			return s ? mspan_slot_bytes(s) : 0;
		}
	} else if (m->heads) {
		a = mark_arena_of(m, base);
		s = a ? head_at(m, a, base) : NULL;
		return s ? mspan_slot_bytes(s) : 0;
	}
	s = heap_find(base, NULL);
	return s ? mspan_slot_bytes(s) : 0;
}

/* ---- spilling ---- */

static NO_SANITIZE void spill_one(struct marker *m, uintptr_t base)
{
	const struct mark_arena *a = mark_arena_of(m, base);
	size_t bit = a ? place_of(a, base).bit : 0;

	atomic_or_relaxed(&m->pointed[bit / 64], (uint64_t)1 << (bit % 64));
	if (!atomic_load_relaxed(&m->spilled))
		atomic_store_relaxed(&m->spilled, 1u);
}

/* The older half of a full stack. */
static COLD void spill(struct mark_worker *w)
{
	size_t half = w->used / 2;

	for (size_t i = 0; i < half; i++)
		spill_one(w->m, w->stack[i]);
	memmove(w->stack, w->stack + half, (w->used - half) * sizeof(*w->stack));
	w->used -= half;
}

static void take_spilled(struct mark_worker *w, const struct mspan *s)
{
	uint64_t *bits = &w->m->pointed[mark_first_bit(w->m, s) / 64];

	for (size_t i = 0; i < mark_bits_of(s) / 64; i++) {
		uint64_t left = atomic_load_relaxed(&bits[i]);

		if (left) /* others may be spilling */
			left = atomic_exchange_acquire(&bits[i], 0);
		for (; left; left &= left - 1) {
			uint32_t index =
				(uint32_t)(i * 64 + (size_t)__builtin_ctzll(left));

			w->stack[w->used++] = mspan_slot(s, index);
		}
	}
}

/* Of a round that begin_refill() began, which all workers share: spilled objects come
 * back onto the stack, and leave room for what they lead to. False: none are left. */
static bool refill(struct mark_worker *w)
{
	struct marker *m = w->m;

	while (w->used < w->capacity / REFILL_PART &&
	       w->used + MSPAN_MAX_SLOTS <= w->capacity) {
		size_t at;

		if (atomic_load_relaxed(&m->refill_at) >= m->nspans)
			break;
		at = atomic_fetch_add_acq_rel(&m->refill_at, 1);
		if (at < m->nspans)
			take_spilled(w, m->spans[at]);
	}
	return w->used > 0;
}

/* With all others idle. False: nothing was spilled since the last. */
static bool begin_refill(struct marker *m)
{
	if (!atomic_load_relaxed(&m->spilled))
		return false;
	atomic_store_relaxed(&m->spilled, 0u);
	atomic_store_relaxed(&m->refill_at, (size_t)0);
	return true;
}

/* ---- scanning ---- */

/* Of a pointer to the middle of an object. True: it does not count, but was noted. */
static NO_SANITIZE COLD bool note_inner(const struct mark_worker *w,
					const struct place *p)
{
	struct marker *m = w->m;

	if (!mark_test(w->white, p->bit))
		return true;
	if (inner_is_as_good(m, p->base, p->inside, size_at(m, p->base)))
		return false;
	atomic_or_relaxed(&m->inner[p->bit / 64], (uint64_t)1 << (p->bit % 64));
	return true;
}

/* Makes the object there grey if it is white. */
INLINE NO_SANITIZE void reach(struct mark_worker *w, const struct place *p)
{
	uint64_t *white = &w->white[p->bit / 64];
	uint64_t mask = (uint64_t)1 << (p->bit % 64), old = *white;

	*white = old & ~mask;
	w->stack[w->used] = p->base;
	w->used += (old & mask) != 0;
}

/* Of a word that may lie in any arena. False: in none. */
static NO_SANITIZE bool find_place(const struct marker *m, uintptr_t word,
				   struct place *out)
{
	const struct mark_arena *a = &m->arenas[0];

	for (size_t i = 0; i < m->narenas; i++, a++)
		if (word - a->base < a->bytes) {
			*out = place_of(a, word);
			return true;
		}
	return false;
}

/* Looks at one word, without helpers. */
INLINE NO_SANITIZE void look(struct mark_worker *w, uintptr_t word)
{
	struct place p;

	if (!find_place(w->m, word, &p))
		return;
	if (p.inside >= LOW_BITS && w->m->strict && note_inner(w, &p))
		return;
	reach(w, &p);
}

/* Every disguise of a word; the word as it is, too. */
static NO_SANITIZE COLD void look_decoded(struct mark_worker *w, uintptr_t at)
{
	uintptr_t word = *(const volatile uintptr_t *)at;
	uintptr_t high = w->m->lo & ~(uintptr_t)UINT32_MAX;

	look(w, word);
	for (unsigned i = 0; i < w->m->ndecodes; i++) {
		const struct opt_pointer *d = &w->m->decodes[i];

		switch (d->code) {
		case OPT_POINTER_MASK:
			look(w, word & d->value);
			break;
		case OPT_POINTER_RIGHT:
			look(w, word >> d->value);
			break;
		case OPT_POINTER_LEFT:
			look(w, word << d->value);
			break;
		case OPT_POINTER_XOR:
			look(w, word ^ d->value);
			break;
		case OPT_POINTER_LOW32:
			look(w, high | (word & UINT32_MAX));
			look(w, high | word >> 32);
			break;
		case OPT_POINTER_UNALIGNED:
			break; /* by scan_decoded() */
		}
	}
}

static bool has_unaligned(const struct marker *m)
{
	for (unsigned i = 0; i < m->ndecodes; i++)
		if (m->decodes[i].code == OPT_POINTER_UNALIGNED)
			return true;
	return false;
}

static void make_room(struct mark_worker *w, size_t count)
{
	if (UNLIKELY(w->used + count > w->capacity))
		spill(w);
}

/* Never beside helpers. */
static NO_SANITIZE COLD void scan_decoded(struct mark_worker *w, uintptr_t lo,
					  uintptr_t hi)
{
	bool unaligned = has_unaligned(w->m);

	for (; lo < hi; lo += sizeof(uintptr_t)) {
		make_room(w, (2 * OPT_POINTERS_MAX + 1) * sizeof(uintptr_t));
		look_decoded(w, lo);
		for (uintptr_t k = 1; unaligned && k < sizeof(uintptr_t); k++) {
			uintptr_t word;

			if (lo + k + sizeof(word) > hi)
				break;
			memcpy(&word, (const void *)(lo + k), sizeof(word));
			look(w, word);
		}
	}
}

/* The words that scan() found. All that does not change is in locals: the compiler must
 * take any word that is written for one of them. Only this worker writes its white, so a
 * plain store will do. */
INLINE NO_SANITIZE void reach_found(struct mark_worker *w, bool logs)
{
	const struct mark_arena a = w->m->arenas[0];
	const size_t n = w->nfound;
	bool strict = w->m->strict;
	uint64_t *white = w->white;
	uint32_t *log = w->log;
	size_t log_mask = w->log_entries - 1, logged = w->logged;
	uintptr_t *top = w->stack + w->used;

	for (size_t i = 0; i < n; i++) {
		uintptr_t word = w->found[i];
		uint64_t mask, old;
		struct place p;

		if (LIKELY(word - a.base < a.bytes))
			p = place_of(&a, word);
		else if (!find_place(w->m, word, &p))
			continue;
		if (UNLIKELY(p.inside >= LOW_BITS) && strict && note_inner(w, &p))
			continue;
		mask = (uint64_t)1 << (p.bit % 64);
		old = white[p.bit / 64];
		atomic_store_relaxed(&white[p.bit / 64], old & ~mask);
		*top = p.base;
		top += (old & mask) != 0;
		if (logs) {
			atomic_store_relaxed(&log[logged & log_mask], (uint32_t)p.bit);
			logged += (old & mask) != 0;
		}
	}
	w->used = (size_t)(top - w->stack);
	w->logged = logged;
	w->nfound = 0;
}

static NO_SANITIZE void reach_alone(struct mark_worker *w)
{
	reach_found(w, false);
}

static NO_SANITIZE void reach_beside(struct mark_worker *w)
{
	reach_found(w, true);
}

static void reach_all(struct mark_worker *w)
{
	make_room(w, w->nfound + 1);
	if (w->logs)
		reach_beside(w);
	else
		reach_alone(w);
}

/* What may be a pointer is kept until there is a number of them: how many an object has
 * nobody can predict. */
INLINE NO_SANITIZE void scan_words(struct mark_worker *w, uintptr_t lo, uintptr_t hi)
{
	const uintptr_t base = w->lo, bytes = w->hi - base;
	uintptr_t *found = w->found + w->nfound;

#pragma GCC unroll 4
	for (; lo < hi; lo += sizeof(uintptr_t)) {
		uintptr_t word = *(const volatile uintptr_t *)lo;

		*found = word;
		found += word - base < bytes;
	}
	w->nfound = (size_t)(found - w->found);
}

/* Where not every word is one, or not every page can be read. */
static NO_SANITIZE COLD void scan_careful(struct mark_worker *w, uintptr_t lo,
					  uintptr_t hi)
{
	const struct absent *absent = w->m->absent;

	for (uintptr_t end = hi; lo < hi; lo = end, end = hi) {
		if (absent && !absent_next(absent, &lo, hi, &end))
			return;
		if (w->m->ndecodes > 0)
			scan_decoded(w, lo, end);
		else
			scan_words(w, lo, end);
	}
}

/* At most MARK_SCAN_WORDS words. */
INLINE NO_SANITIZE void scan(struct mark_worker *w, uintptr_t lo, uintptr_t hi)
{
	if (UNLIKELY(w->m->is_careful))
		scan_careful(w, lo, hi);
	else
		scan_words(w, lo, hi);
}

static void push_range(struct mark_worker *w, uintptr_t lo, uintptr_t hi)
{
	w->ranges[w->nranges++] = (struct grey){ lo, hi };
}

static void scan_some_of_range(struct mark_worker *w)
{
	struct grey *g = &w->ranges[w->nranges - 1];
	uintptr_t lo = g->lo, hi = g->hi;

	if (hi - lo > SCAN_BYTES) {
		hi = lo + SCAN_BYTES;
		g->lo = hi;
	} else {
		w->nranges--;
	}
	scan(w, lo, hi);
}

INLINE void fetch_next(struct mark_worker *w)
{
	uintptr_t base = w->stack[--w->used];
	unsigned at = w->tail++ % MARK_QUEUE;

	__builtin_prefetch((const void *)align_down(base, CACHE_LINE));
	w->queue[at].base = base;
	w->queue[at].size = size_at(w->m, base);
}

INLINE void scan_next(struct mark_worker *w)
{
	unsigned at = w->head++ % MARK_QUEUE;
	uintptr_t base = w->queue[at].base;
	size_t size = w->queue[at].size;

	w->objects++;
	w->bytes += size;
	if (LIKELY(size <= SCAN_BYTES)) {
		scan(w, base, base + size);
	} else if (w->nranges < MARK_RANGES) {
		push_range(w, base, base + size);
	} else {
		w->objects--;
		w->bytes -= size;
		spill_one(w->m, base);
	}
}

/* Beside helpers, now and then. */
static void share(struct mark_worker *w, unsigned turn)
{
	unsigned idle = mark_pool_idle(w->m->pool);

	mark_log_lonely(w, idle + 1 == w->m->nworkers ? SHARE_TURNS : 0);
	if (idle > 0 && (w->used > 1 || w->nranges > 0))
		mark_pool_donate(w);
	if (turn % EXCHANGE_TURNS == 0 || w->logged - w->told >= EXCHANGE_LOGGED)
		mark_log_exchange(w);
}

/* Until nothing is left. */
static void work(struct mark_worker *w)
{
	const struct mark_pool *pool = w->m->pool;

	for (unsigned turn = 1;; turn++) {
		while (w->used > 0 && w->tail - w->head < MARK_QUEUE)
			fetch_next(w);
		if (w->used == 0 && w->nranges > 0)
			scan_some_of_range(w);
		else if (w->head != w->tail)
			scan_next(w);
		else if (!refill(w))
			return;
		if (w->nfound >= MARK_FOUND || (w->used == 0 && w->nfound > 0))
			reach_all(w);
		if (pool && UNLIKELY(turn % SHARE_TURNS == 0))
			share(w, turn);
	}
}

void mark_work(struct mark_worker *w)
{
	if (!w->m->pool) {
		work(w);
		return;
	}
	mark_log_exchange(w);
	work(w);
	mark_log_exchange(w);
}

/* ---- the caller's side ---- */

static void mark_words(struct marker *m, uintptr_t lo, uintptr_t hi)
{
	struct mark_worker *w = &m->workers[0];

	if (lo >= hi)
		return;
	if (w->nranges == MARK_RANGES)
		mark_drain(m);
	push_range(w, lo, hi);
}

void mark_range(struct marker *m, uintptr_t lo, uintptr_t hi)
{
	mark_words(m, align_up(lo, sizeof(uintptr_t)), align_down(hi, sizeof(uintptr_t)));
}

struct unaligned {
	uintptr_t word;
} __attribute__((packed));

/* At an odd address of what can be read. */
static NO_SANITIZE void look_at_code(struct mark_worker *w, uintptr_t at)
{
	w->found[w->nfound++] = ((const struct unaligned *)at)->word;
	if (w->nfound >= MARK_FOUND)
		reach_all(w);
}

INLINE NO_SANITIZE __m128i bytes_at(uintptr_t at)
{
	return _mm_loadu_si128((const void *)at);
}

/*
 * Addresses of the heap have the same upper bytes: top, 0, 0, at offset 5. Sixteen places
 * are compared with these at once, which finds few others.
 */
static NO_SANITIZE void scan_code(struct mark_worker *w, uintptr_t lo, uintptr_t hi,
				  uintptr_t top)
{
	const __m128i tops = _mm_set1_epi8((char)top), zeroes = _mm_setzero_si128();
	uintptr_t at = lo;

	for (; hi - at >= CODE_STEP + sizeof(uintptr_t); at += CODE_STEP) {
		__m128i same = _mm_and_si128(
			_mm_cmpeq_epi8(bytes_at(at + 5), tops),
			_mm_and_si128(_mm_cmpeq_epi8(bytes_at(at + 6), zeroes),
				      _mm_cmpeq_epi8(bytes_at(at + 7), zeroes)));
		unsigned left = (unsigned)_mm_movemask_epi8(same) & ODD_PLACES;

		for (; left; left &= left - 1)
			look_at_code(w, at + (unsigned)__builtin_ctz(left));
	}
	for (; hi - at >= sizeof(uintptr_t); at++)
		if (at % sizeof(uintptr_t) != 0)
			look_at_code(w, at);
}

void mark_code(struct marker *m, uintptr_t lo, uintptr_t hi)
{
	const uintptr_t first = m->lo >> TOP_SHIFT, last = (m->hi - 1) >> TOP_SHIFT;
	struct mark_worker *w = &m->workers[0];

	if (m->lo >= m->hi)
		return;
	if (m->ndecodes > 0 || last - first >= CODE_TOPS) {
		for (uintptr_t k = 1; k < sizeof(uintptr_t); k++)
			mark_words(m, lo + k, hi - sizeof(uintptr_t) + k);
		return;
	}
	for (uintptr_t end = hi; lo < hi; lo = end, end = hi) {
		if (m->absent && !absent_next(m->absent, &lo, hi, &end))
			break;
		for (uintptr_t top = first; top <= last; top++)
			scan_code(w, lo, end, top);
	}
	reach_all(w);
}

void mark_word(struct marker *m, uintptr_t word)
{
	struct place p;

	make_room(&m->workers[0], 1);
	if (find_place(m, word, &p))
		reach(&m->workers[0], &p); /* helpers, if any, have nothing to do */
}

void mark_drain(struct marker *m)
{
	struct mark_worker *w = &m->workers[0];

	m->is_careful = m->ndecodes > 0 || m->absent;
	for (;;) {
		mark_work(w);
		if (!(m->pool && mark_pool_await(w)) && !begin_refill(m))
			break;
	}
	if (m->pool)
		mark_log_merge(m);
	m->objects = m->bytes = 0;
	for (unsigned i = 0; i < m->nworkers; i++) {
		m->objects += m->workers[i].objects;
		m->bytes += m->workers[i].bytes;
	}
}
