/* SPDX-License-Identifier: Apache-2.0 */
/* The registry of threads. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <stdlib.h>

#include "preload/heap/heap.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define ROUNDS 200
#define STACK  ((size_t)1 << 20)

static size_t count_entries(void)
{
	size_t n = 0;

	thread_lock();
	for (const struct thread_info *t = thread_list(); t; t = t->next)
		n++;
	thread_unlock();
	return n;
}

static void *register_one(void *arg)
{
	const struct thread_info *t = thread_register(0, false);

	thread_lock();
	*(bool *)arg = t && t->released && t->state == THREAD_RUNNING &&
		       (uintptr_t)&t >= t->stack_lo && (uintptr_t)&t < t->stack_hi;
	thread_unlock();
	thread_finished();
	return NULL;
}

/* Threads one after the other on one stack, each joined before it registers itself, as
 * may happen: they have one entry. */
static void test_joined_early(void **state)
{
	pthread_attr_t attr;
	pthread_t thread = 0;
	void *stack = NULL;
	size_t before = 0;

	(void)state;
	assert_int_equal(posix_memalign(&stack, 4096, STACK), 0);
	assert_int_equal(pthread_attr_init(&attr), 0);
	assert_int_equal(pthread_attr_setstack(&attr, stack, STACK), 0);
	for (int i = 0; i < ROUNDS; i++) {
		bool known = false;

		if (i > 0)
			thread_set_released((uintptr_t)thread, true);
		assert_int_equal(pthread_create(&thread, &attr, register_one, &known), 0);
		if (i == 0)
			thread_set_released((uintptr_t)thread, true);
		pthread_join(thread, NULL);
		assert_true(known || i == 0);
		if (i == 0)
			before = count_entries();
	}
	assert_int_equal(count_entries(), before);
	pthread_attr_destroy(&attr);
	free(stack);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_joined_early),
	};

	module_refresh();
	unwind_init();
	heap_thread_start();
	thread_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
