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

#define PERIODS 256 /* a record has a byte for the number */

static struct {
	uint32_t count; /* atomic; release when list[count - 1] is written */
	struct period list[PERIODS];
} periods;

const struct period *period_nth(uint8_t number)
{
	return &periods.list[number];
}

uint8_t period_number(void)
{
	uint32_t n = atomic_load_acquire(&periods.count);

	return (uint8_t)(n ? n - 1 : 0);
}

const struct period *period_latest(void)
{
	return period_nth(period_number());
}

void period_first(struct period p)
{
	p.started_ns = 0;
	periods.list[0] = p;
	atomic_store_release(&periods.count, 1u);
}

bool period_add(struct period p)
{
	uint32_t n = atomic_load_relaxed(&periods.count);

	if (n == PERIODS)
		return false;
	p.started_ns = os_realtime_ns();
	periods.list[n] = p;
	atomic_store_release(&periods.count, n + 1);
	return true;
}
