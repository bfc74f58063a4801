/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peak: which sites held the memory when most was live.
 *
 * The state to keep is the one just before the first free after a new maximum; keeping it
 * means copying every site's counters. So it is copied only when the maximum has grown by
 * GROWTH since the last copy: the profile shows a moment whose total is within 1.6 % (or
 * 64 KiB) of the true peak, and the peak itself when the program grows, then shrinks.
 * With several threads each adds to the total in steps of 8 KiB.
 */
#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/base/lock.h"
#include "preload/heap/tls.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"

#define GROWTH(bytes) ((bytes) / 64 + 64 * KIB)
#define STEP	      ((int64_t)8 * 1024) /* see is_worth_it() */

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

static void raise_peak(void)
{
	uint64_t live = atomic_load_relaxed(&peak.live);
	uint64_t old = atomic_load_relaxed(&peak.peak);

	if (live <= old)
		return;
	while (live > old && !atomic_cas_relaxed(&peak.peak, &old, live))
		;
	atomic_store_relaxed(&peak.fresh, true);
}

/* Threads beside each other do not share the total at every event: what each adds is
 * kept back until it is worth a step. */
static bool is_worth_it(int64_t bytes)
{
	return bytes >= STEP || bytes <= -STEP || !atomic_load_relaxed(&thread_are_many);
}

ALWAYS_INLINE void add_live(int64_t bytes)
{
	bytes += seep_tls.live_delta;
	if (is_worth_it(bytes)) {
		seep_tls.live_delta = 0;
		thread_add(&peak.live, (uint64_t)bytes);
	} else {
		seep_tls.live_delta = (int32_t)bytes; /* less than STEP */
	}
}

void peak_grow(uint64_t bytes)
{
	add_live((int64_t)bytes);
	if (seep_tls.live_delta == 0)
		raise_peak();
}

/* The first free after a new maximum. */
static NOINLINE void shrink_from_peak(uint64_t bytes)
{
	uint64_t copied = atomic_load_relaxed(&peak.copied);

	if (atomic_load_relaxed(&peak.peak) > copied + GROWTH(copied)) {
		atomic_store_relaxed(&peak.fresh, false);
		copy(GROWTH(copied));
	}
	add_live(-(int64_t)bytes);
}

void peak_shrink(uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&peak.fresh)))
		shrink_from_peak(bytes);
	else
		add_live(-(int64_t)bytes);
}

void sample_thread_end(void)
{
	int64_t bytes = seep_tls.live_delta;

	seep_tls.live_delta = 0;
	thread_add(&peak.live, (uint64_t)bytes);
	raise_peak();
}

void peak_settle(void)
{
	sample_thread_end();
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

void peak_adopt(uint64_t live, uint64_t copied)
{
	peak.live = live;
	peak.copied = copied;
	peak.peak = live > copied ? live : copied;
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
