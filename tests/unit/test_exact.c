/* SPDX-License-Identifier: Apache-2.0 */
/* What exact mode costs beyond time: each stack is captured once, also a new one, and
 * records of two threads' objects lie in cache lines of their own. */
#include "tests/unit/cm.h"

#include <pthread.h>

#include "preload/base/opt.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/unwind.h"

#define DEEP	40
#define ROUNDS	20
#define AT_ONCE 3 /* objects */
#define OBJECTS (ROUNDS * AT_ONCE)

static __thread volatile int sink;

static __attribute__((noinline)) void *make(int depth, size_t size)
{
	void *p = depth > 0 ? make(depth - 1, size) : heap_malloc(size);

	sink++;
	return p;
}

static uint64_t captures(void)
{
	struct trail_stats s;

	trail_get_stats(&s);
	return s.captures;
}

static void test_once(void **state)
{
	uint32_t before = site_count();
	void *first = make(0, 64), *objects[DEEP];
	uint64_t start = captures();

	(void)state;
	for (int i = 0; i < DEEP; i++)
		objects[i] = make(i + 1, 64);
	assert_true(site_count() >= before + DEEP); /* they were new */
	assert_int_equal(captures() - start, DEEP);
	for (int i = 0; i < DEEP; i++)
		heap_free(objects[i]);
	heap_free(first);
}

struct maker {
	pthread_barrier_t *turn;
	int number; /* whose turn it is, of two */
	size_t size;
	void *objects[OBJECTS];
};

static void *make_in_turn(void *arg)
{
	struct maker *m = arg;
	int n = 0;

	for (int i = 0; i < 2 * ROUNDS; i++) {
		pthread_barrier_wait(m->turn);
		for (int k = 0; i % 2 == m->number && k < AT_ONCE; k++)
			m->objects[n++] = heap_malloc(m->size);
	}
	pthread_barrier_wait(m->turn);
	return NULL;
}

static uintptr_t line_of(const void *p)
{
	uint32_t index;
	const struct mspan *s = heap_find((uintptr_t)p, &index);
	const struct sample_record *r = sample_find(s, index);

	assert_non_null(r);
	return (uintptr_t)r / CACHE_LINE;
}

static void run_two(struct maker makers[2], size_t size)
{
	pthread_barrier_t turn;
	pthread_t threads[2];

	pthread_barrier_init(&turn, NULL, 2);
	for (int i = 0; i < 2; i++) {
		makers[i] = (struct maker){ .turn = &turn, .number = i, .size = size };
		pthread_create(&threads[i], NULL, make_in_turn, &makers[i]);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&turn);
}

static void test_lines(void **state)
{
	static const size_t sizes[] = { 16, 48, 64, 112, 128, 256, 272, 512, 1024 };
	static struct maker makers[2];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		run_two(makers, sizes[i]);
		for (int k = 0; k < OBJECTS; k++)
			for (int n = 0; n < OBJECTS; n++)
				assert_int_not_equal(line_of(makers[0].objects[k]),
						     line_of(makers[1].objects[n]));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines), /* first: no slot was used before */
		cmocka_unit_test(test_once),
	};

	opt_init("mode=exact");
	module_refresh();
	thread_init();
	unwind_init();
	sample_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
