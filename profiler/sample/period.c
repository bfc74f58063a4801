/* SPDX-License-Identifier: Apache-2.0 */
/*
 * period: what is recorded, and since when. The settings can change while the program
 * runs (profiler/control), and an object must leave the counters with the weight that it
 * entered them with: that of the settings in force at its birth, which its record keeps.
 *
 * Structure: a list of settings, oldest first, that only grows. A new entry counts from a
 * moment a little in the future, so that every thread knows it by then.
 *
 * Concurrency: one writer (sample_change() holds its lock), readers take none: count is
 * published last.
 */
#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/sample/sample_int.h"

#define PERIODS	     256
#define FORESIGHT_NS 10000000u

static struct {
	uint32_t count; /* atomic; release when list[count - 1] is written */
	struct period list[PERIODS];
} periods;

const struct period *period_at(uint64_t birth_ns)
{
	uint32_t n = atomic_load_acquire(&periods.count);

	while (n > 1 && periods.list[n - 1].since_ns > birth_ns)
		n--;
	return &periods.list[n ? n - 1 : 0];
}

const struct period *period_latest(void)
{
	return period_at(UINT64_MAX);
}

void period_first(struct period p)
{
	p.since_ns = p.started_ns = 0;
	periods.list[0] = p;
	atomic_store_release(&periods.count, 1u);
}

bool period_add(struct period p, uint64_t *out_since_ns)
{
	uint32_t n = atomic_load_relaxed(&periods.count);

	if (n == PERIODS)
		return false;
	p.since_ns = os_now_ns() + FORESIGHT_NS;
	p.started_ns = os_realtime_ns();
	periods.list[n] = p;
	atomic_store_release(&periods.count, n + 1);
	*out_since_ns = p.since_ns;
	return true;
}
