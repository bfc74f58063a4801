/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lifestore: see lifestore.h.
 *
 * Structure: blocks of entries, each in one pool. Free entries are linked through a field
 * of theirs, since nobody else reads what has no site; a pool knows its blocks by a list
 * in memory of its own, which a forked child has, too.
 */
#include "profiler/sample/lifestore.h"

#include "preload/base/atomic.h"
#include "preload/base/meta.h"

#define POOL_SHIFT 48

struct life_ref {
	struct life_ref *next;
	struct life_block *block;
};

static void link_free(struct life_pool *pool, struct life_entry *e, unsigned number)
{
	atomic_store_release(&e->key, (uint64_t)number << POOL_SHIFT);
	e->sum.objects = (uintptr_t)pool->free;
	pool->free = e;
}

static bool add_block(struct life_pool *pool, unsigned number)
{
	struct life_ref *ref = meta_alloc(sizeof(*ref), sizeof(void *), META_SAMPLE);

	if (ref)
		ref->block = store_block(STORE_LIVES, sizeof(*ref->block));
	if (!ref || !ref->block)
		return false;
	ref->next = pool->blocks;
	pool->blocks = ref;
	for (size_t i = LIFE_BLOCK_ENTRIES; i > 0; i--)
		link_free(pool, &ref->block->list[i - 1], number);
	return true;
}

struct life_entry *life_get(struct life_pool *pool, unsigned number)
{
	struct life_entry *e;

	if (UNLIKELY(!pool->free) && !pool->full)
		pool->full = !store_is_open() || !add_block(pool, number);
	e = pool->free;
	if (e)
		pool->free = (struct life_entry *)(uintptr_t)e->sum.objects;
	return e;
}

void life_fill(struct life_entry *e, uint64_t key, const struct lifetime_sum *sum)
{
	e->sum = *sum;
	atomic_store_release(&e->key, (e->key & ~LIFE_KEY_MASK) | key);
}

unsigned life_pool_of(const struct life_entry *e)
{
	return (unsigned)(e->key >> POOL_SHIFT);
}

void life_put(struct life_pool *pool, struct life_entry *e)
{
	link_free(pool, e, life_pool_of(e));
}

void life_find_free(struct life_pool *pool, unsigned number)
{
	pool->free = NULL;
	for (const struct life_ref *ref = pool->blocks; ref; ref = ref->next)
		for (size_t i = LIFE_BLOCK_ENTRIES; i > 0; i--) {
			struct life_entry *e = &ref->block->list[i - 1];

			if ((e->key & LIFE_KEY_MASK) == 0)
				link_free(pool, e, number);
			else
				e->key |= (uint64_t)number << POOL_SHIFT;
		}
}

static bool each_in_block(const struct life_block *b,
			  bool (*fn)(uint64_t key, const struct lifetime_sum *sum,
				     void *arg),
			  void *arg)
{
	for (size_t i = 0; i < LIFE_BLOCK_ENTRIES; i++) {
		uint64_t key = b->list[i].key & LIFE_KEY_MASK;

		if (key && !fn(key, &b->list[i].sum, arg))
			return false;
	}
	return true;
}

bool life_each(const struct store_header *h,
	       bool (*fn)(uint64_t key, const struct lifetime_sum *sum, void *arg),
	       void *arg)
{
	uint64_t at = h->lists[STORE_LIVES].head;

	if (at && h->lists[STORE_LIVES].bytes != sizeof(struct life_block))
		return false;
	while (at) {
		const struct life_block *b = (const void *)((const char *)h + at);

		if (!each_in_block(b, fn, arg))
			return false;
		at = b->next;
	}
	return true;
}
