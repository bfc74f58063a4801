/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scribble: a program that writes all over memory it has freed has no power over the
 * allocator: every block that it gets afterwards is aligned, as long as asked, and
 * nobody else's.
 *
 * Usage: scribble SEED [ROUNDS]. Each round has three steps, with a barrier between: all
 * threads free what they have (half of it made by a neighbour), all write over what was
 * freed, all allocate and check.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define BLOCKS	6000
#define ROUNDS	12
#define GUARD	0x5e

struct block {
	unsigned char *p;
	size_t size;
};

static struct block blocks[THREADS][BLOCKS];
static pthread_barrier_t barrier;
static uint64_t seed;
static int rounds = ROUNDS;
static int failures; /* atomic */

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void fail(const char *what, int id, size_t i)
{
	if (__atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED) < 10)
		fprintf(stderr, "%s: thread %d, block %zu of %zu bytes\n", what, id, i,
			blocks[id][i].size);
}

/* Mostly small; some of each kind that the heap keeps in another way. */
static size_t any_size(uint64_t *state)
{
	uint64_t r = next_random(state);

	switch (r % 64) {
	case 0:
		return 1 + next_random(state) % 300000;
	case 1:
	case 2:
	case 3:
		return 1 + next_random(state) % 33000;
	default:
		return 1 + next_random(state) % 1200;
	}
}

/* The bytes at both ends of a block say whose it is. */
static unsigned char mark_of(int id, size_t i)
{
	return (unsigned char)(i * THREADS + (size_t)id + i / 61);
}

static void fill(int id, size_t i, uint64_t *state)
{
	struct block *b = &blocks[id][i];
	int zeroed = next_random(state) % 4 == 0;

	b->size = any_size(state);
	if (next_random(state) % 16 == 0)
		b->p = memalign((size_t)16 << next_random(state) % 8, b->size);
	else
		b->p = zeroed ? calloc(1, b->size) : malloc(b->size);
	if (!b->p || (uintptr_t)b->p % 16 != 0 || malloc_usable_size(b->p) < b->size) {
		fail("not given", id, i);
		b->p = NULL;
		return;
	}
	memset(b->p, mark_of(id, i), b->size);
}

static void check(int id, size_t i)
{
	const struct block *b = &blocks[id][i];

	for (size_t k = 0; b->p && k < b->size; k += 1 + b->size / 64)
		if (b->p[k] != mark_of(id, i)) {
			fail("overwritten", id, i);
			return;
		}
}

/* Zeroes, ones, text, addresses of the heap, small numbers. */
static void scribble(const struct block *b, uint64_t *state)
{
	uint64_t kind = next_random(state) % 5, word = next_random(state);

	if (kind == 0)
		memset(b->p, 0, b->size);
	else if (kind == 1)
		memset(b->p, 0xff, b->size);
	else
		for (size_t k = 0; k + 8 <= b->size; k += 8) {
			if (kind == 2)
				word = (uintptr_t)b->p + k + 16;
			if (kind == 3)
				word = (uintptr_t)blocks[word % THREADS][k % BLOCKS].p;
			if (kind == 4)
				word = k % 32;
			memcpy(b->p + k, &word, 8);
		}
}

static void *work(void *arg)
{
	int id = (int)(intptr_t)arg, next = (id + 1) % THREADS;
	uint64_t state = seed * THREADS + (uint64_t)id;

	for (size_t i = 0; i < BLOCKS; i++)
		fill(id, i, &state);
	for (int round = 0; round < rounds; round++) {
		pthread_barrier_wait(&barrier);
		for (size_t i = 0; i < BLOCKS; i++)
			check(id, i);
		pthread_barrier_wait(&barrier);
		for (size_t i = 0; i < BLOCKS; i++)
			free(blocks[i % 2 ? id : next][i].p);
		pthread_barrier_wait(&barrier);
		for (size_t i = 0; i < BLOCKS; i++)
			if (blocks[id][i].p)
				scribble(&blocks[id][i], &state);
		pthread_barrier_wait(&barrier);
		for (size_t i = 0; i < BLOCKS; i++)
			fill(id, i, &state);
	}
	for (size_t i = 0; i < BLOCKS; i++)
		check(id, i);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	if (argc > 2)
		rounds = atoi(argv[2]);
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (intptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	malloc_trim(0);
	if (failures)
		fprintf(stderr, "seed %llu: %d blocks\n", (unsigned long long)seed,
			failures);
	return failures != 0;
}
