/* SPDX-License-Identifier: Apache-2.0 */
/*
 * count: sites that have made few objects, and other threads, see count.h.
 */
#include "profiler/sample/count.h"

#include "preload/heap/mcache.h"
#include "profiler/site/capture.h"
#include "profiler/site/share.h"

#define SAMPLES_ALONE 256 /* of a thread, before it gets a share */

NOINLINE struct trail_found count_find_anew(struct trail_found found)
{
	if (found.node == TRAIL_UNKNOWN)
		found.node = capture_site(trail_latest());
	found.number = site_counters(found.node) ? site_number(found.node) : 0;
	if (found.number)
		trail_set_latest(found);
	return found;
}

/* ---- sites that have made few ---- */

static bool is_full(uint64_t now, uint64_t bytes)
{
	const struct few_sums sums = few_read(now);

	return now & FEW_MOVED || sums.made >= FEW_OBJECTS_MOST ||
	       bytes > FEW_BYTES_MOST - sums.made_bytes;
}

/* peak_touch() of these. False: the peak's number is too high for them. */
static bool touch_few(struct site_few *f)
{
	const uint64_t number = atomic_load_relaxed(&peak_totals.number);
	uint64_t now;
	struct few_sums sums;

	if (number >> (64 - FEW_PEAK_SHIFT))
		return false;
	if (atomic_load_relaxed(&f->peak) >> FEW_PEAK_SHIFT == number)
		return true;
	now = atomic_load_relaxed(&f->now);
	sums = few_read(now);
	if (!(now & FEW_MOVED))
		atomic_store_relaxed(&f->peak,
				     number << FEW_PEAK_SHIFT |
					     (uint64_t)(sums.made - sums.freed)
						     << FEW_SHIFT |
					     (sums.made_bytes - sums.freed_bytes));
	return true;
}

static void count_in_counters(uint32_t site, uint64_t bytes)
{
	struct site_counters *c = site_counters(site);

	if (c)
		thread_add_two(&c->alloc_objects, (uint64_t)1 << SITE_SHIFT,
			       &c->alloc_bytes, bytes);
}

NOINLINE uint32_t count_alloc_few(uint32_t site, uint64_t bytes)
{
	struct site_few *f = site_few(site);
	uint64_t now = f ? atomic_load_relaxed(&f->now) : FEW_MOVED;

	if (is_full(now, bytes) || !touch_few(f))
		return 0;
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		peak_add_beside((int64_t)bytes);
	else
		peak_raise_alone(bytes);
	do { /* a handler, or another thread, may have come in between */
		if (UNLIKELY(is_full(now, bytes))) {
			count_in_counters(site, bytes);
			return FEW_OBJECTS_MOST;
		}
	} while (!atomic_cas_relaxed(&f->now, &now, now + FEW_OBJECT + bytes));
	return few_read(now).made + 1;
}

NOINLINE bool count_free_few(uint32_t site, uint64_t bytes)
{
	uint32_t number = site_few_number(site);
	struct site_few *f = number ? site_few_at(number) : NULL;
	const uint64_t freed = FEW_FREED_OBJECT | bytes << FEW_FREED_SHIFT;
	uint64_t now = f ? atomic_load_relaxed(&f->now) : FEW_MOVED;

	if (now & FEW_MOVED)
		return false;
	if (UNLIKELY(atomic_load_relaxed(&peak_totals.fresh)))
		peak_end();
	if (!touch_few(f)) {
		site_counters(site);
		return false;
	}
	while (!atomic_cas_relaxed(&f->now, &now, now + freed))
		if (now & FEW_MOVED)
			return false;
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		peak_add_beside(-(int64_t)bytes);
	else
		thread_add_alone(&peak_totals.live, 0 - bytes);
	return true;
}

/* ---- beside other threads ---- */

static NOINLINE uint64_t alloc_shared(uint32_t number, uint64_t objects, uint64_t bytes)
{
	struct site_counters *c = site_counters_at(number);

	peak_grow(c, bytes);
	thread_add_two(&c->alloc_objects, objects, &c->alloc_bytes, bytes);
	thread_add(&sampler.samples, 1);
	return atomic_load_relaxed(&c->alloc_objects);
}

static NOINLINE void free_shared(uint32_t number, uint64_t objects, uint64_t bytes)
{
	struct site_counters *c = site_counters_at(number);

	peak_shrink(c, bytes);
	thread_add_two(&c->free_objects, objects, &c->free_bytes, bytes);
}

static NOINLINE uint64_t alloc_beside_slow(uint32_t number, uint64_t objects,
					   uint64_t bytes)
{
	struct site_counters *c = share_counters(number);

	if (UNLIKELY(!c))
		return alloc_shared(number, objects, bytes);
	peak_grow_beside(c, bytes);
	thread_add_alone(&c->alloc_objects, objects);
	thread_add_alone(&c->alloc_bytes, bytes);
	thread_add_alone(&share_own()->recorded, 1);
	return c->alloc_objects;
}

static NOINLINE bool free_beside_slow(uint32_t number, uint64_t objects, uint64_t bytes)
{
	struct site_counters *c = share_counters(number);

	if (UNLIKELY(!c)) {
		free_shared(number, objects, bytes);
		return true;
	}
	peak_shrink_beside(c, bytes);
	thread_add_alone(&c->free_objects, objects);
	thread_add_alone(&c->free_bytes, bytes);
	return true;
}

/* The thread's own counters, and what it keeps back of the total; NULL: something more is
 * to be done. */
ALWAYS_INLINE struct site_counters *counters_beside(const struct share *own,
						    uint32_t number, int64_t bytes)
{
	struct site_counters *c = LIKELY(own != NULL) ? share_find(own, number) : NULL;
	int64_t sum;

	if (UNLIKELY(!c) || UNLIKELY(!peak_has(c)))
		return NULL;
	sum = seep_tls.live_delta + bytes;
	if (UNLIKELY(!peak_is_little(sum)))
		return NULL;
	seep_tls.live_delta = (int32_t)sum;
	return c;
}

/* Nearly always there is nothing to call: so these two need no frame. */
NOINLINE uint64_t count_alloc_beside(uint32_t number, uint64_t objects, uint64_t bytes)
{
	struct share *own = share_own();
	struct site_counters *c = counters_beside(own, number, (int64_t)bytes);

	if (UNLIKELY(!c))
		return alloc_beside_slow(number, objects, bytes);
	thread_add_alone(&c->alloc_objects, objects);
	thread_add_alone(&c->alloc_bytes, bytes);
	thread_add_alone(&own->recorded, 1);
	return c->alloc_objects;
}

NOINLINE bool count_free_beside(uint32_t number, uint64_t objects, uint64_t bytes)
{
	struct site_counters *c;

	if (UNLIKELY(atomic_load_relaxed(&peak_totals.fresh)))
		return free_beside_slow(number, objects, bytes);
	c = counters_beside(share_own(), number, -(int64_t)bytes);
	if (UNLIKELY(!c))
		return free_beside_slow(number, objects, bytes);
	thread_add_alone(&c->free_objects, objects);
	thread_add_alone(&c->free_bytes, bytes);
	return true;
}

/* Does the thread count in a share, or from now on? */
static bool has_share(void)
{
	const struct thread_info *t = seep_tls.thread;

	return (LIKELY(t != NULL) && t->share) || mcache_self()->nsampled > SAMPLES_ALONE;
}

void count_sample_beside(uint32_t number, uint64_t objects, uint64_t bytes)
{
	struct site_counters *c;

	mcache_self()->nsampled++;
	if (!has_share()) {
		alloc_shared(number, objects, bytes);
		thread_add(&site_counters_at(number)->samples, 1);
		return;
	}
	count_alloc_beside(number, objects, bytes);
	c = share_counters(number);
	if (LIKELY(c != NULL))
		thread_add_alone(&c->samples, 1);
	else
		thread_add(&site_counters_at(number)->samples, 1);
}

void count_sample_free_beside(uint32_t number, uint64_t objects, uint64_t bytes)
{
	if (has_share())
		count_free_beside(number, objects, bytes);
	else
		free_shared(number, objects, bytes);
}
