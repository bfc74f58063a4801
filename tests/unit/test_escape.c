/* SPDX-License-Identifier: Apache-2.0 */
/* Comparison of stacks, on stacks made by hand; and the life of followed objects. */
#include "tests/unit/cm.h"

#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "preload/base/lock.h"
#include "preload/base/opt.h"
#include "preload/heap/tls.h"
#include "profiler/escape/bound.h"
#include "profiler/escape/escape.h"
#include "profiler/escape/escape_int.h"
#include "profiler/escape/hijack.h"
#include "profiler/escape/result.h"
#include "profiler/escape/words.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

/* A stack as text, innermost first: "cbams" is s (the start, which calls only m) calling
 * m calling a calling b calling c, and c calling malloc or free. Slots are 0x100 apart; a
 * pc tells caller and callee. */
#define TOP   0x7ffff0000000u
#define FRAME 0x100u

static struct frame made[64];

static int make(const char *text, char callee)
{
	int n = (int)strlen(text);

	for (int i = 0; i < n; i++) {
		made[i].pc = 0x100000u * (unsigned char)text[i] + (unsigned char)callee;
		made[i].slot = TOP - (uintptr_t)(n - i) * FRAME;
		callee = text[i];
	}
	return n;
}

/* Its last frame becomes the mark of a walk that broke off. */
static int cut(int n)
{
	made[n - 1] = (struct frame){ .pc = FRAME_TRUNCATED_PC };
	return n;
}

static uint32_t compare_made(const char *at_malloc, bool cut_malloc, const char *at_free,
			     int keep_free)
{
	struct bound_stack b;
	uint32_t site;
	int n = make(at_malloc, '+');

	if (cut_malloc)
		n = cut(n);
	bound_keep(&b, made, n);
	site = site_intern(made, n);
	n = make(at_free, '-');
	if (keep_free)
		n = cut(keep_free + 1);
	return bound_compare(&b, site, made, n);
}

static uint32_t compare(const char *at_malloc, const char *at_free)
{
	return compare_made(at_malloc, false, at_free, 0);
}

static void test_depth(void **state)
{
	(void)state;
	assert_int_equal(compare("cbams", "cbams"), 0);
	assert_int_equal(compare("cbams", "xcbams"), 0); /* freed by a callee of c */
	assert_int_equal(compare("cbams", "yxcbams"), 0);
	assert_int_equal(compare("cbams", "bams"), 1);
	assert_int_equal(compare("cbams", "xbams"), 1);
	assert_int_equal(compare("cbams", "ams"), 2);
	assert_int_equal(compare("cbams", "xyams"), 2);
	assert_int_equal(compare("cbams", "ms"), 3);
	assert_int_equal(compare("aaams", "aams"), 1); /* recursion */
	assert_int_equal(compare("aams", "aaaams"), 0);
}

/* Two whole stacks have the same outermost frame, or they are two stacks. */
static void test_outermost(void **state)
{
	(void)state;
	assert_int_equal(compare("cbams", "cbamt"), BOUND_UNKNOWN);
	assert_int_equal(compare("s", "s"), BOUND_UNKNOWN); /* says nothing */
}

/* c ends in a jump to free(): free's own return address is c's. */
static void test_tail_call(void **state)
{
	int n;
	struct bound_stack b;
	uint32_t site;

	(void)state;
	n = make("cbams", '+');
	bound_keep(&b, made, n);
	site = site_intern(made, n);
	assert_int_equal(bound_compare(&b, site, made + 1, n - 1), 0);
	assert_int_equal(bound_compare(&b, site, made + 2, n - 2), 1);
}

/* The inner frames coincide by slot and pc, an outer one does not. */
static void test_coincidence(void **state)
{
	(void)state;
	assert_int_equal(compare("dcbams", "dcxams"), 3);
	assert_int_equal(compare("edcbams", "edcxams"), 4);
	assert_int_equal(compare("dcbams", "dxbxms"), 4);
}

static void test_free_broke_off(void **state)
{
	(void)state;
	/* c, b, a match, m is not reached */
	assert_int_equal(compare_made("cbams", false, "cbams", 3), 0);
	assert_int_equal(compare_made("cbams", false, "xbams", 3), 1);
	/* so deep that no frame of malloc's stack is reached: all may be there */
	assert_int_equal(compare_made("cbams", false, "zzzzzzzzzcbams", 4), 0);
	/* two frames are passed and differ, what is beyond is not known */
	assert_int_equal(compare_made("ccbams", false, "zyxwams", 4), 2);
	assert_int_equal(compare_made("cbams", false, "", 0), BOUND_UNKNOWN);
}

static void test_malloc_broke_off(void **state)
{
	(void)state;
	assert_int_equal(compare_made("dcbams", true, "dcbams", 0), 0);
	assert_int_equal(compare_made("dcbams", true, "xcbams", 0), 1);
	assert_int_equal(compare_made("dcbams", true, "ms", 0), 4);
	assert_int_equal(compare_made("dcbams", true, "xcbams", 3), 1); /* both */
}

static void test_deeper_than_kept(void **state)
{
	static const char deep[] = "abcdefghijklmnopqrstuvwxyzABCDEFGH";

	(void)state;
	assert_int_equal(compare(deep, deep), 0);
	assert_int_equal(compare(deep, "xyzABCDEFGH"), 23);
	assert_int_equal(compare(deep, "GH"), BOUND_SLOTS);
}

/* Frames on an alternate stack below, or without a slot, end what is kept. */
static void test_other_stack(void **state)
{
	struct bound_stack b;
	int n;

	(void)state;
	n = make("cbams", '+');
	made[2].slot = 0x1000;
	bound_keep(&b, made, n);
	assert_int_equal(b.count, 1);
	assert_false(b.whole);
	n = make("cbams", '+');
	made[2].slot = 0;
	bound_keep(&b, made, n);
	assert_int_equal(b.count, 1);
}

/* ---- the whole way ---- */

static struct result total;

static bool sum(const struct result *r, void *arg)
{
	const uint32_t *site = arg;

	if (r->key.site != *site)
		return true;
	if (total.objects == 0)
		total.key = r->key;
	total.objects += r->objects >> SITE_SHIFT;
	total.bytes += r->bytes;
	total.samples += r->samples;
	if (r->key.depth > total.key.depth)
		total.key.depth = r->key.depth;
	return true;
}

static struct result *result_of(uint32_t site)
{
	memset(&total, 0, sizeof(total));
	result_each(sum, &site);
	return &total;
}

static uint32_t begin(const char *text, size_t size, uint32_t *out_site)
{
	int n = make(text, '+');
	uint32_t lg;

	*out_site = site_intern(made, n);
	if (!escape_chooses(*out_site, &lg))
		return 0;
	return escape_begin_at(NULL, size, *out_site, made, n, lg);
}

static void test_life(void **state)
{
	uint32_t site, h = begin("qbams", 100, &site);

	(void)state;
	assert_int_not_equal(h, 0);
	assert_int_equal(result_of(site)->samples, 0);
	escape_end_at(h, made, make("bams", '-'));
	assert_int_equal(result_of(site)->samples, 1);
	assert_int_equal(total.objects, 1);
	assert_int_equal(total.bytes, 100);
	assert_int_equal(total.key.depth, 1);
	assert_int_equal(total.key.end, END_BOUND);
}

/* A dropped record leaves no result, and its successor has nothing of it. */
static void test_drop(void **state)
{
	uint32_t site, other, h = begin("rbams", 100, &site);

	(void)state;
	escape_drop(h);
	assert_int_equal(result_of(site)->samples, 0);
	assert_int_equal(begin("sbazyxms", 7, &other), h);
	escape_end_at(h, made, make("sbazyxms", '-'));
	assert_int_equal(result_of(site)->samples, 0);
	assert_int_equal(result_of(other)->samples, 1);
	assert_int_equal(total.bytes, 7);
	assert_int_equal(total.key.depth, 0);
}

/* A thread that inherited another one's stack and thread-local storage is another
 * thread all the same. */
static void test_other_thread(void **state)
{
	uint32_t site, h = begin("tbams", 100, &site);

	(void)state;
	escape_thread_end(0);
	escape_end_at(h, made, make("tbams", '-'));
	assert_int_equal(result_of(site)->samples, 1);
	assert_int_equal(total.key.end, END_THREAD);
}

static void test_unknown_stack(void **state)
{
	uint32_t site, h = begin("ubams", 100, &site);

	(void)state;
	escape_end_at(h, made, 0);
	assert_int_equal(result_of(site)->samples, 1);
	assert_int_equal(total.key.end, END_UNKNOWN);
}

static ucontext_t here, routine;
static uint32_t routine_site, in_routine_object;

static void in_routine(void)
{
	const struct trail *t = trail_capture();

	in_routine_object = escape_begin(NULL, 100, routine_site, t);
	swapcontext(&routine, &here);
}

/* What a coroutine made that has not ended is freed by another: nobody knows how many of
 * the frames are left. */
static void test_coroutine(void **state)
{
	static char stack[256 * 1024];

	(void)state;
	routine_site = site_intern(made, make("oqrst", '+'));
	getcontext(&routine);
	routine.uc_stack.ss_sp = stack;
	routine.uc_stack.ss_size = sizeof(stack);
	makecontext(&routine, in_routine, 0);
	swapcontext(&here, &routine);
	assert_int_not_equal(in_routine_object, 0);
	assert_true(followed_at(in_routine_object)->made.count > 0);
	escape_end(in_routine_object);
	assert_int_equal(result_of(routine_site)->samples, 1);
	assert_int_equal(total.key.end, END_UNKNOWN);
}

static void test_resize(void **state)
{
	uint32_t site, h = begin("vbams", 100, &site);

	(void)state;
	escape_resize(h, 300);
	escape_end_at(h, made, make("vbams", '-'));
	assert_int_equal(result_of(site)->samples, 1);
	assert_int_equal(total.bytes, 300);
}

/* A forked child's results are its own. */
static void test_fork_child(void **state)
{
	uint32_t site, mine, h = begin("wbams", 100, &site), done;

	(void)state;
	done = begin("xbams", 100, &mine);
	escape_end_at(done, made, make("xbams", '-'));
	escape_fork_prepare();
	escape_fork_done(true);
	lock_forget_held(); /* as a child does */
	assert_int_equal(result_of(mine)->samples, 0);
	escape_end_at(h, made, make("wbams", '-'));
	assert_int_equal(result_of(site)->samples, 0);
	h = begin("wbams", 100, &site);
	escape_end_at(h, made, make("wbams", '-'));
	assert_int_equal(result_of(site)->samples, 1);
}

/* Far more objects than the pool holds: none is counted twice, weights make it up. */
static void test_full_pool(void **state)
{
	static uint32_t handles[300000];
	uint32_t site;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(handles); i++)
		handles[i] = begin("ybams", 10, &site);
	for (size_t i = 0; i < ARRAY_LEN(handles); i++)
		if (handles[i])
			escape_end_at(handles[i], made, make("ybams", '-'));
	result_of(site);
	assert_true(total.objects > ARRAY_LEN(handles) * 9 / 10);
	assert_true(total.objects < ARRAY_LEN(handles) * 11 / 10);
	assert_true(total.samples < 66000);
}

/* Keys past the table's room are lost and counted; known ones go on. */
static void test_full_results(void **state)
{
	static const struct ended e = { .size = 1, .weight = 1u << SITE_SHIFT };
	struct result_key key = { .site = 4000000000u };
	uint64_t lost;

	(void)state;
	for (uint64_t i = 0; i < RESULT_MAX + 100; i++) {
		key.detail = i;
		result_add(&key, &e);
	}
	lost = result_lost();
	assert_true(lost >= 100);
	key.detail = 0;
	result_add(&key, &e);
	assert_int_equal(result_lost(), lost);
}

static uintptr_t some_shadow_stack(void)
{
	return 0x7fff00000000u;
}

/* A return to a stub would be a fault there: no word of the stack is even looked at, and
 * these are in no memory. */
static void test_shadow_stack(void **state)
{
	struct hijack_system was = hijack_system;
	uint32_t site, h = begin("zbams", 100, &site);

	(void)state;
	if (!hijack_init())
		skip();
	hijack_system.shadow_stack = some_shadow_stack;
	escape_lock();
	hijack_attach(h);
	escape_unlock();
	hijack_system = was;
	assert_true(followed_at(h)->refused);
	assert_int_equal(followed_at(h)->stub, 0);
	escape_end_at(h, made, make("bams", '-'));
	assert_int_equal(result_of(site)->samples, 1);
	assert_int_equal(total.key.end, END_REFUSED);
	assert_int_equal(total.key.depth, 1);
}

/* ---- words ---- */

static uintptr_t find_slowly(const uintptr_t *words, size_t n, uintptr_t p, size_t size)
{
	for (size_t i = 0; i < n; i++)
		if (words[i] >= p && words[i] - p < size)
			return (uintptr_t)&words[i];
	return 0;
}

/* Any length and position, objects of any size, hits just inside and just outside. */
static void test_words(void **state)
{
	static const size_t sizes[] = { 1, 2, 8, 24, 64, 100, 4096, 1000000 };
	static uintptr_t words[256];
	const uintptr_t p = 0x7f1234567010u;
	unsigned hits = 0;

	(void)state;
	srandom(1);
	for (int round = 0; round < 200000; round++) {
		size_t size = sizes[(size_t)random() % ARRAY_LEN(sizes)];
		size_t from = (size_t)random() % 100, n = (size_t)random() % 150, at;
		const uintptr_t edges[] = { p - 1,
					    p,
					    p + size - 1,
					    p + size,
					    p + 2 * size,
					    p ^ (uintptr_t)1 << 60,
					    0,
					    ~(uintptr_t)0 };
		uintptr_t expected;

		at = (size_t)random() % ARRAY_LEN(words);
		words[at] = edges[(size_t)random() % ARRAY_LEN(edges)];
		expected = find_slowly(words + from, n, p, size);
		hits += expected != 0;
		assert_int_equal(words_find((uintptr_t)&words[from] - (round & 7),
					    (uintptr_t)&words[from + n] + (round & 7), p,
					    size),
				 expected);
	}
	assert_in_range(hits, 1000, 199000);
	assert_int_equal(words_find((uintptr_t)&words[5], (uintptr_t)&words[2], p, 8), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_outermost),
		cmocka_unit_test(test_tail_call),
		cmocka_unit_test(test_coincidence),
		cmocka_unit_test(test_free_broke_off),
		cmocka_unit_test(test_malloc_broke_off),
		cmocka_unit_test(test_deeper_than_kept),
		cmocka_unit_test(test_other_stack),
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_drop),
		cmocka_unit_test(test_other_thread),
		cmocka_unit_test(test_unknown_stack),
		cmocka_unit_test(test_coroutine),
		cmocka_unit_test(test_resize),
		cmocka_unit_test(test_fork_child),
		cmocka_unit_test(test_shadow_stack),
		cmocka_unit_test(test_full_pool),
		cmocka_unit_test(test_full_results),
		cmocka_unit_test(test_words),
	};

	opt_init("mode=exact:escape=bound");
	module_refresh();
	thread_init();
	unwind_init();
	escape_init();
	words_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
