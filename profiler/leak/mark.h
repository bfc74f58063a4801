/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark: which objects are reached. Every live slot has a bit in flat bitmaps, at its
 * span's mark_index plus its own index.
 *
 * White: live and not marked. Grey: marked and on the stack. Black: marked and scanned.
 */
#ifndef PROFILER_LEAK_MARK_H
#define PROFILER_LEAK_MARK_H

#include "preload/base/base.h"
#include "preload/heap/mspan.h"

#define MARK_QUEUE 32 /* candidates whose cache lines are on their way */

struct grey {
	uintptr_t lo, hi; /* bytes of the object still to be scanned */
};

struct marker {
	uintptr_t lo, hi; /* heap_bounds() */
	uint64_t *live;	  /* given out and in no cache */
	uint64_t *marked;
	uint64_t *pointed; /* sweep: another lost object points at it */
	size_t nbits;
	struct mspan **spans; /* all in use, by address */
	size_t nspans;
	uintptr_t queue[MARK_QUEUE]; /* words in bounds; a ring */
	unsigned head, tail;
	struct grey *stack;
	size_t used, capacity;
	bool out_of_memory;	 /* the stack could not grow: the result is worthless */
	uint64_t objects, bytes; /* marked since they were last cleared */
};

/* With heap_lock_all() held. Numbers the slots of all spans and finds the live ones.
 * False: out of memory. */
bool mark_init(struct marker *m);
void mark_free(struct marker *m);
/* STW. Looks at the words of [lo, hi), lo aligned here; what they refer to is marked at
 * the latest by the next mark_drain(). */
void mark_range(struct marker *m, uintptr_t lo, uintptr_t hi);
/* STW. Marks the object that word lies in, if any. */
void mark_word(struct marker *m, uintptr_t word);
/* STW. Scans until no grey object is left. */
void mark_drain(struct marker *m);
/* STW. Puts a range on the stack of grey objects. */
void mark_push(struct marker *m, uintptr_t lo, uintptr_t hi);
size_t mark_bitmap_bytes(const struct marker *m);

/* FAST. The live object that word lies in: its span and bit number. */
struct mspan *mark_find(const struct marker *m, uintptr_t word, uint32_t *out_index,
			size_t *out_bit);
static inline bool mark_test(const uint64_t *bits, size_t bit)
{
	return bits[bit / 64] >> (bit % 64) & 1;
}
static inline void mark_set(uint64_t *bits, size_t bit)
{
	bits[bit / 64] |= (uint64_t)1 << (bit % 64);
}

#endif
