/* SPDX-License-Identifier: Apache-2.0 */
/* The calling-context tree against a model, and under concurrent insertion. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "profiler/site/site.h"

#define STACKS 3000
#define DEPTH  12
#define SEED   99u

static struct frame stacks[STACKS][DEPTH];
static int depths[STACKS];

static void make_stacks(void)
{
	unsigned seed = SEED;

	for (int i = 0; i < STACKS; i++) {
		depths[i] = 1 + (int)(seed % DEPTH);
		for (int k = 0; k < DEPTH; k++) {
			seed = seed * 1664525u + 1013904223u;
			stacks[i][k].pc = 0x1000 + (seed >> 16) % 6;
		}
	}
}

static int same(int a, int b)
{
	if (depths[a] != depths[b])
		return 0;
	for (int i = 0; i < depths[a]; i++)
		if (stacks[a][i].pc != stacks[b][i].pc)
			return 0;
	return 1;
}

/* More nodes than the smaller tables hold: each is found again, under its own number. */
static void test_many(void **state)
{
	enum { NODES = 150000 };
	static uint32_t ids[NODES];
	uint32_t count;

	(void)state;
	for (uint32_t i = 0; i < NODES; i++) {
		ids[i] = site_child(SITE_NONE, 0x100000 + i * 3);
		assert_true(ids[i] > (i ? ids[i - 1] : 0));
	}
	count = site_count();
	for (uint32_t i = 0; i < NODES; i++) {
		assert_int_equal(site_child(SITE_NONE, 0x100000 + i * 3), ids[i]);
		assert_int_equal(site_pc(ids[i]), 0x100000 + i * 3);
		assert_int_equal(site_parent(ids[i]), SITE_NONE);
		assert_true(site_exists(ids[i]));
	}
	assert_int_equal(site_count(), count);
	assert_false(site_exists(SITE_NONE));
	assert_false(site_exists(count + 1));
	assert_false(site_exists(UINT32_MAX));
}

/* What no four bytes hold: more regions than there are numbers for, and what is no
 * address at all. */
static void test_long_pcs(void **state)
{
	enum { PCS = 20000 };
	static const uintptr_t odd[] = { 1,
					 4095,
					 UINTPTR_MAX,
					 UINTPTR_MAX - 1,
					 0xffffffffff600400,
					 0xe161626364656667,
					 0xe200000000000040,
					 (uintptr_t)1 << 48,
					 ((uintptr_t)1 << 48) - 1 };
	static uint32_t ids[PCS];
	uint32_t count, parent = SITE_NONE;

	(void)state;
	for (uint32_t i = 0; i < PCS; i++) /* another one in each 16 MiB */
		ids[i] = site_child(SITE_NONE, 0x7f0000000000 + (uint64_t)i * 0x1000001);
	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		uint32_t site = site_child(parent, odd[i]);

		assert_int_equal(site_pc(site), odd[i]);
		assert_int_equal(site_parent(site), parent);
		assert_int_equal(site_child(parent, odd[i]), site);
		assert_int_not_equal(site_child(SITE_NONE, odd[i] + 16), site);
		parent = site;
	}
	assert_int_equal(site_depth(parent), sizeof(odd) / sizeof(odd[0]));
	count = site_count();
	for (uint32_t i = 0; i < PCS; i++) {
		uintptr_t pc = 0x7f0000000000 + (uint64_t)i * 0x1000001;

		assert_int_equal(site_pc(ids[i]), pc);
		assert_int_equal(site_child(SITE_NONE, pc), ids[i]);
	}
	assert_int_equal(site_count(), count);
}

static uint32_t nfound;

static bool find_own(uint32_t site, struct site_counters *c, void *arg)
{
	const uint32_t *ids = arg;

	for (uint32_t i = 0; i < 8; i++)
		if (ids[i] == site) {
			assert_int_equal(c->alloc_bytes, i + 1);
			nfound++;
		}
	return true;
}

/* Counters of nodes in all places: the innermost, one with a child right behind it, one
 * that has counters already when it gets a child, and outermost ones. */
static void test_counters_of_any(void **state)
{
	uint32_t ids[8], parent = SITE_NONE;

	(void)state;
	for (uint32_t i = 0; i < 8; i++) {
		ids[i] = site_child(parent, 0x990000 + i * 32);
		if (i == 3) /* before its child comes */
			site_counters(ids[i])->alloc_bytes = i + 1;
		parent = i < 5 ? ids[i] : SITE_NONE;
	}
	for (uint32_t i = 8; i > 0; i--) {
		if (i != 4)
			assert_int_equal(site_number(ids[i - 1]), 0);
		site_counters(ids[i - 1])->alloc_bytes = i;
	}
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(site_counters(ids[i])->alloc_bytes, i + 1);
		assert_int_equal(site_pc(ids[i]), 0x990000 + i * 32);
		assert_int_equal(site_parent(ids[i]),
				 i > 0 && i < 6 ? ids[i - 1] : SITE_NONE);
		for (uint32_t k = 0; k < i; k++)
			assert_int_not_equal(site_number(ids[i]), site_number(ids[k]));
	}
	nfound = 0;
	site_each(find_own, ids);
	assert_int_equal(nfound, 8);
}

static void test_model(void **state)
{
	static uint32_t ids[STACKS];
	uintptr_t pcs[DEPTH];

	(void)state;
	make_stacks();
	for (int i = 0; i < STACKS; i++) {
		ids[i] = site_intern(stacks[i], depths[i]);
		assert_int_not_equal(ids[i], SITE_NONE);
		assert_int_equal(site_depth(ids[i]), depths[i]);
		assert_int_equal(site_stack(ids[i], pcs, DEPTH), depths[i]);
		for (int k = 0; k < depths[i]; k++)
			assert_int_equal(pcs[k], stacks[i][k].pc);
	}
	for (int i = 0; i < STACKS; i += 17)
		for (int k = 0; k < STACKS; k++)
			assert_int_equal(ids[i] == ids[k], same(i, k));
	assert_int_equal(site_intern(NULL, 0), SITE_NONE);
}

static struct site_counters seen;

static bool see(uint32_t site, struct site_counters *c, void *arg)
{
	if (site == *(const uint32_t *)arg)
		seen = *c;
	return true;
}

static void check_sums(uint32_t site)
{
	const uint64_t one = (uint64_t)1 << SITE_SHIFT;

	memset(&seen, 0, sizeof(seen));
	site_each(see, &site);
	assert_int_equal(seen.alloc_objects, FEW_OBJECTS_MOST * one);
	assert_int_equal(seen.alloc_bytes, FEW_BYTES_MOST);
	assert_int_equal(seen.free_objects, 62 * one);
	assert_int_equal(seen.free_bytes, FEW_BYTES_MOST - 1);
	assert_int_equal(seen.peak_number, UINT32_MAX);
	assert_int_equal(seen.peak_objects, 61 * one);
	assert_int_equal(seen.peak_bytes, FEW_BYTES_MOST - 2);
}

/* The sums are the same before and after larger counters have taken over. */
static void test_few(void **state)
{
	uint32_t site = site_child(SITE_NONE, 0x880000), number;
	struct site_few *f = site_few(site);

	(void)state;
	assert_ptr_equal(site_few(site), f);
	assert_int_equal(site_number(site), 0);
	f->now = FEW_OBJECTS_MOST * FEW_OBJECT + FEW_BYTES_MOST + 62 * FEW_FREED_OBJECT +
		 ((FEW_BYTES_MOST - 1) << FEW_FREED_SHIFT);
	f->peak = (uint64_t)UINT32_MAX << FEW_PEAK_SHIFT | (uint64_t)61 << FEW_SHIFT |
		  (FEW_BYTES_MOST - 2);
	assert_false(f->now & FEW_MOVED);
	check_sums(site);
	assert_non_null(site_counters(site));
	number = site_number(site);
	assert_int_not_equal(number, 0);
	assert_int_equal(site_of_number(number), site);
	assert_ptr_equal(site_counters(site), site_counters_at(number));
	check_sums(site);
}

static void *insert_all(void *arg)
{
	uint32_t *ids = arg;

	for (int i = 0; i < STACKS; i++) {
		ids[i] = site_intern(stacks[i], depths[i]);
		__atomic_add_fetch(&site_counters(ids[i])->samples, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static bool add_up(uint32_t site, struct site_counters *c, void *arg)
{
	assert_true(site > 0 && site <= site_count());
	*(uint64_t *)arg += c->samples;
	return true;
}

static void test_threads(void **state)
{
	static uint32_t ids[4][STACKS];
	pthread_t t[4];
	uint64_t sum = 0;

	(void)state;
	for (int i = 0; i < STACKS; i++) /* new stacks */
		stacks[i][0].pc += 0x100000;
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, insert_all, ids[i]);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (int i = 1; i < 4; i++)
		assert_memory_equal(ids[0], ids[i], sizeof(ids[0]));
	site_each(add_up, &sum);
	assert_int_equal(sum, 4 * STACKS);
}

/* Two threads put the same nodes in while the table doubles eight times. */
#define MANY 200000

static void *grow(void *arg)
{
	uint32_t *ids = arg, parent = SITE_NONE;

	for (uint32_t i = 0; i < MANY; i++) {
		if (i % 100 == 0)
			parent = SITE_NONE;
		ids[i] = site_child(parent, 0x700000 + i);
		parent = ids[i];
	}
	return NULL;
}

static void test_growth(void **state)
{
	static uint32_t ids[3][MANY];
	uint32_t count;
	pthread_t t;

	(void)state;
	pthread_create(&t, NULL, grow, ids[0]);
	grow(ids[1]);
	pthread_join(t, NULL);
	count = site_count();
	grow(ids[2]);
	assert_int_equal(site_count(), count); /* none twice */
	assert_memory_equal(ids[0], ids[1], sizeof(ids[0]));
	assert_memory_equal(ids[0], ids[2], sizeof(ids[0]));
	for (uint32_t i = 0; i < MANY; i += 61) {
		assert_int_equal(site_pc(ids[0][i]), 0x700000 + i);
		assert_int_equal(site_depth(ids[0][i]), i % 100 + 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),	 cmocka_unit_test(test_many),
		cmocka_unit_test(test_long_pcs), cmocka_unit_test(test_counters_of_any),
		cmocka_unit_test(test_few),	 cmocka_unit_test(test_threads),
		cmocka_unit_test(test_growth),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
