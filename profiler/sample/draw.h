/* SPDX-License-Identifier: Apache-2.0 */
/*
 * draw: when the next sample is, and what one stands for; the pages that have some.
 * Inline, for all that record.
 */
#ifndef PROFILER_SAMPLE_DRAW_H
#define PROFILER_SAMPLE_DRAW_H

#include "preload/base/atomic.h"
#include "preload/heap/arena.h"
#include "preload/heap/mcache.h"
#include "profiler/sample/block.h"
#include "profiler/sample/maths.h"
#include "profiler/sample/sample_int.h"

#define DRAW_GOLDEN	  0x9e3779b97f4a7c15u
#define DRAW_WEIGHT_SHIFT 24 /* size and number of the settings below */
#define DRAW_WEIGHT_KEY	  (((uint64_t)1 << DRAW_WEIGHT_SHIFT) - 1)

/* FAST. Random bits of a counter that goes in steps of DRAW_GOLDEN: both halves of a
 * product, as wyrand does. */
static inline uint64_t draw_mix(uint64_t z)
{
	uint128 product = (uint128)z * (z ^ 0xe7037ed1a0b428dbu);

	return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

/* FAST. Threads count for themselves, each from a place of its own, mc->random, which is
 * not 0: a counter of all would be fought for. What is used was made the last time, for
 * malloc waits for it. */
ALWAYS_INLINE double draw_variate(struct mcache *mc)
{
	double variate = mc->variate;

	mc->random += DRAW_GOLDEN;
	mc->variate = maths_exponential(draw_mix(mc->random));
	return variate;
}

/* What an object of this size stands for with these settings. */
uint64_t sample_weight_of(size_t size, const struct period *at);

/* FAST. The same for the settings of that number, by memory where it is one of the sizes
 * that come again and again. An entry is one word, so it is never torn. */
ALWAYS_INLINE uint64_t draw_weight(size_t size, uint8_t number)
{
	uint64_t key = ((uint64_t)size << 8 | number) + 1; /* an empty entry has 0 */
	uint64_t *entry = &sampler.weights[(size >> 4 ^ size >> 10) % SAMPLE_WEIGHTS];
	uint64_t old = atomic_load_relaxed(entry), fresh;

	if (LIKELY((old & DRAW_WEIGHT_KEY) == key))
		return old >> DRAW_WEIGHT_SHIFT;
	fresh = sample_weight_of(size, period_nth(number));
	if (key <= DRAW_WEIGHT_KEY && fresh >> (64 - DRAW_WEIGHT_SHIFT) == 0)
		atomic_store_relaxed(entry, fresh << DRAW_WEIGHT_SHIFT | key);
	return fresh;
}

/* FAST. The same for sizes that need more bits: an entry is two words, which one thread's
 * may be torn by another's, but then they do not fit each other. */
ALWAYS_INLINE uint64_t draw_large_weight(size_t size, uint8_t number)
{
	uint64_t key = ((uint64_t)size << 8 | number) + 1;
	size_t i = (size >> 12 ^ size >> 18 ^ size) % SAMPLE_WEIGHTS;
	uint64_t value = atomic_load_relaxed(&sampler.large_weights[i].value);

	if (LIKELY((atomic_load_relaxed(&sampler.large_weights[i].check) ^ value) == key))
		return value;
	value = sample_weight_of(size, period_nth(number));
	atomic_store_relaxed(&sampler.large_weights[i].value, value);
	atomic_store_relaxed(&sampler.large_weights[i].check, value ^ key);
	return value;
}

/* FAST. */
static inline uint64_t draw_scaled_bytes(size_t size, uint64_t weight)
{
	if (weight == (uint64_t)1 << SITE_SHIFT)
		return size;
	return (uint64_t)((uint128)size * weight >> SITE_SHIFT);
}

/* What an object stands for. */
struct draw_share {
	uint64_t objects, bytes; /* objects in fixed point */
};

/* SLOW. By the tables above; it is at hand from now on, if keep. */
struct draw_share sample_share_anew(struct mcache *mc, size_t size, uint8_t number,
				    bool large, bool keep);

/* FAST. Programs make objects of one size again and again: what the thread's latest
 * stands for is at hand. A signal handler may come in between and leave a part of
 * another's there, but then the words do not fit each other. */
ALWAYS_INLINE struct draw_share draw_share(struct mcache *mc, size_t size, uint8_t number,
					   bool large, bool keep)
{
	uint64_t key = ((uint64_t)size << 8 | number) + 1;
	struct draw_share share = { atomic_load_relaxed(&mc->share_objects),
				    atomic_load_relaxed(&mc->share_bytes) };

	if (LIKELY((atomic_load_relaxed(&mc->share_check) ^ share.objects ^
		    share.bytes) == key))
		return share;
	return sample_share_anew(mc, size, number, large, keep);
}

/* ---- pages with recorded objects ---- */

void sample_count_page_locked(struct mspan *s, uint16_t *count, const void *p, int more);

/* FAST. A recorded object appears on, or leaves, the page of p. The only thread takes no
 * lock, but adds in one instruction; a signal handler that comes in between leaves the
 * page as it should be, but not as we knew it: so it is looked at again. */
ALWAYS_INLINE void sample_count_page(struct mspan *s, struct block *b, const void *p,
				     int more)
{
	uint16_t *count = &b->page_count[((uintptr_t)p - s->base) >> PAGE_SHIFT];
	uint16_t now = (uint16_t)more;

	if (atomic_load_relaxed(&sampler.slow_frees) || s->slot_size == 0)
		return;
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many))) {
		sample_count_page_locked(s, count, p, more);
		return;
	}
	__asm__("xaddw %0, %1" : "+r"(now), "+m"(*count) : : "cc");
	now = (uint16_t)(now + more);
	if (more > 0 && now == 1)
		arena_set_page(p, 0);
	if (more > 0 || now > 0)
		return;
	arena_set_page(p, s->sizeclass);
	atomic_signal_barrier();
	if (UNLIKELY(atomic_load_relaxed(count) > 0))
		arena_set_page(p, 0);
}

#endif
