/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block: the records of a span's objects.
 *
 * Structure: a block has, for sampled mode, a count of recorded objects for each page.
 * Then, in a process that starts in exact mode, it has one record a slot. In others most
 * spans never have more than one recorded object at once, and a record a slot would be
 * pages of memory for it: there the block has room for a few records, each with its
 * slot's index, and only when those do not suffice one block more with all of them (see
 * `all`), which is used beside the first. The block of a large object lies in its span's
 * struct and has one record.
 *
 * Concurrency: who makes an object claims one of the few records whose object is free, by
 * its site. A live record is touched by the owner of its object alone; whoever looks for
 * another slot's reads site and index of it, in that order: they are written in the
 * other. Pools are guarded by a lock of their own.
 */
#ifndef PROFILER_SAMPLE_BLOCK_H
#define PROFILER_SAMPLE_BLOCK_H

#include "profiler/sample/sample_int.h"

#define MAX_PAGES 32 /* of a small span, see sizeclass.c */

struct block {
	union {
		uint16_t page_count[MAX_PAGES]; /* small */
		struct {			/* large: what the object counts as */
			uint64_t weight, bytes;
			uint32_t number; /* of its counters; 0: bytes is not set */
		};
	};
	char records[]; /* sampler.record_size bytes each */
};
_Static_assert(sizeof(struct block) % 8 == 0, "records are aligned");
_Static_assert(sizeof(struct block) + sizeof(struct sample_record) <= MSPAN_ROOM, "room");

#define BLOCK_FEW 4
/* What a block of a few has in the place of its records. */
struct block_few {
	struct block *all; /* NULL: there is none; atomic */
	union {
		uint16_t index[BLOCK_FEW]; /* atomic; of a slot that is or was recorded */
		uint64_t indices;
	};
	char records[];
};
_Static_assert(BLOCK_FEW * sizeof(uint16_t) == sizeof(uint64_t), "indices");

/* SLOW. The block of s, made if there is none; NULL: memory is out. */
struct block *block_make(struct mspan *s);
/* SLOW. The second block of s, whose first is b; NULL: memory is out. */
struct block *block_make_all(const struct mspan *s, struct block *b);
/* For heap_hooks. */
void sample_on_release(struct mspan *s);
void sample_trim(void);

static inline struct sample_record *block_nth(const char *records, uint32_t n,
					      size_t record_size)
{
	return (struct sample_record *)((uintptr_t)records + (uintptr_t)n * record_size);
}

static inline struct block_few *block_few(const struct block *b)
{
	return (struct block_few *)(uintptr_t)b->records;
}

/* Has the block of s a few records? */
static inline bool block_is_sparse(const struct mspan *s)
{
	return sampler.sparse && s->slot_size != 0;
}

/* FAST. May one of the few be the slot's? Its index does not change while the object
 * lives, so that the owner does not miss it. */
static inline bool block_may_have(const struct block_few *few, uint32_t index)
{
	const uint64_t ones = 0x0001000100010001u;
	uint64_t other = atomic_load_relaxed(&few->indices) ^ index * ones;

	return ((other - ones) & ~other & ones << 15) != 0;
}

/* FAST. The record of the slot in b, which has a few, if its object lives, or NULL: any
 * other may become another slot's at any moment. */
ALWAYS_INLINE struct sample_record *block_find_few(const struct block *b, uint32_t index,
						   size_t record_size)
{
	const struct block_few *few = block_few(b);
	struct sample_record *r;
	struct block *all;

	for (uint32_t i = 0; i < BLOCK_FEW; i++) {
		r = block_nth(few->records, i, record_size);
		if ((int32_t)atomic_load_acquire(&r->site) > 0 &&
		    atomic_load_relaxed(&few->index[i]) == index)
			return r;
		if (i == 0 && !block_may_have(few, index))
			break;
	}
	all = atomic_load_acquire(&few->all);
	if (LIKELY(!all))
		return NULL;
	r = block_nth(all->records, index, record_size);
	return (int32_t)r->site > 0 ? r : NULL;
}

/* FAST. The same in any block; where every slot has its own, whether it lives or not. */
static inline struct sample_record *block_find(const struct mspan *s,
					       const struct block *b, uint32_t index)
{
	if (block_is_sparse(s))
		return block_find_few(b, index, sampler.record_size);
	return block_nth(b->records, index, sampler.record_size);
}

/* The site of the object that was recorded last in a slot where none lives, as far as its
 * record is still there; SITE_NONE: none. */
static inline uint32_t block_last_site(const struct mspan *s, const struct block *b,
				       uint32_t index)
{
	const struct block_few *few = block_few(b);

	if (!block_is_sparse(s))
		return block_nth(b->records, index, sampler.record_size)->site &
		       ~SAMPLE_FREED;
	for (uint32_t i = 0; i < BLOCK_FEW; i++) {
		const struct sample_record *r =
			block_nth(few->records, i, sampler.record_size);
		uint32_t site = atomic_load_acquire(&r->site);

		if (atomic_load_relaxed(&few->index[i]) == index && site & SAMPLE_FREED)
			return site & ~SAMPLE_FREED;
	}
	return SITE_NONE;
}

/* FAST. The record of a free object becomes the caller's. Where there is one thread it is
 * enough that no signal handler comes in between. */
ALWAYS_INLINE bool block_claim_free(uint32_t *site, uint32_t old)
{
	uint8_t done;

	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		return atomic_cas_acquire(site, &old, SAMPLE_CLAIMED);
	__asm__ volatile("cmpxchgl %3, %1"
			 : "=@cce"(done), "+m"(*site), "+a"(old)
			 : "r"(SAMPLE_CLAIMED)
			 : "memory");
	return done;
}

/* FAST. One in b, which has a few, for an object that is new in the slot: its site is to
 * be stored last, released; NULL: memory is out. */
ALWAYS_INLINE struct sample_record *block_claim_few(const struct mspan *s,
						    struct block *b, uint32_t index,
						    size_t record_size)
{
	struct block_few *few = block_few(b);

	for (uint32_t i = 0; i < BLOCK_FEW; i++) {
		struct sample_record *r = block_nth(few->records, i, record_size);
		uint32_t site = atomic_load_relaxed(&r->site);

		if ((int32_t)site > 0 || site == SAMPLE_CLAIMED ||
		    !block_claim_free(&r->site, site))
			continue;
		atomic_store_relaxed(&few->index[i], (uint16_t)index);
		return r;
	}
	b = block_make_all(s, b);
	return b ? block_nth(b->records, index, record_size) : NULL;
}

/* FAST. The same in any block. */
static inline struct sample_record *block_claim(const struct mspan *s, struct block *b,
						uint32_t index)
{
	if (block_is_sparse(s))
		return block_claim_few(s, b, index, sampler.record_size);
	return block_nth(b->records, index, sampler.record_size);
}

#endif
