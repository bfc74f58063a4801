/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peak: which sites held the memory when most was live.
 *
 * The state to know is the one just before the first free after a new maximum. Peaks are
 * numbered: at that free the number goes up by one, and that is all. A site whose
 * counters are to change, and that has not met the latest peak yet, keeps first what is
 * live of it: nothing of it has changed since that peak. So the copies of sites with the
 * latest number, and the present counters of all others, are the state at the peak, at a
 * price that no number of sites raises. It is exact with one thread; with several, each
 * adds to the total in steps of 8 KiB, and sites that change at the very moment may be
 * off by that change.
 */
#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/heap/tls.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"

struct peak_totals peak_totals;

/* A counter of frees is read before the one of allocations. Negative in a share of which
 * another one freed, and in torn pairs of a running program. */
ALWAYS_INLINE void read_live(const struct site_counters *c, int64_t *objects,
			     int64_t *bytes)
{
	uint64_t freed = atomic_load_relaxed(&c->free_objects);
	uint64_t freed_bytes = atomic_load_relaxed(&c->free_bytes);
	uint64_t made = atomic_load_relaxed(&c->alloc_objects);
	uint64_t made_bytes = atomic_load_relaxed(&c->alloc_bytes);

	*objects = (int64_t)(made - freed);
	*bytes = (int64_t)(made_bytes - freed_bytes);
}

void peak_keep(struct site_counters *c)
{
	uint64_t number = atomic_load_relaxed(&peak_totals.number);
	uint64_t old = atomic_load_relaxed(&c->peak_number);
	int64_t objects, bytes;

	if (old == number || !atomic_cas_relaxed(&c->peak_number, &old, number))
		return; /* another thread does it */
	read_live(c, &objects, &bytes);
	atomic_store_relaxed(&c->peak_objects, (uint64_t)objects);
	atomic_store_relaxed(&c->peak_bytes, (uint64_t)bytes);
}

/* The same with one thread, which needs no locked instruction: programs that grow have a
 * new peak every few frees. */
NOINLINE void peak_keep_alone(struct site_counters *c)
{
	/* First: if a handler ends a peak meanwhile, the next change looks again. */
	const uint64_t number = atomic_load_relaxed(&peak_totals.number);
	int64_t objects, bytes;

	read_live(c, &objects, &bytes);
	atomic_store_relaxed(&c->peak_objects, (uint64_t)objects);
	atomic_store_relaxed(&c->peak_bytes, (uint64_t)bytes);
	atomic_store_relaxed(&c->peak_number, number);
}

void peak_end(void)
{
	if (__atomic_exchange_n(&peak_totals.fresh, false, __ATOMIC_RELAXED))
		atomic_add_relaxed(&peak_totals.number, 1u);
}

void peak_read(const struct site_counters *c, uint64_t *out_objects, uint64_t *out_bytes)
{
	int64_t objects, bytes;

	if (atomic_load_relaxed(&c->peak_number) ==
	    atomic_load_relaxed(&peak_totals.number)) {
		objects = (int64_t)atomic_load_relaxed(&c->peak_objects);
		bytes = (int64_t)atomic_load_relaxed(&c->peak_bytes);
	} else {
		read_live(c, &objects, &bytes);
	}
	*out_objects = objects > 0 ? (uint64_t)objects : 0;
	*out_bytes = bytes > 0 ? (uint64_t)bytes : 0;
}

static void raise_peak(void)
{
	uint64_t live = atomic_load_relaxed(&peak_totals.live);
	uint64_t old = atomic_load_relaxed(&peak_totals.peak);

	if (live <= old)
		return;
	while (live > old && !atomic_cas_relaxed(&peak_totals.peak, &old, live))
		;
	atomic_store_relaxed(&peak_totals.fresh, true);
}

void peak_add_shared(int64_t bytes)
{
	bytes += seep_tls.live_delta;
	if (bytes < PEAK_STEP && bytes > -PEAK_STEP) {
		seep_tls.live_delta = (int32_t)bytes;
		return;
	}
	seep_tls.live_delta = 0;
	thread_add(&peak_totals.live, (uint64_t)bytes);
	if (bytes > 0)
		raise_peak();
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
	if (atomic_load_relaxed(&peak_totals.fresh))
		peak_end();
}

uint64_t peak_bytes(void)
{
	return atomic_load_relaxed(&peak_totals.peak);
}

struct adoption {
	uint64_t live, peak;
};

static bool find_number(uint32_t site, struct site_counters *c, void *arg)
{
	(void)site;
	(void)arg;
	if (c->peak_number > peak_totals.number)
		peak_totals.number = c->peak_number;
	return true;
}

static bool add_up(uint32_t site, struct site_counters *c, void *arg)
{
	struct adoption *a = arg;
	int64_t live_objects, live;
	uint64_t objects, bytes;

	(void)site;
	read_live(c, &live_objects, &live);
	a->live += live > 0 ? (uint64_t)live : 0;
	peak_read(c, &objects, &bytes);
	a->peak += bytes;
	return true;
}

/* The free that ended the latest peak has left its number at its own site. */
void peak_adopt(void)
{
	struct adoption a = { 0 };

	site_each(find_number, NULL);
	site_each(add_up, &a);
	peak_totals.live = a.live;
	peak_totals.peak = a.live > a.peak ? a.live : a.peak;
	if (a.live > a.peak)
		peak_totals.number++; /* it was still growing */
}
