/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peak: which sites held the memory when most was live.
 *
 * The state to keep is the one just before the first free after a new maximum; keeping it
 * means copying every site's counters. So it is copied only when the maximum has grown by
 * GROWTH since the last copy: the profile shows a moment whose total is within 1.6 % (or
 * 64 KiB) of the true peak, and the peak itself when the program grows, then shrinks.
 */
#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/base/lock.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"

#define GROWTH(bytes) ((bytes) / 64 + 64 * KIB)

static struct {
	struct lock lock;
	uint64_t live;	 /* atomic: bytes, estimated in sampled mode */
	uint64_t peak;	 /* atomic: highest live */
	uint64_t copied; /* live when the counters were copied; atomic, written under lock
			  */
	bool fresh;	 /* atomic: peak was raised since the last look */
} peak = { .lock = LOCK_INIT(LOCK_RANK_SAMPLE_PEAK) };

static bool copy_one(uint32_t site, struct site_counters *c, void *arg)
{
	(void)site;
	(void)arg;
	c->peak_objects = atomic_load_relaxed(&c->alloc_objects) -
			  atomic_load_relaxed(&c->free_objects);
	c->peak_bytes = atomic_load_relaxed(&c->alloc_bytes) -
			atomic_load_relaxed(&c->free_bytes);
	return true;
}

static COLD void copy(uint64_t least)
{
	lock_acquire(&peak.lock);
	if (atomic_load_relaxed(&peak.peak) > atomic_load_relaxed(&peak.copied) + least) {
		atomic_store_relaxed(&peak.copied, atomic_load_relaxed(&peak.live));
		site_each(copy_one, NULL);
	}
	lock_release(&peak.lock);
}

void peak_grow(uint64_t bytes)
{
	uint64_t live, old;

	thread_add(&peak.live, bytes);
	live = atomic_load_relaxed(&peak.live);
	old = atomic_load_relaxed(&peak.peak);
	if (live <= old)
		return;
	while (live > old && !atomic_cas_relaxed(&peak.peak, &old, live))
		;
	atomic_store_relaxed(&peak.fresh, true);
}

void peak_shrink(uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&peak.fresh))) {
		uint64_t copied = atomic_load_relaxed(&peak.copied);

		if (atomic_load_relaxed(&peak.peak) > copied + GROWTH(copied)) {
			atomic_store_relaxed(&peak.fresh, false);
			copy(GROWTH(copied));
		}
	}
	thread_add(&peak.live, 0 - bytes);
}

void peak_settle(void)
{
	if (atomic_load_relaxed(&peak.live) >= atomic_load_relaxed(&peak.copied))
		copy(0);
}

uint64_t peak_bytes(void)
{
	return atomic_load_relaxed(&peak.peak);
}

uint64_t peak_live_bytes(void)
{
	return atomic_load_relaxed(&peak.live);
}

NO_LOCK_CHECK void peak_fork_prepare(void)
{
	lock_acquire(&peak.lock);
}

NO_LOCK_CHECK void peak_fork_done(bool child)
{
	if (child)
		lock_reset(&peak.lock);
	else
		lock_release(&peak.lock);
}
