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
	uint32_t before = site_count();

	(void)state;
	for (uint32_t i = 0; i < NODES; i++)
		assert_int_equal(site_child(SITE_NONE, 0x100000 + i * 3), before + 1 + i);
	for (uint32_t i = 0; i < NODES; i++)
		assert_int_equal(site_child(SITE_NONE, 0x100000 + i * 3), before + 1 + i);
	assert_int_equal(site_count(), before + NODES);
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
	uint32_t before = site_count();
	pthread_t t;

	(void)state;
	pthread_create(&t, NULL, grow, ids[0]);
	grow(ids[1]);
	pthread_join(t, NULL);
	assert_int_equal(site_count(), before + MANY); /* none twice */
	grow(ids[2]);
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
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_growth),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
