/* SPDX-License-Identifier: Apache-2.0 */
/* Walks that are remembered by the place where they begin: what they must not be taken
 * for. Stacks begin below our frames, as in the library. */
#include "tests/unit/cm.h"

#include "preload/base/opt.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/trail_fast.h"
#include "profiler/stack/trail_int.h"
#include "profiler/stack/unwind.h"

#define NOINLINE_FN __attribute__((noinline))
#define OURS	    __attribute__((noinline, section("ours_text"), used))
#define ROUNDS	    6

extern const char __start_ours_text[], __stop_ours_text[];

static volatile int sink;
static uint32_t nnumbers, node_of[1000]; /* by number */

/* The site of the stack. Numbers are given out, and come back for the same node only. */
OURS static uint32_t hook(void)
{
	const uintptr_t *fp = __builtin_frame_address(0);
	struct trail_found found = trail_capture_node(fp);
	const struct trail *t = found.node ? trail_latest() : trail_capture_from(fp);

	assert_non_null(t);
	if (found.number == 0) {
		found.node = capture_site(t);
		found.number = ++nnumbers;
		assert_in_range(nnumbers, 1, 999);
		node_of[found.number] = found.node;
		trail_set_latest(found);
	}
	assert_int_equal(node_of[found.number], found.node);
	return found.node;
}

OURS static uint32_t allocate(void)
{
	uint32_t site;

	__asm__ volatile("" ::"r"(__builtin_frame_address(0))); /* makes it have one */
	site = hook();
	sink++;
	return site;
}

/* ---- places ---- */

static NOINLINE_FN void three(uint32_t *sites)
{
	sites[0] = allocate();
	sites[1] = allocate();
	sink++;
	sites[2] = allocate();
}

static void test_places(void **state)
{
	uint32_t sites[ROUNDS][3];
	volatile int n = ROUNDS; /* the loop must stay one */

	(void)state;
	for (int i = 0; i < n; i++)
		three(sites[i]);
	for (int i = 1; i < n; i++)
		assert_memory_equal(sites[0], sites[i], sizeof(sites[0]));
	assert_int_not_equal(sites[0][0], sites[0][1]);
	assert_int_not_equal(sites[0][1], sites[0][2]);
	assert_int_not_equal(sites[0][0], sites[0][2]);
}

static uint32_t twice_in_place[2];

static NOINLINE_FN void again(int from)
{
	volatile int n = 2;

	for (int i = from; i < n; i++)
		twice_in_place[i] = allocate();
}

static void test_again(void **state)
{
	(void)state;
	again(0);
	assert_int_equal(twice_in_place[0], twice_in_place[1]);
}

/* ---- what was there before ---- */

typedef uint32_t way(void);
static volatile int skip;

static NOINLINE_FN uint32_t innermost(void)
{
	uint32_t site;

	if (!skip)
		sink += (int)allocate();
	site = allocate();
	sink++; /* no tail call */
	return site;
}

static NOINLINE_FN uint32_t inner(void)
{
	uint32_t site = innermost();

	sink++;
	return site;
}

/* Returns to the same place from its ways. */
static NOINLINE_FN uint32_t by_way(way *volatile how)
{
	uint32_t site = how();

	sink++;
	return site;
}

static NOINLINE_FN void from_two_places(uint32_t *out_first, uint32_t *out_second)
{
	way *volatile ways[2] = { allocate, inner };
	volatile int i;

	skip = 0;
	*out_first = by_way(inner);
	skip = 1;
	for (i = 0; i < 2; i++) /* volatile: else there would be a call for each */
		*out_second = by_way(ways[i]);
}

/* A frame that the trail has had and dropped, with those further out replaced. */
static void test_dropped(void **state)
{
	volatile int n = ROUNDS;
	uint32_t first, second;

	(void)state;
	for (int i = 0; i < n; i++) {
		from_two_places(&first, &second);
		assert_int_not_equal(first, second);
		assert_int_equal(site_depth(first), site_depth(second));
	}
}

/* ---- what has ended ---- */

static NOINLINE_FN uint32_t leaf(void)
{
	uint32_t site = allocate();

	sink++;
	return site;
}

static NOINLINE_FN uint32_t other_leaf(void)
{
	uint32_t site = allocate();

	sink += 2;
	return site;
}

static volatile int only_last;

static NOINLINE_FN uint32_t leaves(void)
{
	struct trail_mark mark;
	uint32_t gone = 99;

	if (!only_last) {
		leaf();
		sink++;
		other_leaf();
	}
	trail_mark(&mark, trail_latest());
	leaf();
	assert_true(trail_gone(&mark, trail_latest(), 50, &gone));
	sink++;
	return gone;
}

static NOINLINE_FN uint32_t around(void)
{
	uint32_t gone = leaves();

	sink++;
	return gone;
}

/* The function that both leaves were called by goes on. */
static void test_ended(void **state)
{
	volatile int n = ROUNDS;

	(void)state;
	for (int i = 0; i < n; i++) {
		uint32_t gone;

		only_last = i % 2 == 0; /* walks further, from other_leaf() */
		other_leaf();
		gone = around();
		if (!only_last)
			assert_int_equal(gone, 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_again),
		cmocka_unit_test(test_dropped),
		cmocka_unit_test(test_ended),
	};

	opt_init("mode=exact:stack=100");
	module_refresh();
	thread_init();
	unwind_init();
	unwind_set_own_text((uintptr_t)__start_ours_text, (uintptr_t)__stop_ours_text);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
