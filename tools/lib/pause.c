/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pause: see pause.h. The constants are of a 2-core machine under load;
 * tests/bench/live.py prints what was predicted beside what was measured.
 */
#include "tools/lib/pause.h"

#include <stdio.h>
#include <stdlib.h>

#include "tools/lib/proc.h"
#include "tools/lib/say.h"

#define BASE_MS	       0.15 /* the call itself, and locks */
#define SMALL_PAGE_MS  0.00013
#define HUGE_PAGE_MS   0.001
#define STOP_MS	       0.5
#define STOP_THREAD_MS 0.015

static char *read_of(int pid, const char *name)
{
	return proc_read_of(pid, name, NULL);
}

static bool read_sizes(int pid, struct pause *out)
{
	char *rollup = read_of(pid, "smaps_rollup");
	uint64_t all =
		rollup ? proc_number(rollup, "Anonymous", 10, UINT64_MAX) : UINT64_MAX;
	uint64_t huge = rollup ? proc_number(rollup, "AnonHugePages", 10, 0) : 0;

	free(rollup);
	if (all == UINT64_MAX)
		return false;
	out->huge_bytes = huge * 1024;
	out->small_bytes = (all > huge ? all - huge : 0) * 1024;
	return true;
}

bool pause_predict(int pid, struct pause *out)
{
	char *status = read_of(pid, "status");

	*out = (struct pause){ .threads = 1 };
	if (status)
		out->threads = (unsigned)proc_number(status, "Threads", 10, 1);
	free(status);
	if (!read_sizes(pid, out))
		return false;
	out->screen_ms = BASE_MS + (double)(out->small_bytes >> 12) * SMALL_PAGE_MS +
			 (double)(out->huge_bytes >> 21) * HUGE_PAGE_MS;
	out->confirm_ms = out->screen_ms + STOP_MS + out->threads * STOP_THREAD_MS;
	return true;
}
