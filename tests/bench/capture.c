/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nanoseconds a capture of a stack of 20 frames takes: the same again, with five new
 * frames, with nothing to reuse, with nothing cached, and by a full walk. Prints lines
 * "capture CASE NS", the minimum of several rounds. Built without frame pointers.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "preload/base/opt.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/trail_int.h"
#include "profiler/stack/unwind.h"

#define DEPTH	    20
#define BATCH	    1000
#define ROUNDS	    200
#define NOINLINE_FN __attribute__((noinline))

static volatile unsigned sink;
static double total;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static NOINLINE_FN unsigned here(void)
{
	struct capture c;

	return capture_here(&c) ? c.site : 0;
}

/* Five frames that differ from those of the other branch by their place in the code. */
#define STEP(n, then)                              \
	static NOINLINE_FN unsigned left##n(void)  \
	{                                          \
		return then##_left + 1;            \
	}                                          \
	static NOINLINE_FN unsigned right##n(void) \
	{                                          \
		return then##_right + 1;           \
	}
#define leaf_left   here()
#define leaf_right  here()
#define two_left    left1()
#define two_right   right1()
#define three_left  left2()
#define three_right right2()
#define four_left   left3()
#define four_right  right3()
STEP(1, leaf)
STEP(2, two)
STEP(3, three)
STEP(4, four)

static NOINLINE_FN void same(void)
{
	uint64_t start = now();

	for (int i = 0; i < BATCH; i++)
		sink += here();
	total = (double)(now() - start) / BATCH;
}

static NOINLINE_FN void five(void)
{
	uint64_t start = now();

	for (int i = 0; i < BATCH; i += 2)
		sink += left4() + right4();
	total = (double)(now() - start) / BATCH;
}

static NOINLINE_FN void nothing(void)
{
	uint64_t start = now();

	for (int i = 0; i < BATCH; i++) {
		trails_forget(seep_tls.trails);
		sink += here();
	}
	total = (double)(now() - start) / BATCH;
}

static NOINLINE_FN void cold(void)
{
	uint64_t spent = 0;

	for (int i = 0; i < 20; i++) {
		uint64_t start;

		unwind_modules_changed();
		start = now();
		sink += here();
		spent += now() - start;
	}
	total = (double)spent / 20;
}

static NOINLINE_FN void full(void)
{
	struct frame frames[DEPTH + 20];
	enum unwind_end end;
	uint64_t start = now();

	for (int i = 0; i < BATCH; i++)
		sink += (unsigned)unwind_here(frames, DEPTH + 20, &end);
	total = (double)(now() - start) / BATCH;
}

static NOINLINE_FN void descend(int depth, void (*fn)(void))
{
	if (depth > 0)
		descend(depth - 1, fn);
	else
		fn();
	sink++;
}

static void measure(const char *name, void (*fn)(void), int depth)
{
	double best = 1e9;

	for (int i = 0; i < ROUNDS; i++) {
		descend(depth, fn);
		best = total < best ? total : best;
	}
	printf("capture %s %.1f\n", name, best);
}

int main(void)
{
	opt_init("mode=exact");
	module_refresh();
	thread_init();
	unwind_init();
	/* In the library, stacks begin with the program's frames: so here, without the
	 * frame of capture_here(). */
	unwind_set_own_text((uintptr_t)capture_here, (uintptr_t)capture_here + 256);
	measure("same", same, DEPTH - 6);
	measure("five_new", five, DEPTH - 10);
	measure("nothing_to_reuse", nothing, DEPTH - 6);
	measure("cold", cold, DEPTH - 6);
	measure("full_walk", full, DEPTH - 6);
	measure("same_depth_5000", same, 5000);
	return 0;
}
