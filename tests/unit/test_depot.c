/* SPDX-License-Identifier: Apache-2.0 */
/* Large objects that one thread allocates and another frees. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <string.h>

#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mheap.h"

#define OBJECTS 48
#define ROUNDS	40
#define MOST	4096 /* pages in the depot */
#define OWN	384  /* pages of a thread that only frees */

static struct {
	pthread_barrier_t step;
	unsigned char *p[OBJECTS];
	size_t size;
	size_t own; /* pages that the thread keeps at the end of a round */
	bool ends;
} with;

static void *free_all(void *arg)
{
	for (;;) {
		pthread_barrier_wait(&with.step);
		if (with.ends)
			break;
		for (int i = 0; i < OBJECTS; i++) {
			assert_int_equal(with.p[i][0], i);
			assert_int_equal(with.p[i][with.size - 1], i);
			heap_free(with.p[i]);
		}
		with.own = lcache_pages(&mcache_self()->large);
		pthread_barrier_wait(&with.step);
	}
	heap_thread_exit();
	return arg;
}

static size_t depot(void)
{
	size_t nspans, npages;

	lock_acquire(&mheap_lock);
	npages = lcache_depot_locked(&nspans);
	lock_release(&mheap_lock);
	assert_true((npages == 0) == (nspans == 0));
	return npages;
}

/* A round: so many objects, whole when they arrive; the pages in the depot after it. */
static size_t play(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		with.p[i] = heap_malloc_large(with.size);
		memset(with.p[i], i, with.size);
	}
	pthread_barrier_wait(&with.step);
	pthread_barrier_wait(&with.step);
	return depot();
}

static size_t committed(void)
{
	struct heap_stats s;

	heap_get_stats(&s);
	return s.committed;
}

/* What is kept is bounded, comes back, and is all given back on request. */
static void rounds_of(size_t size)
{
	struct heap_stats s;
	size_t first, most = 0;
	int whole = 0;
	size_t total = OBJECTS * ((size + PAGE_SIZE - 1) >> PAGE_SHIFT);

	with.size = size;
	play();
	first = committed();
	for (int i = 0; i < ROUNDS; i++) {
		size_t npages = play();

		most = npages > most ? npages : most;
		assert_in_range(npages, 0, MOST);
		assert_in_range(with.own, 0, OWN);
		if (total <= MOST) /* nearly all of it comes back whole */
			whole += npages + with.own >= total / 4 * 3;
	}
	assert_true(most > 0);
	/* But once a second what was idle goes, which may be while they are freed. */
	assert_true(total > MOST || whole >= ROUNDS / 2);
	assert_in_range(committed(), first, first + first / 2);
	heap_trim();
	assert_int_equal(depot(), 0);
	heap_get_stats(&s);
	assert_int_equal(s.free_dirty, with.own << PAGE_SHIFT);
}

static void test_one_way(void **state)
{
	pthread_t t;

	(void)state;
	pthread_barrier_init(&with.step, NULL, 2);
	pthread_create(&t, NULL, free_all, NULL);
	rounds_of(100000);
	rounds_of(40000);
	rounds_of(300000);
	rounds_of(1000000); /* more than there is room for */
	with.ends = true;
	pthread_barrier_wait(&with.step);
	pthread_join(t, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_one_way) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
