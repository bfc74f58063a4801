/* SPDX-License-Identifier: Apache-2.0 */
/* Sites whose objects are small, large and mixed against the sampling period; every
 * fourth is kept. With an argument also such as are aligned, cleared, grown and shrunk in
 * steps, made by several threads and freed by another. Prints what each site really did:
 * name, objects, bytes, and of both what is kept. A resize is a new object, as in exact
 * mode. */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif

#define KEPT	16384
#define THREADS 3

void *kept[KEPT];
static int nkept;

#define SITE(name)                              \
	NOINLINE void *name(size_t size)        \
	{                                       \
		void *p = malloc(size);         \
                                                \
		__asm__ volatile("" : "+r"(p)); \
		return p;                       \
	}

SITE(tiny)
SITE(medium)
SITE(large)
SITE(huge)
SITE(mixed)

NOINLINE void *aligned(size_t size)
{
	void *p = memalign(4096, size);

	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE void *cleared(size_t size)
{
	void *p = calloc(size / 8, 8);

	__asm__ volatile("" : "+r"(p));
	return p;
}

/* To TIMES the size, or 5 percent less, in STEPS steps; in place or not. */
#define STEPS 5
#define TIMES 5

NOINLINE void *grown(size_t size)
{
	char *p = malloc(size);

	for (size_t i = 1; i <= STEPS; i++)
		p = realloc(p, size + i * size * (TIMES - 1) / STEPS);
	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE void *shrunk(size_t size)
{
	char *p = malloc(size);

	for (size_t i = 1; i <= STEPS; i++)
		p = realloc(p, size - i * size / 100);
	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE void *threaded(size_t size)
{
	void *p = malloc(size);

	__asm__ volatile("" : "+r"(p));
	return p;
}

static const struct {
	const char *name;
	void *(*make)(size_t size);
	int count;
	size_t size; /* 0: from 8 to 4000 */
} sites[] = { { "tiny", tiny, 40000, 24 },     { "medium", medium, 3000, 700 },
	      { "large", large, 200, 30000 },  { "huge", huge, 20, 400000 },
	      { "mixed", mixed, 3000, 0 },     { "aligned", aligned, 600, 5000 },
	      { "cleared", cleared, 5000, 96 } };

static unsigned state = 1;

static size_t draw(void)
{
	state = state * 1664525u + 1013904223u;
	return 8 + (state >> 8) % 3993;
}

static void work(int k)
{
	size_t bytes = 0, kept_bytes = 0;
	int keeps = 0;

	for (int i = 0; i < sites[k].count; i++) {
		size_t size = sites[k].size ? sites[k].size : draw();
		void *p = sites[k].make(size);

		bytes += size;
		if (i % 4) {
			free(p);
			continue;
		}
		kept[nkept++] = p;
		keeps++;
		kept_bytes += size;
	}
	printf("%s %d %zu %d %zu\n", sites[k].name, sites[k].count, bytes, keeps,
	       kept_bytes);
}

/* Of each object, the sizes that it has had. */
static void resize(const char *name, void *(*make)(size_t), int count, size_t size,
		   size_t all_sizes, size_t last)
{
	int keeps = 0;

	for (int i = 0; i < count; i++) {
		void *p = make(size);

		if (i % 4)
			free(p);
		else
			kept[nkept + keeps++] = p;
	}
	nkept += keeps;
	printf("%s %d %zu %d %zu\n", name, count * (STEPS + 1), (size_t)count * all_sizes,
	       keeps, (size_t)keeps * last);
}

#define EACH 1000

static void *handed[THREADS][EACH];

static void *make_some(void *arg)
{
	void **to = arg;

	for (int i = 0; i < EACH; i++)
		to[i] = threaded(300);
	return arg;
}

static void *free_most(void *arg)
{
	for (int k = 0; k < THREADS; k++)
		for (int i = 0; i < EACH; i++)
			if (i % 4)
				free(handed[k][i]);
	return arg;
}

static void work_in_threads(void)
{
	pthread_t threads[THREADS], last;

	for (int k = 0; k < THREADS; k++)
		pthread_create(&threads[k], NULL, make_some, handed[k]);
	for (int k = 0; k < THREADS; k++)
		pthread_join(threads[k], NULL);
	pthread_create(&last, NULL, free_most, NULL);
	pthread_join(last, NULL);
	printf("threaded %d %d %d %d\n", THREADS * EACH, THREADS * EACH * 300,
	       THREADS * EACH / 4, THREADS * EACH / 4 * 300);
}

int main(int argc, char **argv)
{
	size_t first = 40000, steps = 0;

	(void)argv;
	for (int k = 0; k < 5; k++)
		work(k);
	if (argc == 1)
		return 0;
	work(5);
	work(6);
	for (size_t i = 1; i <= STEPS; i++)
		steps += i;
	resize("grown", grown, 200, first,
	       first * (STEPS + 1) + steps * (first * (TIMES - 1) / STEPS),
	       first * TIMES);
	resize("shrunk", shrunk, 400, first, first * (STEPS + 1) - steps * (first / 100),
	       first - STEPS * first / 100);
	work_in_threads();
	return 0;
}
