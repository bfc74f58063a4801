/* SPDX-License-Identifier: Apache-2.0 */
/*
 * count: beside other threads, see count.h.
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
