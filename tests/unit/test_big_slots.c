/* SPDX-License-Identifier: Apache-2.0 */
/* Bins of big slots, few of which keep many pages from others. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <string.h>

#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/sizeclass.h"

/* Objects that all grow by steps, as a program's tables do: what the sizes before have
 * left behind is given back, not kept beside the objects. */
static void test_left_behind(void **state)
{
	enum { OBJECTS = 64, FIRST = 5000, LAST = 32000, STEP = 500 };
	static void *objects[OBJECTS];
	struct heap_stats st;

	(void)state;
	for (size_t size = FIRST; size < LAST; size += STEP) {
		for (int i = 0; i < OBJECTS; i++) {
			void *p = heap_malloc(size);

			assert_non_null(p);
			heap_free(objects[i]);
			objects[i] = p;
		}
	}
	heap_get_stats(&st);
	assert_true(st.cached <= 1500 * KIB); /* 0.5 MB; without their turns 4.2 */
	for (int i = 0; i < OBJECTS; i++)
		heap_free(objects[i]);
}

/* What is in use stays where it is, however often its turn comes. */
static void test_in_use(void **state)
{
	static void *objects[SIZECLASS_COUNT];

	(void)state;
	for (int round = 0; round < 200; round++) {
		for (size_t c = 1; c < SIZECLASS_COUNT; c++) {
			size_t size = sizeclass_info[c].slot_size;

			objects[c] = heap_malloc(size);
			assert_non_null(objects[c]);
			memset(objects[c], (int)c, size);
		}
		for (size_t c = 1; c < SIZECLASS_COUNT; c++) {
			const char *bytes = objects[c];

			assert_int_equal(bytes[0], (int)c);
			assert_int_equal(bytes[sizeclass_info[c].slot_size - 1], (int)c);
			heap_free(objects[c]);
		}
	}
}

enum { HANDED = 64, HANDED_SIZE = 16 * 1024 };
static void *handed[HANDED];

static void *free_handed(void *arg)
{
	for (int i = 0; i < HANDED; i++)
		heap_free(handed[i]);
	heap_thread_exit();
	return arg;
}

static uint32_t count_transferred(void)
{
	struct mcentral_counts counts;

	mcentral_count(sizeclass_of(HANDED_SIZE), &counts);
	return counts.ntransfer;
}

/* What one thread frees is kept for another, and goes back when it is asked for. */
static void test_handed_over(void **state)
{
	pthread_t thread;

	(void)state;
	for (int i = 0; i < HANDED; i++) {
		handed[i] = heap_malloc(HANDED_SIZE);
		assert_non_null(handed[i]);
	}
	assert_int_equal(count_transferred(), 0); /* nor did one thread leave any */
	assert_int_equal(pthread_create(&thread, NULL, free_handed, NULL), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_in_range(count_transferred(), 1, HANDED / 2);
	for (int i = 0; i < HANDED; i++)
		handed[i] = heap_malloc(HANDED_SIZE);
	assert_int_equal(count_transferred(), 0);
	for (int i = 0; i < HANDED; i++)
		heap_free(handed[i]);
	assert_in_range(count_transferred(), 1, HANDED / 2);
	heap_trim();
	assert_int_equal(count_transferred(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_left_behind),
		cmocka_unit_test(test_in_use),
		cmocka_unit_test(test_handed_over),
	};

	heap_thread_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
