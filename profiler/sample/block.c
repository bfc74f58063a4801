/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block: their memory, see block.h.
 */
#include "profiler/sample/block.h"

static struct fixalloc *pool(unsigned which, size_t bytes)
{
	struct fixalloc *f = &sampler.pools[which];

	if (f->size == 0) {
		f->size = align_up(bytes, sampler.slow_frees ? CACHE_LINE : 16);
		f->tag = META_SAMPLE;
	}
	return f;
}

/* Short spans of a class (mcentral.c) use the same pool. */
static struct fixalloc *pool_of_all(const struct mspan *s)
{
	const size_t nslots = sizeclass_info[s->sizeclass].nslots;

	return pool(s->sizeclass, sizeof(struct block) + nslots * sampler.record_size);
}

static struct fixalloc *pool_of_first(const struct mspan *s)
{
	if (!sampler.sparse)
		return pool_of_all(s);
	return pool(0, sizeof(struct block) + sizeof(struct block_few) +
			       BLOCK_FEW * (size_t)sampler.record_size);
}

struct block *block_make(struct mspan *s)
{
	struct block *b;

	if (s->slot_size == 0) {
		b = mspan_room(s);
		block_nth(b->records, 0, 0)->site = SITE_NONE;
		b->number = 0;
		atomic_store_release(&s->samples, (void *)b);
		return b;
	}
	lock_acquire(&sampler.pool_lock);
	b = atomic_load_acquire(&s->samples);
	if (!b) {
		b = fixalloc_get(pool_of_first(s));
		atomic_store_release(&s->samples, (void *)b);
	}
	lock_release(&sampler.pool_lock);
	return b;
}

struct block *block_make_all(const struct mspan *s, struct block *b)
{
	struct block_few *few = block_few(b);
	struct block *all = atomic_load_acquire(&few->all);

	if (all)
		return all;
	lock_acquire(&sampler.pool_lock);
	all = atomic_load_acquire(&few->all);
	if (!all) {
		all = fixalloc_get(pool_of_all(s));
		atomic_store_release(&few->all, all);
	}
	lock_release(&sampler.pool_lock);
	return all;
}

void sample_trim(void)
{
	lock_acquire(&sampler.pool_lock);
	for (unsigned i = 0; i < SIZECLASS_COUNT; i++)
		if (sampler.pools[i].free)
			fixalloc_trim(&sampler.pools[i]);
	lock_release(&sampler.pool_lock);
}

void sample_on_release(struct mspan *s)
{
	struct block *b = s->samples;

	s->samples = NULL;
	if (s->slot_size == 0)
		return;
	lock_acquire(&sampler.pool_lock);
	if (sampler.sparse && block_few(b)->all)
		fixalloc_put(pool_of_all(s), block_few(b)->all);
	fixalloc_put(pool_of_first(s), b);
	lock_release(&sampler.pool_lock);
}
