/* SPDX-License-Identifier: Apache-2.0 */
/*
 * counters: what sites have made, see site.h.
 *
 * Structure: each site that made anything has a struct site_few, whose number a cell
 * behind its node has. Where that does not suffice it has struct site_counters, too. A
 * list of our own tells whose these are.
 *
 * Concurrency: one lock guards numbers and chunks, and who moves a site's sums. The
 * counters that take over are complete before site_few's one word says so: at every
 * moment, also one in which the process is killed, the sums are in one place.
 */
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "profiler/site/share.h"
#include "profiler/site/site_int.h"
#include "profiler/site/store.h"

static struct {
	struct lock lock;
	uint32_t nfew, ncounters;	       /* atomic, written under lock */
	uint32_t *owners[SITE_COUNTER_CHUNKS]; /* by number of counters; atomic */
} counters = { .lock = LOCK_INIT(LOCK_RANK_SITE_CHUNK) };

static void *new_chunk(enum store_kind kind, uint32_t index, size_t size)
{
	void *chunk = store_chunk(kind, index, size);

	return chunk ? chunk : meta_alloc(size, CACHE_LINE, META_SITE);
}

static uint32_t new_few_locked(void)
{
	uint32_t number = counters.nfew + 1, i = number >> LG_FEW_CHUNK;

	if (i >= SITE_FEW_CHUNKS)
		return 0;
	if (!site_chunks.few[i])
		atomic_store_release(
			&site_chunks.few[i],
			(struct site_few *)new_chunk(
				STORE_FEW, i, FEW_CHUNK * sizeof(struct site_few)));
	if (!site_chunks.few[i])
		return 0;
	atomic_store_release(&counters.nfew, number);
	store_set_count(STORE_FEW, number);
	return number;
}

static bool have_counter_chunk(uint32_t i)
{
	struct site_counters **chunk = &site_chunks.counters[i];

	if (!counters.owners[i])
		atomic_store_release(
			&counters.owners[i],
			(uint32_t *)meta_alloc(COUNTER_CHUNK * sizeof(uint32_t),
					       CACHE_LINE, META_SITE));
	if (!*chunk)
		atomic_store_release(chunk, (struct site_counters *)new_chunk(
						    STORE_COUNTERS, i,
						    COUNTER_CHUNK * sizeof(**chunk)));
	return *chunk && counters.owners[i];
}

static uint32_t new_counters_locked(uint32_t site)
{
	uint32_t number = counters.ncounters + 1, i = number >> LG_COUNTER_CHUNK;

	if (i >= SITE_COUNTER_CHUNKS || !have_counter_chunk(i))
		return 0;
	counters.owners[i][number % COUNTER_CHUNK] = site;
	atomic_store_release(&counters.ncounters, number);
	store_set_count(STORE_COUNTERS, number);
	return number;
}

static COLD struct site_few *make_few(uint32_t site)
{
	uint32_t number;

	lock_acquire(&counters.lock);
	number = new_few_locked();
	lock_release(&counters.lock);
	if (number)
		site_put_few(site, number);
	number = site_few_number(site);
	return number ? site_few_at(number) : NULL;
}

struct site_few *site_few(uint32_t site)
{
	uint32_t number = site_few_number(site);

	if (LIKELY(number != 0))
		return site_few_at(number);
	return site == SITE_NONE ? NULL : make_few(site);
}

static void expand(uint64_t now, uint64_t peak, struct site_counters *out)
{
	const struct few_sums sums = few_read(now);

	*out = (struct site_counters){
		.alloc_objects = (uint64_t)sums.made << SITE_SHIFT,
		.alloc_bytes = sums.made_bytes,
		.free_objects = (uint64_t)sums.freed << SITE_SHIFT,
		.free_bytes = sums.freed_bytes,
		.peak_objects = (peak >> FEW_SHIFT & FEW_OBJECTS_FIELD) << SITE_SHIFT,
		.peak_bytes = peak & FEW_BYTES_MOST,
		.peak_number = peak >> FEW_PEAK_SHIFT,
	};
}

static void move_locked(struct site_few *f, uint32_t number)
{
	struct site_counters *c = site_counters_at(number);
	uint64_t now = atomic_load_relaxed(&f->now);

	do
		expand(now, atomic_load_relaxed(&f->peak), c);
	while (!atomic_cas_acq_rel(&f->now, &now, FEW_MOVED | number));
}

static COLD struct site_counters *make_counters(uint32_t site)
{
	struct site_few *f = site_few(site);
	uint32_t number;

	if (!f)
		return NULL;
	lock_acquire(&counters.lock);
	if (!(atomic_load_relaxed(&f->now) & FEW_MOVED)) {
		number = new_counters_locked(site);
		if (number)
			move_locked(f, number);
	}
	lock_release(&counters.lock);
	return site_counters_if_any(site);
}

struct site_counters *site_counters(uint32_t site)
{
	struct site_counters *c = site_counters_if_any(site);

	if (LIKELY(c) || site == SITE_NONE)
		return c;
	return make_counters(site);
}

uint32_t site_of_number(uint32_t number)
{
	const uint32_t *list =
		atomic_load_acquire(&counters.owners[number >> LG_COUNTER_CHUNK]);

	return list[number % COUNTER_CHUNK];
}

/* ---- all of them ---- */

static void add_up(uint32_t few, struct site_counters *out)
{
	const struct site_few *f = site_few_at(few);
	uint64_t peak = atomic_load_relaxed(&f->peak);
	uint64_t now = atomic_load_acquire(&f->now);
	uint32_t number = (uint32_t)now;

	if (!(now & FEW_MOVED)) {
		expand(now, peak, out);
		return;
	}
	memset(out, 0, sizeof(*out));
	share_add(out, site_counters_at(number));
	if (share_is_used())
		share_add_up(number, out);
}

void site_each(bool (*fn)(uint32_t site, struct site_counters *c, void *arg), void *arg)
{
	uint32_t n = site_count();

	for (uint32_t at = 1; at <= n; at++) {
		uint32_t site = site_owner(at), few = *site_cell(at) & SITE_VALUE;
		struct site_counters sum;

		if (!site || !few)
			continue;
		add_up(few, &sum);
		if (!fn(site, &sum, arg))
			return;
	}
}

/* ---- fork ---- */

/* Into the copy of all counters that the child will go on with. */
static void fold_shares(struct site_counters *copy)
{
	if (!copy || !share_is_used())
		return;
	for (uint32_t number = 1; number <= counters.ncounters; number++)
		share_add_up(number, &copy[number]);
}

NO_LOCK_CHECK void counters_fork_prepare(void)
{
	lock_acquire_nested(&counters.lock);
	share_fork_prepare();
	store_fork_prepare();
	fold_shares(store_fork_counters());
}

NO_LOCK_CHECK void counters_fork_done(bool child)
{
	store_fork_done(child);
	share_fork_done(child);
	if (child)
		lock_reset(&counters.lock);
	else
		lock_release(&counters.lock);
}

/* ---- of a process that has ended ---- */

bool counters_are_known(uint32_t few)
{
	return few > 0 && few <= counters.nfew;
}

/* Of one block: what its chunks hold goes to the counters. */
static void adopt_shares(const struct share_block *b)
{
	for (uint32_t i = 0; i < b->nused && i < SHARE_BLOCK_CHUNKS; i++)
		for (uint32_t k = 0; k < SHARE_CHUNK; k++) {
			uint64_t number = (uint64_t)b->chunks[i].first + k;

			if (number > 0 && number <= counters.ncounters)
				share_add(site_counters_at((uint32_t)number),
					  &b->chunks[i].list[k]);
		}
}

void counters_adopt(const struct store_header *h)
{
	const uintptr_t base = (uintptr_t)h;

	counters.nfew = store_counted(h, STORE_FEW);
	counters.ncounters = store_counted(h, STORE_COUNTERS);
	for (uint32_t i = 0; i <= counters.nfew / FEW_CHUNK; i++)
		site_chunks.few[i] = (void *)(base + h->few_chunks[i]);
	for (uint32_t i = 0; i <= counters.ncounters / COUNTER_CHUNK; i++)
		site_chunks.counters[i] = (void *)(base + h->counter_chunks[i]);
	for (uint32_t i = 1; i <= counters.nfew; i++) {
		struct site_few *f = site_few_at(i);

		if (f->now & FEW_MOVED && (uint32_t)f->now > counters.ncounters)
			f->now = 0;
	}
	for (uint64_t at = h->lists[STORE_SHARES].head; at;) {
		const struct share_block *b = (void *)(base + at);

		adopt_shares(b);
		at = b->next;
	}
}
