/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that allocate, resize, hand over and free blocks at random, with every block
 * stamped and checked. Arguments: seed, threads, steps. The seed is printed. */
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/wait.h>

#define SLOTS 4096

struct block {
	size_t size;
	uint64_t stamp;
};

struct block *slots[SLOTS]; /* exchanged atomically by all threads */
static long steps;

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static size_t random_size(uint64_t *s)
{
	uint64_t r = next(s);

	if (r % 200 == 0)
		return sizeof(struct block) + next(s) % 600000;
	if (r % 10 == 0)
		return sizeof(struct block) + next(s) % 40000;
	return sizeof(struct block) + next(s) % 700;
}

static void stamp(struct block *b, size_t size, uint64_t value)
{
	b->size = size;
	b->stamp = value;
	memset(b + 1, (int)value & 0xff, size - sizeof(*b));
}

static void check(const struct block *b)
{
	const unsigned char *p = (const unsigned char *)(b + 1);
	size_t n = b->size - sizeof(*b);

	for (size_t i = 0; i < n; i += 1 + n / 64)
		if (p[i] != (b->stamp & 0xff))
			abort();
	if (n && p[n - 1] != (b->stamp & 0xff))
		abort();
}

static struct block *make(uint64_t *s)
{
	size_t size = random_size(s);
	struct block *b;

	switch (next(s) % 6) {
	case 0:
		b = calloc(1, size);
		for (size_t i = 0; i < size; i += 1 + size / 50)
			if (((char *)b)[i])
				abort();
		break;
	case 1:
		b = memalign((size_t)16 << next(s) % 9, size);
		break;
	default:
		b = malloc(size);
		break;
	}
	if (!b)
		abort();
	stamp(b, size, next(s));
	return b;
}

static struct block *grow(struct block *b, uint64_t *s)
{
	size_t size = random_size(s), old = b->size;
	uint64_t value = b->stamp;

	b = realloc(b, size);
	if (!b || b->stamp != value)
		abort();
	b->size = size < old ? size : old;
	check(b);
	stamp(b, size, value);
	return b;
}

static void *work(void *arg)
{
	uint64_t s = (uintptr_t)arg * 0x9e3779b97f4a7c15u | 1;

	for (long i = 0; i < steps; i++) {
		struct block **slot = &slots[next(&s) % SLOTS];
		struct block *b = __atomic_exchange_n(slot, NULL, __ATOMIC_ACQ_REL);

		if (b) {
			check(b);
			if (next(&s) % 4 == 0)
				b = grow(b, &s);
			else {
				free(b);
				b = NULL;
			}
		} else {
			b = make(&s);
		}
		if (b)
			b = __atomic_exchange_n(slot, b, __ATOMIC_ACQ_REL);
		free(b);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned long seed = argc > 1 ? strtoul(argv[1], NULL, 0) : 1;
	int n = argc > 2 ? atoi(argv[2]) : 4;
	pthread_t t[64];

	steps = argc > 3 ? atol(argv[3]) : 100000;
	printf("seed %lu threads %d steps %ld\n", seed, n, steps);
	for (int round = 0; round < 4; round++) { /* threads come and go */
		for (int i = 0; i < n; i++)
			pthread_create(
				&t[i], NULL, work,
				(void *)(uintptr_t)(seed + (unsigned)(round * 64 + i)));
		if (round == 2) {
			pid_t pid = fork();

			if (pid == 0) {
				work((void *)(uintptr_t)(seed + 999));
				exit(0);
			}
			waitpid(pid, NULL, 0);
		}
		for (int i = 0; i < n; i++)
			pthread_join(t[i], NULL);
	}
	for (int i = 0; i < SLOTS; i++) {
		if (slots[i])
			check(slots[i]);
		free(slots[i]);
	}
	return 0;
}
