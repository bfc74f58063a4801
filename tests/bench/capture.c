/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nanoseconds a capture of a stack of 20 frames takes: the same again, with five new
 * frames, with nothing to reuse, with nothing cached, and by a full walk. Prints lines
 * "capture CASE NS", the minimum of several rounds less that without captures. Built
 * without frame pointers.
 *
 * capture_bench [CASE]: that one alone, for who counts instructions.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "preload/base/opt.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/trail_fast.h"
#include "profiler/stack/trail_int.h"
#include "profiler/stack/unwind.h"

#define DEPTH	    20
#define BATCH	    1000
#define ROUNDS	    200
#define NOINLINE_FN __attribute__((noinline))

static volatile unsigned sink;
static double total;
static uint32_t depth; /* of the last capture */

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool idle; /* the calls alone, without a capture */

/* In the library, stacks begin with the program's frames, below those of malloc() and of
 * the hook that it calls, which have frame pointers: so here. */
#define OURS __attribute__((noinline, section("ours_text"), used))
extern const char __start_ours_text[], __stop_ours_text[];

/* As exact mode does for every allocation. */
OURS static unsigned hook(void)
{
	const uintptr_t *fp = __builtin_frame_address(0);
	struct trail_found found;
	const struct trail *t;

	if (idle)
		return 1;
	found = trail_capture_node(fp);
	if (__builtin_expect(found.number != 0, 1))
		return found.node;
	t = found.node ? trail_latest() : trail_capture_from(fp);
	found.node = t ? capture_site(t) : SITE_NONE;
	found.number = 1;
	trail_set_latest(found);
	return found.node;
}

OURS static unsigned allocate(void)
{
	__asm__ volatile("" ::"r"(__builtin_frame_address(0))); /* makes it have one */
	return hook() + 1;
}

static NOINLINE_FN unsigned here(void)
{
	return allocate() + 1;
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
	depth = trail_latest()->count;
}

static NOINLINE_FN void five(void)
{
	uint64_t start = now();

	for (int i = 0; i < BATCH; i += 2)
		sink += left4() + right4();
	total = (double)(now() - start) / BATCH;
	depth = trail_latest()->count;
}

/* trails_forget(), for the thread's own stack alone. */
static void forget_own(void)
{
	struct trails *a = seep_tls.trails;

	if (!a)
		return;
	a->plain_lo = UINTPTR_MAX;
	a->own.count = a->own.nset = 0;
	a->own.born = a->serial;
}

static NOINLINE_FN void nothing(void)
{
	uint64_t start = now();

	for (int i = 0; i < BATCH; i++) {
		forget_own();
		sink += here();
	}
	total = (double)(now() - start) / BATCH;
	depth = trail_latest()->count;
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
	depth = trail_latest()->count;
}

static NOINLINE_FN void full(void)
{
	struct frame frames[DEPTH + 20];
	enum unwind_end end;
	uint64_t start = now();

	for (int i = 0; i < BATCH && !idle; i++)
		sink += (unsigned)unwind_here(frames, DEPTH + 20, &end);
	total = (double)(now() - start) / BATCH;
	depth = trail_latest()->count;
}

static NOINLINE_FN void descend(int frames, void (*fn)(void))
{
	if (frames > 0)
		descend(frames - 1, fn);
	else
		fn();
	sink++;
}

static const char *only;

static double least(void (*fn)(void), int frames)
{
	double best = 1e9;

	for (int i = 0; i < ROUNDS; i++) {
		descend(frames, fn);
		best = total < best ? total : best;
	}
	return best;
}

/* Without what the calls that lead to a capture take themselves. */
static void measure(const char *name, void (*fn)(void), int frames)
{
	double calls, all;

	if (only && strcmp(only, name) != 0)
		return;
	least(fn, frames); /* there is a trail */
	idle = true;
	calls = least(fn, frames);
	idle = false;
	all = least(fn, frames);
	printf("capture %s %.1f depth %u calls %.1f\n", name, all - calls, depth, calls);
}

int main(int argc, char **argv)
{
	only = argc > 1 ? argv[1] : NULL;
	opt_init("mode=exact");
	module_refresh();
	thread_init();
	unwind_init();
	unwind_set_own_text((uintptr_t)__start_ours_text, (uintptr_t)__stop_ours_text);
	measure("same", same, DEPTH - 9);
	measure("five_new", five, DEPTH - 13);
	measure("nothing_to_reuse", nothing, DEPTH - 9);
	measure("cold", cold, DEPTH - 9);
	measure("full_walk", full, DEPTH - 9);
	measure("same_depth_5000", same, 5000);
	return 0;
}
