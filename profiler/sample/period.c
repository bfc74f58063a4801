/* SPDX-License-Identifier: Apache-2.0 */
/*
 * period: what is recorded, and since when. The settings can change while the program
 * runs (profiler/control), and an object must leave the counters with the weight that it
 * entered them with: that of the settings in force at its birth, whose number its record
 * keeps.
 *
 * Structure: a list of settings, oldest first, that only grows.
 *
 * Concurrency: one writer (sample_change() holds its lock), readers take none: count is
 * published last.
 */
#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/sample/sample_int.h"

struct periods periods;

const struct period *period_latest(void)
{
	return period_nth(period_number());
}

static void put(struct period *to, struct period p)
{
	p.inverse = 1 / (double)(int64_t)p.sample;
	*to = p;
}

void period_stamp(void)
{
	uint32_t stamp = sampler.epoch | (uint32_t)period_number() << 8;

	atomic_store_release(&sampler.stamp, stamp);
	atomic_store_release(&sampler.exact_stamp,
			     period_latest()->exact ? stamp : UINT32_MAX);
}

void period_first(struct period p)
{
	p.started_ns = 0;
	put(&periods.list[0], p);
	atomic_store_release(&periods.count, 1u);
	period_stamp();
}

bool period_add(struct period p)
{
	uint32_t n = atomic_load_relaxed(&periods.count);

	if (n == PERIODS_MAX)
		return false;
	p.started_ns = os_realtime_ns();
	put(&periods.list[n], p);
	atomic_store_release(&periods.count, n + 1);
	period_stamp();
	return true;
}
