/* SPDX-License-Identifier: Apache-2.0 */
/* run against a model that knows of each page whether it holds something. */
#include "preload/heap/run.h"

#include <string.h>

#include "tests/unit/blocks.h"
#include "tests/unit/cm.h"

#define NPAGES 200
#define NRUNS  12
#define STEPS  20000
#define BASE   ((uintptr_t)1 << 30)

static bool holds[NPAGES];
static struct mspan runs[NPAGES]; /* NRUNS or so in use, in order of address */
static size_t nruns;

static size_t first_page(const struct mspan *s)
{
	return (s->base - BASE) >> PAGE_SHIFT;
}

static void check(const struct mspan *s)
{
	const size_t first = first_page(s);
	size_t ndirty = 0;

	for (size_t i = 0; i < s->npages; i++)
		ndirty += holds[first + i];
	assert_true(ndirty <= s->ndirty);
	assert_true(s->ndirty + s->ntail <= s->npages);
	assert_true(s->ndirty > 0 || s->ntail == 0);
	for (size_t i = s->npages - s->ntail; i < s->npages; i++)
		assert_false(holds[first + i]);
}

static void check_all(void)
{
	size_t page = 0;

	for (size_t i = 0; i < nruns; i++) {
		assert_int_equal(first_page(&runs[i]), page);
		page += runs[i].npages;
		check(&runs[i]);
	}
	assert_int_equal(page, NPAGES);
}

static void cut(size_t i, size_t npages, bool front)
{
	struct mspan other;

	memmove(&runs[i + 1], &runs[i], (nruns - i) * sizeof(runs[0]));
	nruns++;
	if (front) {
		run_cut_front(&runs[i + 1], &other, npages);
		runs[i] = other;
	} else {
		run_cut_back(&runs[i], &other, npages);
		runs[i + 1] = other;
	}
	assert_int_equal(runs[i].npages, npages);
}

static void join(size_t i, bool front)
{
	if (front) {
		run_join(&runs[i], &runs[i + 1]);
	} else {
		run_join(&runs[i + 1], &runs[i]);
		runs[i] = runs[i + 1];
	}
	nruns--;
	memmove(&runs[i + 1], &runs[i + 2], (nruns - i - 1) * sizeof(runs[0]));
}

static void use(struct mspan *s)
{
	for (size_t i = 0; i < s->npages; i++)
		holds[first_page(s) + i] = i % 3 != 0;
	run_soil(s);
}

static void clean(struct mspan *s, size_t npages)
{
	size_t end = first_page(s) + s->npages - s->ntail;

	for (size_t i = end - npages; i < end; i++)
		holds[i] = false;
	run_clean(s, npages);
}

static void test_model(void **state)
{
	unsigned seed = 3;

	(void)state;
	run_set_fresh(&runs[0], BASE, NPAGES);
	nruns = 1;
	for (int n = 0; n < STEPS; n++) {
		size_t i = next(&seed) % nruns, npages;
		struct mspan *s = &runs[i];

		switch (next(&seed) % 4) {
		case 0:
			if (nruns < NRUNS && s->npages > 1)
				cut(i, 1 + next(&seed) % (s->npages - 1), n % 2);
			break;
		case 1:
			if (i + 1 < nruns)
				join(i, n % 2);
			break;
		case 2:
			use(s);
			break;
		default:
			npages = s->npages - s->ntail;
			if (npages > 0)
				clean(s, 1 + next(&seed) % npages);
		}
		check_all();
	}
}

/* What has been given back is known: the rest of a run may be, too. */
static void test_tail(void **state)
{
	struct mspan s = { .npages = 0 }, back;

	(void)state;
	run_set_fresh(&s, BASE, 10);
	run_soil(&s);
	run_clean(&s, 4);
	assert_int_equal(s.ndirty, 6);
	run_cut_back(&s, &back, 5);
	assert_int_equal(s.ndirty, 5);
	assert_int_equal(back.ndirty, 1);
	assert_int_equal(back.ntail, 4);
	run_clean(&back, 1);
	assert_int_equal(back.ndirty, 0);
	run_join(&back, &s);
	assert_int_equal(back.ndirty, 5);
	run_clean(&back, 10);
	assert_int_equal(back.ndirty, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_tail),
	};

	return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
