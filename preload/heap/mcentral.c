/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcentral: see mcentral.h.
 *
 * Structure: per class a list of spans that have free slots (partly used ones; at most
 * one wholly free span is kept back, so that a program at the edge of a span does not
 * take and return it over and over) and a stack of transferred pointers, which becomes
 * longer once where it overflows and what it spilled is soon wanted again. It lies in a
 * ring, so that what it spills, from below, moves nothing. It is for what threads hand to
 * each other, and what they free in order. Small slots that were freed in no order go
 * home to their spans, and are handed out again in the order of addresses: neighbours are
 * used together, and programs pay for the order of the frees with misses of their caches.
 *
 * Invariants: a span is on the list exactly when listed is set, and then nfree > 0.
 * nslots
 * - nfree bits of alloc_bits are set.
 *
 * Concurrency: everything of a class is guarded by its lock. mheap's lock is taken
 * inside.
 */
#include "preload/heap/mcentral.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mheap.h"
#include "preload/heap/sizeclass.h"

#define TRANSFER_BATCHES 4
#define TRANSFER_BYTES	 (128 * KIB) /* but two batches at least */
#define LONG_BATCHES	 32	     /* the same two of the longer stack */
#define LONG_BYTES	 (512 * KIB)
#define LONG_SPILL	 4 /* and the share of it that it spills */
#define LONG_WHEN	 4 /* as many times the short one spilled and wanted again */
/* Larger slots go straight back to their spans, of which none is kept when it is wholly
 * free: one held pointer would keep a span of 64 to 128 KiB from other classes. But with
 * several threads, what one frees is mostly what another is about to allocate. */
#define TRANSFER_MAX_SLOT (4 * KIB)
#define HOME_MAX_SLOT	  (1 * KIB) /* see mcentral_should_go_home() */
#define ORDER_PAIRS	  16
#define ORDER_ENOUGH	  12
#define SHORT_SPANS	  2 /* of a class, the first: see sizeclass.c */

struct mcentral {
	struct lock lock;
	/* Pointers in transfer, and where in it they begin, in the upper half: it goes on
	 * at its front. In one word for mcentral_each_cached(); atomic. */
	uint64_t held;
	uint32_t transfer_max;	    /* room in it */
	bool is_long;		    /* it has grown, or could not */
	void **transfer;	    /* made at first use; NULL: none could be had */
	const struct mcache *taker; /* the last; atomic */
	uint64_t nspilled;	    /* pointers, since the last mcentral_decay() */
	uint64_t nregretted;	    /* taken from spans after as many were spilled */
	struct mspan *spans;	    /* with free slots */
	uint64_t nfree;		    /* free slots in spans of the list */
	uint32_t nempty;	    /* spans of the list without any object */
	uint32_t nspans;	    /* of the class, full ones too */
	uint64_t npages;	    /* of them all */
	uint64_t nslots;	    /* in them all */
	uint64_t ntaken;	    /* pointers taken so far */
	uint64_t decay_taken;	    /* ntaken at the last mcentral_decay() */
} __attribute__((aligned(CACHE_LINE)));

#define ONE                                           \
	{                                             \
		.lock = LOCK_INIT(LOCK_RANK_MCENTRAL) \
	}
#define EIGHT ONE, ONE, ONE, ONE, ONE, ONE, ONE, ONE

static struct {
	struct mcentral classes[SIZECLASS_COUNT];
} central = {
	/* nine times eight, and two: SIZECLASS_COUNT */
	.classes = { EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, ONE,
		     ONE },
};
_Static_assert(SIZECLASS_COUNT == 9 * 8 + 2, "central's initialiser");

NO_LOCK_CHECK void mcentral_lock(unsigned c)
{
	lock_acquire(&central.classes[c].lock);
}

NO_LOCK_CHECK bool mcentral_try_lock(unsigned c)
{
	return lock_try_acquire(&central.classes[c].lock);
}

NO_LOCK_CHECK void mcentral_unlock(unsigned c)
{
	lock_release(&central.classes[c].lock);
}

NO_LOCK_CHECK void mcentral_lock_all(void)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
		lock_acquire_nested(&central.classes[c].lock);
}

NO_LOCK_CHECK void mcentral_unlock_all(void)
{
	for (unsigned c = SIZECLASS_COUNT - 1; c > 0; c--)
		lock_release(&central.classes[c].lock);
}

void mcentral_reset_locks(void)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
		lock_reset(&central.classes[c].lock);
}

/* ---- the list of spans ---- */

static void list_span(struct mcentral *m, struct mspan *s)
{
	s->prev = NULL;
	s->next = m->spans;
	if (s->next)
		s->next->prev = s;
	m->spans = s;
	s->listed = true;
}

static void unlist_span(struct mcentral *m, struct mspan *s)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		m->spans = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->next = s->prev = NULL;
	s->listed = false;
}

/* ---- the transferred pointers ---- */

static inline uint32_t ntransfer(const struct mcentral *m)
{
	return (uint32_t)m->held;
}

static inline uint32_t oldest(const struct mcentral *m)
{
	return (uint32_t)(m->held >> 32);
}

static inline void set_held(struct mcentral *m, uint32_t oldest, uint32_t n)
{
	atomic_store_release(&m->held, (uint64_t)oldest << 32 | n);
}

/* Where the nth of them lies, from the oldest; 0 to transfer_max. */
static inline uint32_t transfer_at(const struct mcentral *m, uint32_t nth)
{
	uint32_t at = oldest(m) + nth;

	return at < m->transfer_max ? at : at - m->transfer_max;
}

/* How many of n from at on lie before the ring's end. */
static inline uint32_t until_end(const struct mcentral *m, uint32_t at, uint32_t n)
{
	return n < m->transfer_max - at ? n : m->transfer_max - at;
}

/* The newest n leave it. */
static void transfer_pop(struct mcentral *m, void **out, uint32_t n)
{
	uint32_t at = transfer_at(m, ntransfer(m) - n), k = until_end(m, at, n);

	memcpy(out, m->transfer + at, k * sizeof(*out));
	memcpy(out + k, m->transfer, (n - k) * sizeof(*out));
	set_held(m, oldest(m), ntransfer(m) - n);
}

static void transfer_push(struct mcentral *m, void *const *pointers, uint32_t n)
{
	uint32_t at = transfer_at(m, ntransfer(m)), k = until_end(m, at, n);

	memcpy(m->transfer + at, pointers, k * sizeof(*pointers));
	memcpy(m->transfer, pointers + k, (n - k) * sizeof(*pointers));
	set_held(m, oldest(m), ntransfer(m) + n);
}

/* ---- taking ---- */

/* Stores n addresses below end, from the end downwards: at, at + step, ... Returns the
 * new end. No vectors: their registers would hold addresses of slots long afterwards, and
 * a leak check takes those for pointers of the program. */
static void **store_run(void **end, uintptr_t at, uintptr_t step, uint32_t n)
{
	for (; n >= 4; n -= 4) {
		end -= 4;
		end[3] = (void *)at;
		end[2] = (void *)(at += step);
		end[1] = (void *)(at += step);
		end[0] = (void *)(at += step);
		at += step;
		__asm__("" : "+r"(at)); /* or gcc makes vectors of them */
	}
	for (; n > 0; n--, at += step)
		*--end = (void *)at;
	return end;
}

/* Sets up to want free slots' bits and stores their addresses below end, ascending from
 * the end downwards. */
static uint32_t carve(struct mspan *s, void **end, uint32_t want)
{
	uint32_t left = want < s->nfree ? want : s->nfree;
	uint32_t taken = left;

	for (uint32_t w = 0; left > 0; w++) {
		uint64_t used = s->alloc_bits[w];
		uint64_t bits = ~used;
		uintptr_t at = mspan_slot(s, w * 64);

		if (bits && (used & (used + 1)) == 0) { /* free from one slot on */
			uint32_t from = (uint32_t)__builtin_ctzl(bits);
			uint32_t most = s->nslots - w * 64 - from;
			uint32_t n = 64 - from < left ? 64 - from : left;

			n = n < most ? n : most;
			end = store_run(end, at + (uintptr_t)from * s->slot_size,
					s->slot_size, n);
			left -= n;
			bits = n == 64 ? 0 : bits & ~((((uint64_t)1 << n) - 1) << from);
		}
		/* Bits past nslots are never reached: nfree slots lie below. */
		for (; bits && left > 0; left--) {
			*--end = (void *)(at +
					  (uintptr_t)__builtin_ctzl(bits) * s->slot_size);
			bits &= bits - 1;
		}
		atomic_store_relaxed(&s->alloc_bits[w], ~bits);
	}
	s->nfree = (uint16_t)(s->nfree - taken);
	return taken;
}

static uint32_t take_from_span(struct mcentral *m, struct mspan *s, void **end,
			       uint32_t want)
{
	uint32_t n;

	if (s->nfree == s->nslots)
		m->nempty--;
	n = carve(s, end, want);
	m->nfree -= n;
	if (s->nfree == 0)
		unlist_span(m, s);
	return n;
}

static bool add_span(struct mcentral *m, unsigned c)
{
	bool is_short = m->nspans < SHORT_SPANS;
	struct mspan *s = mheap_alloc_small(c, is_short ? sizeclass_short_pages(c)
							: sizeclass_info[c].npages);

	if (!s)
		return false;
	list_span(m, s);
	m->nfree += s->nslots;
	m->nslots += s->nslots;
	m->npages += s->npages;
	m->nempty++;
	m->nspans++;
	return true;
}

/* The short stack stays unused from now on: it is a page at most. */
static COLD void lengthen_transfer(struct mcentral *m, unsigned c)
{
	uint32_t max = sizeclass_info[c].batch * LONG_BATCHES;
	uint32_t most = (uint32_t)LONG_BYTES / sizeclass_info[c].slot_size;
	uint32_t n = ntransfer(m);
	void **transfer;

	m->is_long = true;
	max = max < most ? max : most;
	if (max <= m->transfer_max)
		return;
	transfer = meta_alloc(max * sizeof(void *), sizeof(void *), META_CENTRAL);
	if (!transfer)
		return;
	transfer_pop(m, transfer, n);
	atomic_store_release(&m->transfer, transfer);
	atomic_store_release(&m->transfer_max, max);
	set_held(m, 0, n);
}

/* n pointers were taken from spans, nspilled of which could have been kept. */
static inline void regret(struct mcentral *m, unsigned c, uint32_t n)
{
	if (m->is_long || m->nspilled == 0)
		return;
	n = n < m->nspilled ? n : (uint32_t)m->nspilled;
	m->nspilled -= n;
	m->nregretted += n;
	if (UNLIKELY(m->nregretted > (uint64_t)LONG_WHEN * m->transfer_max))
		lengthen_transfer(m, c);
}

uint32_t mcentral_take_locked(unsigned c, const struct mcache *mc, void **out,
			      uint32_t want)
{
	struct mcentral *m = &central.classes[c];
	uint32_t n = want < ntransfer(m) ? want : ntransfer(m);

	m->ntaken += want;
	atomic_store_relaxed(&m->taker, mc);
	if (n > 0) {
		transfer_pop(m, out, n);
		return n;
	}
	while (n < want) {
		/* A new span only for a caller who would go away with nothing. */
		if (!m->spans && (n > 0 || !add_span(m, c)))
			break;
		n += take_from_span(m, m->spans, out + want - n, want - n);
	}
	regret(m, c, n);
	if (n < want)
		memmove(out, out + want - n, n * sizeof(*out));
	return n;
}

/* ---- giving ---- */

/* p is not the allocated slot of class c that it should be. */
static COLD NO_LOCK_CHECK void bad_pointer(const void *p, const struct mspan *s,
					   unsigned c)
{
	uint32_t index;
	bool inside = false;

	lock_release(&central.classes[c].lock); /* for the profiler: it takes others */
	/* Of another kind: its span went already. */
	if (s && s->state == MSPAN_SMALL && s->sizeclass == c) {
		index = mspan_index_of(s, (uintptr_t)p);
		inside = index >= s->nslots || mspan_slot(s, index) != (uintptr_t)p;
	}
	if (inside)
		heap_fatal(p, "invalid free of %p: inside an object (size class %u)", p,
			   c);
	heap_fatal(p, "double free of %p (size class %u)", p, c);
}

/* The span of p, which must be one of class c. Aborts when it is not. */
static struct mspan *span_of(void *p, unsigned c)
{
	struct arena *a = arena_of((uintptr_t)p);
	struct mspan *s = a ? arena_span(a, (uintptr_t)p) : NULL;

	if (UNLIKELY(!s || s->sizeclass != c || s->state != MSPAN_SMALL) ||
	    UNLIKELY((uintptr_t)p - s->base >= s->npages << PAGE_SHIFT))
		bad_pointer(p, s, c);
	return s;
}

/* Clears bit n % 64; was it set? Compilers need five instructions for it. */
static inline bool clear_bit(uint64_t *word, uint64_t n)
{
	bool was;

	__asm__("btr %2, %0" : "+r"(*word), "=@ccc"(was) : "r"(n));
	return was;
}

/* Clears the bits of the slots at pointers, up to n of them, as far as they lie in s; how
 * many. The first does. Aborts at one that is no allocated slot. Bits past nslots are
 * never set.
 *
 * With the magic number as a fraction of 2^64, the upper half of its product with an
 * offset is the slot's index, and the lower one is below the magic number exactly where
 * a slot begins. Offsets outside the span give indexes outside it, whose bits, if in the
 * same word, are clear. Neighbours mostly have their bits in one word, which is kept in a
 * register as long as that lasts. */
static uint32_t release_slots(struct mspan *s, void *const *pointers, uint32_t n)
{
	uintptr_t base = s->base, bytes = s->npages << PAGE_SHIFT;
	uint64_t magic = (uint64_t)s->magic << (64 - MSPAN_MAGIC_SHIFT);
	void *const *at = pointers, *const *end = pointers + n;
	uint128 product = (uint128)((uintptr_t)*at - base) * magic;

	do {
		uint64_t w = (uint64_t)(product >> 64) / 64;
		uint64_t word = s->alloc_bits[w];

		do {
			if (UNLIKELY((uint64_t)product >= magic) ||
			    UNLIKELY(!clear_bit(&word, (uint64_t)(product >> 64)))) {
				if ((uintptr_t)*at - base < bytes)
					bad_pointer(*at, s, s->sizeclass);
				break;
			}
			if (++at == end)
				break;
			product = (uint128)((uintptr_t)*at - base) * magic;
		} while ((uint64_t)(product >> 64) / 64 == w);
		atomic_store_relaxed(&s->alloc_bits[w], word);
	} while (at != end && (uintptr_t)*at - base < bytes);
	n = (uint32_t)(at - pointers);
	s->nfree = (uint16_t)(s->nfree + n);
	return n;
}

#define LOOK_AHEAD 6 /* pointers; what lies there arrives from memory meanwhile */

/* Objects freed in no order lie each in another span, which nobody has looked at of late.
 */
static inline void prefetch_span(const void *p)
{
	uintptr_t offset = (uintptr_t)p - arena_fast.base;
	const struct mspan *s;

	if (offset >= arena_fast.size)
		return;
	s = atomic_load_relaxed(&arena_first.spans[offset >> PAGE_SHIFT]);
	__builtin_prefetch(s, 1);
	__builtin_prefetch((const char *)s + CACHE_LINE, 1);
}

static void drop_span(struct mcentral *m, struct mspan *s)
{
	unlist_span(m, s);
	m->nfree -= s->nslots;
	m->nslots -= s->nslots;
	m->npages -= s->npages;
	m->nempty--;
	m->nspans--;
	if (s->samples && heap_hooks.release_samples)
		heap_hooks.release_samples(s);
	mheap_free(s);
}

/* n slots of s have come back: s is listed, or dropped when enough others are empty. */
static void settle_span(struct mcentral *m, struct mspan *s, uint32_t n,
			uint32_t keep_empty)
{
	m->nfree += n;
	if (!s->listed)
		list_span(m, s);
	if (s->nfree == s->nslots && ++m->nempty > keep_empty)
		drop_span(m, s);
}

/* Takes pointers back. Neighbours in the array mostly are neighbours in a span, which is
 * then looked up once. */
static void give_all(struct mcentral *m, void *const *pointers, uint32_t n, unsigned c,
		     uint32_t keep_empty)
{
	while (n > 0) {
		struct mspan *s;
		uint32_t done;

		if (n > LOOK_AHEAD)
			prefetch_span(pointers[LOOK_AHEAD]);
		s = span_of(pointers[0], c);
		done = release_slots(s, pointers, n);
		settle_span(m, s, done, keep_empty);
		pointers += done;
		n -= done;
	}
}

/* Is what threads give kept for others? */
static bool is_kept(unsigned c)
{
	return sizeclass_info[c].slot_size <= TRANSFER_MAX_SLOT || mcache_are_several();
}

static bool make_transfer(struct mcentral *m, unsigned c)
{
	uint32_t batch = sizeclass_info[c].batch;
	uint32_t max = batch * TRANSFER_BATCHES;

	if (m->transfer)
		return true;
	if (!is_kept(c))
		return false;
	if (max * (size_t)sizeclass_info[c].slot_size > TRANSFER_BYTES)
		max = batch * 2;
	m->transfer = meta_alloc(max * sizeof(void *), sizeof(void *), META_CENTRAL);
	if (m->transfer)
		m->transfer_max = max;
	return m->transfer != NULL;
}

/* Gives the oldest n pointers of the transfer cache back to their spans. */
static void spill_transfer(struct mcentral *m, unsigned c, uint32_t n,
			   uint32_t keep_empty)
{
	uint32_t k = until_end(m, oldest(m), n);

	give_all(m, m->transfer + oldest(m), k, c, keep_empty);
	give_all(m, m->transfer, n - k, c, keep_empty);
	set_held(m, transfer_at(m, n), ntransfer(m) - n);
}

/* The same when it is full. */
static void spill_full(struct mcentral *m, unsigned c)
{
	uint32_t n = ntransfer(m) - ntransfer(m) / 2;

	if (m->is_long && n > m->transfer_max / LONG_SPILL)
		n = m->transfer_max / LONG_SPILL;
	spill_transfer(m, c, n, 1);
	m->nspilled += n;
}

/* Were they freed in the order of their addresses, or against it? Judged by some pairs.
 */
static bool are_in_order(void *const *pointers, uint32_t n, uint32_t slot_size)
{
	const uint32_t step = n / ORDER_PAIRS;
	uint32_t nbeside = 0;

	if (step < 2)
		return true;
	for (uint32_t i = 0; i < ORDER_PAIRS; i++, pointers += step) {
		uintptr_t apart = (uintptr_t)pointers[1] - (uintptr_t)pointers[0];

		nbeside += apart + slot_size <= 2 * (uintptr_t)slot_size;
	}
	return nbeside >= ORDER_ENOUGH;
}

bool mcentral_should_go_home(unsigned c, const struct mcache *mc, void *const *pointers,
			     uint32_t n)
{
	const uint32_t slot_size = sizeclass_info[c].slot_size;

	return slot_size <= HOME_MAX_SLOT &&
	       atomic_load_relaxed(&central.classes[c].taker) == mc &&
	       !are_in_order(pointers, n, slot_size);
}

void mcentral_give_locked(unsigned c, void *const *pointers, uint32_t n, bool home)
{
	struct mcentral *m = &central.classes[c];

	if (home || !make_transfer(m, c) || n > m->transfer_max / 2) {
		give_all(m, pointers, n, c, is_kept(c));
		return;
	}
	while (ntransfer(m) + n > m->transfer_max)
		spill_full(m, c);
	transfer_push(m, pointers, n);
}

const void *mcentral_find_any_locked(unsigned c, void *const *pointers, uint32_t n,
				     uint32_t newest)
{
	const struct mcentral *m = &central.classes[c];
	uint32_t from = ntransfer(m) > newest ? ntransfer(m) - newest : 0;

	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = from; k < ntransfer(m); k++)
			if (m->transfer[transfer_at(m, k)] == pointers[i])
				return pointers[i];
	return NULL;
}

bool mcentral_holds(unsigned c, const void *p)
{
	struct mcentral *m = &central.classes[c];
	bool found = false;

	lock_acquire(&m->lock);
	for (uint32_t i = ntransfer(m); i > 0 && !found; i--)
		found = m->transfer[transfer_at(m, i - 1)] == p;
	lock_release(&m->lock);
	return found;
}

static void drop_empty_spans(struct mcentral *m)
{
	for (struct mspan *s = m->spans, *next; s && m->nempty > 0; s = next) {
		next = s->next;
		if (s->nfree == s->nslots)
			drop_span(m, s);
	}
}

NO_LOCK_CHECK void mcentral_decay(unsigned c)
{
	struct mcentral *m = &central.classes[c];

	if (!lock_try_acquire(&m->lock))
		return;
	if (m->ntaken == m->decay_taken && ntransfer(m) + m->nempty > 0) {
		spill_transfer(m, c, ntransfer(m) - ntransfer(m) / 2, 1);
		drop_empty_spans(m);
	}
	m->decay_taken = m->ntaken;
	m->nspilled = 0;
	lock_release(&m->lock);
}

/* Without the lock, too: then each pointer that it names was in the cache at some time
 * since the call began, as what it has read of `held` first was true then. */
void mcentral_each_cached(void (*fn)(uintptr_t slot, void *arg), void *arg)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		const struct mcentral *m = &central.classes[c];
		const uint64_t held = atomic_load_acquire(&m->held);
		void **const transfer = atomic_load_acquire(&m->transfer);
		const uint32_t max = atomic_load_acquire(&m->transfer_max);
		uint32_t at = (uint32_t)(held >> 32);

		for (uint32_t i = (uint32_t)held; i > 0 && transfer; i--) {
			const uintptr_t slot = (uintptr_t)atomic_load_relaxed(
				&transfer[at < max ? at : at - max]);

			if (slot)
				fn(slot, arg);
			at++;
		}
	}
}

void mcentral_trim(void)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		struct mcentral *m = &central.classes[c];

		mcentral_lock(c);
		spill_transfer(m, c, ntransfer(m), 0);
		drop_empty_spans(m);
		mcentral_unlock(c);
	}
}

size_t mcentral_free_bytes(size_t *out_slots, size_t *out_tails)
{
	size_t bytes = 0;

	*out_slots = *out_tails = 0;
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		const struct mcentral *m = &central.classes[c];

		mcentral_lock(c);
		*out_slots += m->nfree + ntransfer(m);
		bytes += (m->nfree + ntransfer(m)) * sizeclass_info[c].slot_size;
		*out_tails += (m->npages << PAGE_SHIFT) -
			      m->nslots * sizeclass_info[c].slot_size;
		mcentral_unlock(c);
	}
	return bytes;
}

void mcentral_count(unsigned c, struct mcentral_counts *out)
{
	const struct mcentral *m = &central.classes[c];

	mcentral_lock(c);
	*out = (struct mcentral_counts){
		.nspans = m->nspans,
		.ntransfer = ntransfer(m),
		.npages = m->npages,
		.nslots = m->nslots,
		.nfree = m->nfree,
	};
	mcentral_unlock(c);
}
