/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that holds its objects by their middles only, in rings as a kernel has them:
 * each thread adds to the front of its own and frees from the end, all the time, and
 * loses nothing. It ends with stdin, and says so.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define THREADS 4
#define MOST	4000 /* of a ring */
#define MORE	80   /* in one go */

struct link {
	struct link *next, *prev;
};
struct item {
	unsigned long before[4];
	struct link link;
	char after[30];
};

static int ends; /* atomic */

static void add(struct link *ring)
{
	struct item *item = calloc(1, sizeof(*item));

	if (!item)
		_exit(1);
	item->link.next = ring->next;
	item->link.prev = ring;
	ring->next->prev = &item->link;
	ring->next = &item->link;
}

static void drop_last(struct link *ring)
{
	struct link *last = ring->prev;

	last->prev->next = ring;
	ring->prev = last->prev;
	free((char *)last - offsetof(struct item, link));
}

static void *turn(void *arg)
{
	struct link ring = { &ring, &ring };
	size_t count = 0;

	(void)arg;
	while (!__atomic_load_n(&ends, __ATOMIC_ACQUIRE)) {
		for (size_t i = 0; i < MORE; i++)
			add(&ring);
		for (count += MORE; count > MOST; count--)
			drop_last(&ring);
		usleep(500); /* else too much is written to be followed */
	}
	while (ring.next != &ring)
		drop_last(&ring);
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, turn, NULL) != 0)
			return 1;
	while (getchar() != EOF)
		;
	__atomic_store_n(&ends, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	puts("1");
	return 0;
}
