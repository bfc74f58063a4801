/* SPDX-License-Identifier: Apache-2.0 */
/* freelist against a model, and lists with many runs that nearly fit. */
#include "preload/heap/freelist.h"

#include "tests/unit/blocks.h"
#include "tests/unit/cm.h"

#define NRUNS	 400
#define LONGEST	 700
#define NEAR	 80 /* pages; the first length of a list up to 87 */
#define NEAR_END 88

static struct mspan runs[NRUNS];

static void insert(struct mspan *s, size_t npages, size_t ndirty)
{
	s->npages = npages;
	s->ndirty = ndirty;
	freelist_insert(s);
}

static void remove_all(void)
{
	for (size_t i = 0; i < NRUNS; i++)
		if (runs[i].state == MSPAN_FREE)
			freelist_remove(&runs[i]);
	assert_int_equal(freelist_count(), 0);
	assert_int_equal(freelist_total_pages(), 0);
	assert_int_equal(freelist_dirty_pages(), 0);
	assert_int_equal(freelist_short_pages(), 0);
}

/* Pages of the shortest run that fits, dirty ones first, 0: none. */
static size_t shortest(size_t npages, bool dirty)
{
	size_t best = 0;

	for (size_t i = 0; i < NRUNS; i++)
		if (runs[i].state == MSPAN_FREE && (runs[i].ndirty > 0) == dirty &&
		    runs[i].npages >= npages && (best == 0 || runs[i].npages < best))
			best = runs[i].npages;
	return best;
}

/* Of the wide lists' runs one is as good as another. */
static bool is_near(size_t got, size_t best)
{
	return got >= best && got - best <= best / 8;
}

static void check_find(size_t npages)
{
	const struct mspan *s = freelist_find(npages);
	size_t best = shortest(npages, true);
	const bool dirty = best > 0;

	if (!dirty)
		best = shortest(npages, false);
	assert_ptr_equal(freelist_search(npages), s); /* so few hide nothing */
	assert_int_equal(s != NULL, best > 0);
	if (!s)
		return;
	assert_int_equal(s->ndirty > 0, dirty);
	assert_true(s->npages >= npages && is_near(s->npages, best));
	assert_true(best > 64 || s->npages == best);
}

static void test_model(void **state)
{
	unsigned seed = 7;

	(void)state;
	for (int i = 0; i < 40000; i++) {
		struct mspan *s = &runs[next(&seed) % NRUNS];
		size_t npages = 1 + next(&seed) % (i % 3 ? 90 : LONGEST);

		if (s->state == MSPAN_FREE)
			freelist_remove(s);
		else
			insert(s, npages, next(&seed) % 2 ? 1 + next(&seed) % npages : 0);
		check_find(1 + next(&seed) % LONGEST);
	}
	remove_all();
}

/* A longer run is found, whatever there is of shorter ones; the only one that fits is not
 * lost among them. */
static void test_nearly_fit(void **state)
{
	struct mspan *fits = &runs[0], *longer = &runs[1];

	(void)state;
	for (size_t ndirty = 0; ndirty <= NEAR; ndirty += NEAR) {
		insert(fits, NEAR_END - 1, ndirty);
		for (size_t i = 2; i < NRUNS; i++)
			insert(&runs[i], NEAR + i % 7, ndirty);
		assert_ptr_equal(freelist_search(NEAR_END - 1), fits);
		assert_null(freelist_search(NEAR_END));
		insert(longer, NEAR_END + 20, 0);
		assert_ptr_equal(freelist_find(NEAR_END - 1), longer);
		assert_ptr_equal(freelist_find(NEAR_END), longer);
		remove_all();
	}
}

/* More than any address space has. */
static void test_too_long(void **state)
{
	(void)state;
	insert(&runs[0], 10, 0);
	for (unsigned lg = 30; lg < 64; lg++) {
		assert_null(freelist_find((size_t)1 << lg));
		assert_null(freelist_search(((size_t)2 << lg) - 1));
	}
	remove_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_nearly_fit),
		cmocka_unit_test(test_too_long),
	};

	return cmocka_run_group_tests_name("freelist", tests, NULL, NULL);
}
