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

static struct lock peak_lock = LOCK_INIT(LOCK_RANK_SAMPLE_PEAK);
struct peak_totals peak_totals;

/* Copies the counters if the peak lies beyond where they were last copied, by at least
 * `least`. */
static COLD void copy(uint64_t least)
{
	uint64_t live;

	lock_acquire(&peak_lock);
	if (atomic_load_relaxed(&peak_totals.peak) >
	    atomic_load_relaxed(&peak_totals.copied) + least) {
		live = atomic_load_relaxed(&peak_totals.live);
		atomic_store_relaxed(&peak_totals.copied, live);
		atomic_store_relaxed(&peak_totals.next_copy, live + GROWTH(live));
		site_keep_live();
	}
	lock_release(&peak_lock);
}

static void raise_peak(void)
{
	uint64_t live = atomic_load_relaxed(&peak_totals.live);
	uint64_t old = atomic_load_relaxed(&peak_totals.peak);

	if (live <= old)
		return;
	while (live > old && !atomic_cas_relaxed(&peak_totals.peak, &old, live))
		;
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
		thread_add(&peak_totals.live, (uint64_t)bytes);
	} else {
		seep_tls.live_delta = (int32_t)bytes; /* less than STEP */
	}
}

void peak_grow_shared(uint64_t bytes)
{
	add_live((int64_t)bytes);
	if (seep_tls.live_delta == 0)
		raise_peak();
}

void peak_shrink_slow(uint64_t bytes)
{
	if (atomic_load_relaxed(&peak_totals.peak) >
	    atomic_load_relaxed(&peak_totals.next_copy))
		copy(GROWTH(atomic_load_relaxed(&peak_totals.copied)));
	add_live(-(int64_t)bytes);
}

void sample_thread_end(void)
{
	int64_t bytes = seep_tls.live_delta;

	seep_tls.live_delta = 0;
	thread_add(&peak_totals.live, (uint64_t)bytes);
	raise_peak();
}

void peak_settle(void)
{
	sample_thread_end();
	if (atomic_load_relaxed(&peak_totals.live) >=
	    atomic_load_relaxed(&peak_totals.copied))
		copy(0);
}

uint64_t peak_bytes(void)
{
	return atomic_load_relaxed(&peak_totals.peak);
}

uint64_t peak_live_bytes(void)
{
	return atomic_load_relaxed(&peak_totals.live);
}

void peak_adopt(uint64_t live, uint64_t copied)
{
	peak_totals.live = live;
	peak_totals.copied = copied;
	peak_totals.next_copy = copied + GROWTH(copied);
	peak_totals.peak = live > copied ? live : copied;
}

NO_LOCK_CHECK void peak_fork_prepare(void)
{
	lock_acquire(&peak_lock);
}

NO_LOCK_CHECK void peak_fork_done(bool child)
{
	if (child)
		lock_reset(&peak_lock);
	else
		lock_release(&peak_lock);
}
