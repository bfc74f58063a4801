/* SPDX-License-Identifier: Apache-2.0 */
/* blocks: what the tests of the allocator share: blocks with known contents. */
#ifndef TESTS_UNIT_BLOCKS_H
#define TESTS_UNIT_BLOCKS_H

#include "tests/unit/cm.h"

#include <string.h>

#include "preload/heap/heap.h"

#define SEED 12345u

struct block {
	unsigned char *p;
	size_t size;
	unsigned char stamp;
};

static inline unsigned next(unsigned *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static inline void fill(struct block *b, unsigned char stamp)
{
	b->stamp = stamp;
	memset(b->p, stamp, b->size);
}

static inline int intact(const struct block *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (b->p[i] != b->stamp)
			return 0;
	return 1;
}

/* Stamps one word of each 4 KiB, and the last. */
static inline void stamp_pages(const struct block *b, size_t from)
{
	for (size_t i = from; i < b->size; i += 4096)
		b->p[i] = b->stamp;
	b->p[b->size - 1] = b->stamp;
}

static inline int stamps_intact(const struct block *b, size_t n)
{
	for (size_t i = 0; i < n; i += 4096)
		if (b->p[i] != b->stamp)
			return 0;
	return n < b->size || b->p[b->size - 1] == b->stamp;
}

/* Every page of ours is in use or free, and counted once. */
static inline void pages_add_up(void)
{
	struct heap_stats s;

	heap_get_stats(&s);
	assert_int_equal(s.inuse_small + s.inuse_large + s.free_dirty + s.free_clean,
			 s.committed);
}

#endif
