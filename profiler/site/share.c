/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share: see share.h.
 *
 * Concurrency: one lock guards who has a share and the blocks that chunks are cut from. A
 * share's tables are written by its thread, and read at any time.
 */
#include "profiler/site/share.h"

#include <string.h>

#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "profiler/site/store.h"

static struct {
	struct lock lock;
	struct share list[SHARES];
	uint32_t count;		   /* used so far; atomic */
	struct share_block *block; /* guarded; the last one */
} shares = { .lock = LOCK_INIT(LOCK_RANK_SITE_CHUNK) };

static struct share *take_share(void)
{
	struct share *s = NULL;

	lock_acquire(&shares.lock);
	for (uint32_t i = 0; i < SHARES && !s; i++) {
		if (shares.list[i].taken)
			continue;
		s = &shares.list[i];
		s->taken = true;
		if (i >= shares.count)
			atomic_store_release(&shares.count, i + 1);
	}
	lock_release(&shares.lock);
	return s;
}

void share_thread_end(void)
{
	struct thread_info *t = seep_tls.thread;

	if (!t || !t->share)
		return;
	lock_acquire(&shares.lock);
	t->share->taken = false;
	lock_release(&shares.lock);
	t->share = NULL;
}

static struct share_table *make_table(struct share *s, uint32_t i)
{
	struct share_table *table = s->tables[i];

	if (!table) {
		table = meta_alloc(sizeof(*table), CACHE_LINE, META_SITE);
		atomic_store_release(&s->tables[i], table);
	}
	return table;
}

/* Needs the lock. */
static struct share_chunk *cut_chunk(uint32_t first)
{
	struct share_block *b = shares.block;
	struct share_chunk *chunk;

	if (!b || b->nused == SHARE_BLOCK_CHUNKS) {
		b = store_block(STORE_SHARES, sizeof(*b));
		if (!b)
			b = meta_alloc(sizeof(*b), CACHE_LINE, META_SITE);
		if (!b)
			return NULL;
		shares.block = b;
	}
	chunk = &b->chunks[b->nused];
	chunk->first = first;
	atomic_store_release(&b->nused, b->nused + 1);
	return chunk;
}

struct site_counters *share_make(uint32_t number)
{
	struct thread_info *t = seep_tls.thread;
	uint32_t i = number >> (SHARE_LG_CHUNK + SHARE_LG_TABLE);
	struct share_table *table;
	struct share_chunk *chunk;

	if (!t || i >= SHARE_TABLES)
		return NULL;
	if (!t->share)
		t->share = take_share();
	if (!t->share)
		return NULL;
	table = make_table(t->share, i);
	if (!table)
		return NULL;
	if (share_find(t->share, number)) /* of the thread that had the share before */
		return share_find(t->share, number);
	lock_acquire(&shares.lock);
	chunk = cut_chunk(number & ~(SHARE_CHUNK - 1));
	lock_release(&shares.lock);
	if (!chunk)
		return NULL;
	atomic_store_release(
		&table->chunks[number >> SHARE_LG_CHUNK & ((1u << SHARE_LG_TABLE) - 1)],
		chunk);
	return &chunk->list[number & (SHARE_CHUNK - 1)];
}

uint64_t share_recorded(void)
{
	uint32_t n = atomic_load_acquire(&shares.count);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += atomic_load_relaxed(&shares.list[i].recorded);
	return sum;
}

bool share_is_used(void)
{
	return atomic_load_acquire(&shares.count) > 0;
}

/* ---- sums ---- */

/* Frees are read before allocations, as everywhere. */
static struct site_counters read_counters(const struct site_counters *c)
{
	struct site_counters r = { 0 };

	r.peak_number = atomic_load_relaxed(&c->peak_number);
	r.free_objects = atomic_load_relaxed(&c->free_objects);
	r.free_bytes = atomic_load_relaxed(&c->free_bytes);
	r.alloc_objects = atomic_load_relaxed(&c->alloc_objects);
	r.alloc_bytes = atomic_load_relaxed(&c->alloc_bytes);
	r.samples = atomic_load_relaxed(&c->samples);
	r.peak_objects = atomic_load_relaxed(&c->peak_objects);
	r.peak_bytes = atomic_load_relaxed(&c->peak_bytes);
	return r;
}

/* Brings what was live at the peak up to the one of that number: since the one it has met
 * last, it has not changed. */
static void meet_peak(struct site_counters *c, uint64_t number)
{
	if (c->peak_number == number)
		return;
	c->peak_number = number;
	c->peak_objects = c->alloc_objects - c->free_objects;
	c->peak_bytes = c->alloc_bytes - c->free_bytes;
}

void share_add(struct site_counters *sum, const struct site_counters *part)
{
	struct site_counters p = read_counters(part);
	uint64_t number =
		p.peak_number > sum->peak_number ? p.peak_number : sum->peak_number;

	meet_peak(sum, number);
	meet_peak(&p, number);
	sum->alloc_objects += p.alloc_objects;
	sum->alloc_bytes += p.alloc_bytes;
	sum->free_objects += p.free_objects;
	sum->free_bytes += p.free_bytes;
	sum->samples += p.samples;
	sum->peak_objects += p.peak_objects;
	sum->peak_bytes += p.peak_bytes;
}

void share_add_up(uint32_t number, struct site_counters *sum)
{
	uint32_t n = atomic_load_acquire(&shares.count);

	for (uint32_t i = 0; i < n; i++) {
		const struct site_counters *c = share_find(&shares.list[i], number);

		if (c)
			share_add(sum, c);
	}
}

/* ---- fork ---- */

NO_LOCK_CHECK void share_fork_prepare(void)
{
	lock_acquire_nested(&shares.lock);
}

/* The child has one thread. */
NO_LOCK_CHECK void share_fork_done(bool child)
{
	const struct thread_info *own = seep_tls.thread;

	if (!child) {
		lock_release(&shares.lock);
		return;
	}
	lock_reset(&shares.lock);
	for (uint32_t i = 0; i < shares.count; i++)
		shares.list[i].taken = own && own->share == &shares.list[i];
}

void share_forget(void)
{
	shares.block = NULL;
	for (uint32_t i = 0; i < shares.count; i++)
		for (uint32_t k = 0; k < SHARE_TABLES; k++)
			if (shares.list[i].tables[k])
				memset(shares.list[i].tables[k], 0,
				       sizeof(struct share_table));
}
