/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that make small objects at the same time do not get parts of one cache line. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <stdlib.h>

#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/sizeclass.h"

#define ROUNDS	200 /* of objects of one class, in two threads by turns */
#define ROWS	4   /* rounds a turn */
#define SHARING 512 /* bytes: larger slots begin at cache lines, most of them */

struct maker {
	pthread_barrier_t *turn;
	int parity;
	size_t size;
	uintptr_t made[ROUNDS];
};

static void *make_by_turns(void *arg)
{
	struct maker *m = arg;
	int n = 0;

	for (int t = 0; t < 2 * ROUNDS / ROWS; t++) {
		pthread_barrier_wait(m->turn);
		if (t % 2 == m->parity)
			for (int i = 0; i < ROWS; i++)
				m->made[n++] = (uintptr_t)heap_malloc(m->size);
	}
	pthread_barrier_wait(m->turn);
	heap_thread_exit();
	return NULL;
}

static uintptr_t first_line(const struct maker *m, int i)
{
	return m->made[i] / CACHE_LINE;
}

static uintptr_t last_line(const struct maker *m, int i)
{
	return (m->made[i] + m->size - 1) / CACHE_LINE;
}

static int count_shared(const struct maker *a, const struct maker *b)
{
	int n = 0;

	for (int i = 0; i < ROUNDS; i++)
		for (int k = 0; k < ROUNDS; k++)
			n += first_line(a, i) <= last_line(b, k) &&
			     first_line(b, k) <= last_line(a, i);
	return n;
}

/* Of fresh spans: what was freed before lies where it lies. */
static void test_by_turns(void **state)
{
	(void)state;
	for (unsigned c = 1; sizeclass_info[c].slot_size < SHARING; c++) {
		static struct maker m[2];
		pthread_barrier_t turn;
		pthread_t t[2];

		pthread_barrier_init(&turn, NULL, 2);
		for (int i = 0; i < 2; i++) {
			m[i] = (struct maker){ .turn = &turn,
					       .parity = i,
					       .size = sizeclass_info[c].slot_size };
			pthread_create(&t[i], NULL, make_by_turns, &m[i]);
		}
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		assert_int_equal(count_shared(&m[0], &m[1]), 0);
	}
}

struct passed {
	void *given;
	uintptr_t own, next;
};

static void *free_then_make(void *arg)
{
	struct passed *p = arg;

	heap_free(p->given);
	p->own = (uintptr_t)heap_malloc(16);
	heap_free((void *)p->own);
	p->next = (uintptr_t)heap_malloc(16);
	heap_free((void *)p->next);
	heap_thread_exit();
	return NULL;
}

/* A thread that begins with a free of what another made goes on with memory of its own,
 * also when it has the array of a thread before it. */
static void test_passed(void **state)
{
	void *neighbour = heap_malloc(16);

	(void)state;
	for (int round = 0; round < 8; round++) {
		struct passed p = { .given = heap_malloc(16) };
		pthread_t t;

		pthread_create(&t, NULL, free_then_make, &p);
		pthread_join(t, NULL);
		assert_true(p.own / CACHE_LINE != (uintptr_t)p.given / CACHE_LINE);
		assert_true(p.own == p.next);
	}
	heap_free(neighbour);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_turns),
		cmocka_unit_test(test_passed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
