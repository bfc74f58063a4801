/* SPDX-License-Identifier: Apache-2.0 */
/* Threads over time, with a clock of the test's own. */
#include "tests/unit/cm.h"

#include "profiler/stack/creator.h"

#define S ((uint64_t)1000000000)

/* Every test has sites of its own. */
static uint32_t fresh_site(void)
{
	static uint32_t last = 100;

	return ++last;
}

static void test_counts(void **state)
{
	uint32_t site = fresh_site();
	struct creator *c = NULL;

	(void)state;
	for (int i = 0; i < 10; i++)
		c = creator_thread_begins(site, S + (uint64_t)i);
	for (int i = 0; i < 7; i++)
		creator_thread_ends(c, 2 * S);
	assert_ptr_equal(creator_thread_begins(site, 3 * S), c);
	assert_int_equal(c->site, site);
	assert_int_equal(c->created, 11);
	assert_int_equal(c->live, 4);
	assert_int_equal(c->peak, 10);
	assert_ptr_not_equal(creator_thread_begins(fresh_site(), 3 * S), c);
	assert_int_equal(c->created, 11);
}

/* One more thread every second, whatever the length of the whole. */
static void test_growing(void **state)
{
	static const uint64_t seconds[] = { 12, 33, 100, 10000 };
	uint32_t least[CREATOR_QUARTERS];

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(seconds); k++) {
		uint32_t site = fresh_site();
		struct creator *c = NULL;

		for (uint64_t i = 0; i <= seconds[k]; i++)
			c = creator_thread_begins(site, (50 + i) * S);
		assert_true(creator_grows(c, (50 + seconds[k]) * S, least));
		assert_in_range(least[3], seconds[k] / 2, seconds[k] + 1);
		assert_in_range(least[1], seconds[k] / 8, seconds[k] / 2);
		/* And stays so. */
		assert_false(creator_grows(c, (50 + 5 * seconds[k]) * S, least));
		assert_int_equal(least[3], seconds[k] + 1);
		assert_int_equal(c->step <= CREATOR_STEPS, 1);
	}
}

static void test_not_growing(void **state)
{
	uint32_t pool = fresh_site(), busy = fresh_site(), young = fresh_site();
	uint32_t least[CREATOR_QUARTERS];
	struct creator *c = NULL;

	(void)state;
	for (int i = 0; i < 16; i++) /* a pool */
		c = creator_thread_begins(pool, 50 * S + (uint64_t)i * 1000000);
	assert_false(creator_grows(c, 51 * S, least));
	assert_false(creator_grows(c, 5000 * S, least));
	assert_int_equal(least[1], 16);
	for (uint64_t i = 0; i < 1000; i++) { /* one for each request */
		c = creator_thread_begins(busy, (50 + i) * S);
		creator_thread_begins(busy, (50 + i) * S + 1);
		creator_thread_ends(c, (50 + i) * S + 10);
		creator_thread_ends(c, (50 + i) * S + 20);
	}
	assert_false(creator_grows(c, 1050 * S, least));
	assert_int_equal(c->created, 2000);
	assert_int_equal(c->peak, 2);
	for (uint64_t i = 0; i < 9; i++) /* not watched for long enough */
		c = creator_thread_begins(young, (50 + i) * S);
	assert_false(creator_grows(c, 59 * S, least));
	assert_true(creator_grows(c, 60 * S, least));
}

/* A spike leaves no trace, a dip does. */
static void test_least(void **state)
{
	uint32_t site = fresh_site(), least[CREATOR_QUARTERS];
	struct creator *c = NULL;

	(void)state;
	for (int i = 0; i < 8; i++)
		c = creator_thread_begins(site, 0);
	for (int i = 0; i < 5; i++)
		creator_thread_begins(site, 45 * S);
	for (int i = 0; i < 5; i++)
		creator_thread_ends(c, 46 * S);
	for (int i = 0; i < 6; i++)
		creator_thread_ends(c, 90 * S);
	for (int i = 0; i < 6; i++)
		creator_thread_begins(site, 91 * S);
	assert_false(creator_grows(c, 100 * S, least));
	assert_int_equal(least[1], 8);
	assert_int_equal(least[2], 8);
	assert_int_equal(least[3], 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_growing),
		cmocka_unit_test(test_not_growing),
		cmocka_unit_test(test_least),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
