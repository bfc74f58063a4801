/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that holds its objects by their middles only, in rings as a kernel has them:
 * each thread adds to the front of its own and frees from the end, all the time, and
 * loses nothing. With RINGS_MOVE each has a table of objects, too, whose memory is mapped
 * anew now and then. It ends with stdin, and says so.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

#define ENTRIES 512
#define STAYS	32 /* turns: else it is gone before it is read */

static int ends; /* atomic */
static int moves;

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

/* Of another size each time, so that it comes to lie elsewhere. */
static size_t table_bytes(size_t turn)
{
	return ENTRIES * sizeof(void *) + (turn % 16 << 16);
}

static void **map_table(size_t turn)
{
	void **table = mmap(NULL, table_bytes(turn), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (table == MAP_FAILED)
		_exit(1);
	return table;
}

/* Some of its objects are new, and it is elsewhere. */
static void **move_table(void **table, size_t turn)
{
	void **to;

	for (size_t i = 0; i < MORE; i++) {
		void **entry = &table[(turn * MORE + i) % ENTRIES];

		void *old = *entry;

		*entry = malloc(sizeof(struct item)); /* where an item was */
		free(old);
	}
	if (turn % STAYS != STAYS - 1)
		return table;
	to = map_table(turn / STAYS + 1);
	memcpy(to, table, ENTRIES * sizeof(*table));
	munmap(table, table_bytes(turn / STAYS));
	return to;
}

static void *turn(void *arg)
{
	struct link ring = { &ring, &ring };
	void **table = map_table(0);
	size_t count = 0, turns = 0;

	(void)arg;
	while (!__atomic_load_n(&ends, __ATOMIC_ACQUIRE)) {
		for (size_t i = 0; i < MORE; i++)
			add(&ring);
		for (count += MORE; count > MOST; count--)
			drop_last(&ring);
		if (moves)
			table = move_table(table, turns++);
		usleep(500); /* else too much is written to be followed */
	}
	while (ring.next != &ring)
		drop_last(&ring);
	for (size_t i = 0; i < ENTRIES; i++)
		free(table[i]);
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];

	moves = getenv("RINGS_MOVE") != NULL;
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
