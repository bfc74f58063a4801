/* SPDX-License-Identifier: Apache-2.0 */
/* Incremental captures: what they find, what they cost, and what has ended since. Whether
 * they are right on all kinds of stacks is for tests/stress/capture.c. */
#include "tests/unit/cm.h"

#include <alloca.h>
#include <pthread.h>
#include <ucontext.h>

#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/trail_int.h"
#include "profiler/stack/unwind.h"

#define NOINLINE_FN __attribute__((noinline))
#define MAX	    101 /* frames of a site: option stack= and "[truncated]" */
#define DEEP	    3000
#define PAD	    256
#define STACK	    ((size_t)256 * 1024)

static __thread volatile int sink;
static struct trail_mark mark;

static NOINLINE_FN uint32_t site_here(void)
{
	struct capture c;

	assert_true(capture_here(&c));
	assert_non_null(c.trail);
	return c.site;
}

static NOINLINE_FN uint32_t one_way(void)
{
	return site_here() + (uint32_t)sink;
}

static NOINLINE_FN uint32_t other_way(void)
{
	return site_here() + (uint32_t)sink;
}

static NOINLINE_FN void both_ways(uint32_t *sites)
{
	sites[0] = one_way();
	sites[1] = other_way();
}

static void test_sites(void **state)
{
	uint32_t sites[3][2];
	volatile int n = 3; /* the loop must stay one */

	(void)state;
	for (int i = 0; i < n; i++)
		both_ways(sites[i]);
	assert_memory_equal(sites[0], sites[1], sizeof(sites[0]));
	assert_memory_equal(sites[0], sites[2], sizeof(sites[0]));
	assert_int_not_equal(sites[0][0], sites[0][1]);
	assert_int_equal(site_depth(sites[0][0]), site_depth(sites[0][1]));
}

/* Whose caller is the innermost frame: no other of ours is in between. */
static NOINLINE_FN const struct trail *trail_here(void)
{
	const struct trail *t = trail_capture_from(__builtin_frame_address(0));

	assert_non_null(t);
	return t;
}

static NOINLINE_FN uint32_t by_site(void)
{
	return site_depth(site_here());
}

/* The frame has rbp saved. */
static NOINLINE_FN uint32_t saves_bp(void)
{
	uint32_t depth = trail_here()->count;

	__asm__ volatile("" : : : "rbp", "memory");
	return depth;
}

static NOINLINE_FN uint32_t keeps_bp(void)
{
	uint32_t depth = trail_here()->count;

	sink++;
	return depth;
}

static uint32_t (*volatile innermost)(void);

/* A return address that lies, unchanged, in the alloca area of another frame. */
static NOINLINE_FN uint32_t deeper(size_t bytes)
{
	volatile char *p = alloca(bytes);
	uint32_t depth;

	p[0] = 1;
	depth = innermost();
	sink += p[0];
	return depth;
}

static NOINLINE_FN uint32_t through(size_t bytes)
{
	volatile char room[PAD]; /* more than the other's registers take */
	uint32_t depth;

	room[0] = 1;
	depth = deeper(bytes);
	sink += room[0];
	return depth;
}

/* Both return to the same place: for one of the sizes no return address differs, only
 * rbp, or the word where it is saved. */
static void check_stale(uint32_t (*function)(void))
{
	uint32_t (*volatile functions[])(size_t bytes) = { through, deeper };

	innermost = function;
	for (size_t more = 16; more < 2 * PAD; more += 16) {
		volatile int n = 2; /* the loop must stay one */
		uint32_t depth[2];

		for (int i = 0; i < n; i++)
			depth[i] = functions[i](64 + (size_t)i * more);
		assert_int_equal(depth[0], depth[1] + 1);
	}
}

static void test_stale_words(void **state)
{
	(void)state;
	check_stale(by_site);
	check_stale(saves_bp);
	check_stale(keeps_bp);
}

/* Where its outermost activation returns to. */
static NOINLINE_FN uintptr_t nested(int depth, int whole)
{
	uintptr_t pc;

	if (depth == 0) {
		const struct trail *t = trail_here();

		pc = t->places[(int)t->count - 2 - whole].pc;
	} else {
		pc = nested(depth - 1, whole);
	}
	sink++;
	return pc;
}

/* One of the outermost frames goes on, those on top of it look the same. */
static void *calls_twice(void *arg)
{
	uintptr_t *pcs = arg;

	thread_register(0, false);
	for (int i = 0; i < 4; i++) {
		pcs[2 * i] = nested(10 + i, 10 + i);
		sink++;
		pcs[2 * i + 1] = nested(10 + i, 10 + i);
	}
	thread_finished();
	return NULL;
}

static void test_outermost(void **state)
{
	uintptr_t pcs[8];
	pthread_t t;

	(void)state;
	assert_int_equal(pthread_create(&t, NULL, calls_twice, pcs), 0);
	pthread_join(t, NULL);
	for (int i = 0; i < 8; i += 2)
		assert_int_not_equal(pcs[i], pcs[i + 1]);
}

static NOINLINE_FN void recurse(int depth)
{
	struct capture c;

	if (depth == 0)
		return;
	recurse(depth - 1);
	assert_true(capture_here(&c));
	assert_in_range(site_depth(c.site), 1, MAX);
	sink++;
}

static NOINLINE_FN void descend(int depth)
{
	struct capture c;

	assert_true(capture_here(&c));
	assert_in_range(site_depth(c.site), 1, MAX);
	assert_int_equal(c.truncated, c.trail->count > MAX);
	if (c.truncated)
		assert_true(site_depth(c.site) >= MAX / 2);
	if (depth > 0)
		descend(depth - 1);
	sink++;
}

/* Captures on the way down and on the way up: few frames are walked, and no more words
 * compared than a site has frames. */
static void test_deep(void **state)
{
	struct trail_stats before, after;
	uint64_t captures;

	(void)state;
	trail_get_stats(&before);
	descend(DEEP);
	recurse(DEEP);
	trail_get_stats(&after);
	captures = after.captures - before.captures;
	assert_int_equal(captures, 2 * DEEP + 1);
	assert_true(after.walked - before.walked < captures * 4);
	assert_true(after.compared - before.compared < captures * MAX);
}

static NOINLINE_FN void set_mark(void)
{
	struct capture c;

	assert_true(capture_here(&c));
	trail_mark(&mark, c.trail);
	sink++;
}

static NOINLINE_FN uint32_t gone(void)
{
	uint32_t n = 99;
	const struct trail *t = trail_capture();

	assert_non_null(t);
	return trail_gone(&mark, t, 50, &n) ? n : 98;
}

static NOINLINE_FN uint32_t inside(void)
{
	set_mark();
	return gone();
}

/* Frames: capture_here(), which is ours here, then set_mark(), then its caller. */
static void test_gone(void **state)
{
	(void)state;
	assert_int_equal(inside(), 2);
	set_mark();
	assert_int_equal(gone(), 2);
	inside();
	sink++;
	assert_int_equal(gone(), 3);
	trails_forget(seep_tls.trails);
	assert_int_equal(gone(), 98);
}

static ucontext_t back, routine;
static uint32_t in_routine_sites[4];

static void in_routine(void)
{
	volatile int n = 4; /* the loop must stay one */

	for (int i = 0; i < n; i++) {
		in_routine_sites[i] = site_here();
		swapcontext(&routine, &back);
	}
}

/* Each stack has a trail of its own: switching costs no full walks. */
static void test_coroutine(void **state)
{
	static char stack[STACK];
	struct trail_stats before, after;

	(void)state;
	getcontext(&routine);
	routine.uc_stack.ss_sp = stack;
	routine.uc_stack.ss_size = sizeof(stack);
	routine.uc_link = &back;
	makecontext(&routine, in_routine, 0);
	trail_get_stats(&before);
	for (int i = 0; i < 4; i++) {
		swapcontext(&back, &routine);
		site_here();
	}
	trail_get_stats(&after);
	for (int i = 1; i < 4; i++)
		assert_int_equal(in_routine_sites[i], in_routine_sites[0]);
	assert_true(after.full - before.full <= 2);
}

static void *in_thread(void *arg)
{
	thread_register(0, false);
	for (int i = 0; i < 100; i++)
		descend(150);
	thread_finished();
	return arg;
}

static void test_threads(void **state)
{
	pthread_t t[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, in_thread, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

/* A thread takes over the arrays of one that has ended, and none of its stacks. */
static void test_threads_in_turn(void **state)
{
	size_t bytes = 0;

	(void)state;
	for (int i = 0; i < 20; i++) {
		pthread_t t;

		assert_int_equal(pthread_create(&t, NULL, in_thread, NULL), 0);
		pthread_join(t, NULL);
		if (i > 0)
			assert_int_equal(meta_bytes(META_STACK), bytes);
		bytes = meta_bytes(META_STACK);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sites),	  cmocka_unit_test(test_stale_words),
		cmocka_unit_test(test_outermost), cmocka_unit_test(test_deep),
		cmocka_unit_test(test_gone),	  cmocka_unit_test(test_coroutine),
		cmocka_unit_test(test_threads),	  cmocka_unit_test(test_threads_in_turn),
	};

	opt_init("mode=exact:stack=100");
	module_refresh();
	thread_init();
	unwind_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
