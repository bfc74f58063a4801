/* SPDX-License-Identifier: Apache-2.0 */
/* Loops over malloc and free. "micro NAME N" runs one N times and prints the CPU
 * nanoseconds of one operation; "micro --list" names them. */
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MILLION 1000000

static void *volatile sink;
static uint64_t state = 88172645463325252u;

static inline uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static inline void touch(void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

static __attribute__((noinline)) void pairs(long n, size_t size)
{
	for (long i = 0; i < n; i++) {
		void *p = malloc(size);

		touch(p);
		free(p);
	}
}

static void pair_16(long n)
{
	pairs(n, 16);
}

static void pair_64(long n)
{
	pairs(n, 64);
}

static void pair_1k(long n)
{
	pairs(n, 1024);
}

static void pair_8k(long n)
{
	pairs(n, 8192);
}

/* Four of ten are samples, with the stacks of two places. */
static __attribute__((noinline)) void pair_256k(long n)
{
	pairs(n / 2, 262144);
	pairs(n / 2, 262144);
}

/* Replaces one of nslots blocks at a time, round robin or at random. */
static void ring(long n, unsigned nslots, int random)
{
	static const uint16_t sizes[16] = { 16,	 24,  32,  48,	64,  80,  96,  120,
					    160, 200, 256, 320, 400, 512, 640, 1000 };
	void **slots = calloc(nslots, sizeof(*slots));

	for (long i = 0; i < n; i++) {
		uint64_t r = random ? next() : (uint64_t)i * 0x9e3779b97f4a7c15u;
		unsigned at = random ? (unsigned)((r >> 32) % nslots)
				     : (unsigned)i & (nslots - 1);

		free(slots[at]);
		slots[at] = malloc(sizes[r >> 60]);
		touch(slots[at]);
	}
	for (unsigned i = 0; i < nslots; i++)
		free(slots[i]);
	free(slots);
}

static void ring_64(long n)
{
	ring(n, 64, 0);
}

static void ring_4096(long n)
{
	ring(n, 4096, 1);
}

static void ring_200k(long n)
{
	ring(n, 200000, 1);
}

/* A million blocks of 64 bytes, then all freed: 0 in order, 1 in reverse, 2 at random. */
static void batch(long n, int order)
{
	void **p = malloc(MILLION * sizeof(*p));

	for (long done = 0; done < n; done += MILLION) {
		for (long i = 0; i < MILLION; i++) {
			p[i] = malloc(64);
			*(char *)p[i] = 1;
		}
		for (long i = MILLION - 1; order == 2 && i > 0; i--) {
			long k = (long)(next() % (uint64_t)(i + 1));
			void *t = p[i];

			p[i] = p[k];
			p[k] = t;
		}
		for (long i = 0; i < MILLION; i++)
			free(p[order == 1 ? MILLION - 1 - i : i]);
	}
	free(p);
}

static void batch_order(long n)
{
	batch(n, 0);
}

static void batch_reverse(long n)
{
	batch(n, 1);
}

static void batch_random(long n)
{
	batch(n, 2);
}

/* One thread allocates, another frees. */
#define QUEUE 4096
static void *queue[QUEUE];

static void *consume(void *arg)
{
	long n = (long)(intptr_t)arg;

	for (long i = 0; i < n; i++) {
		void **slot = &queue[i % QUEUE], *p;

		while (!(p = __atomic_load_n(slot, __ATOMIC_ACQUIRE)))
			sched_yield();
		__atomic_store_n(slot, NULL, __ATOMIC_RELEASE);
		free(p);
	}
	return NULL;
}

static void produce(long n, int mixed)
{
	pthread_t t;

	pthread_create(&t, NULL, consume, (void *)(intptr_t)n);
	for (long i = 0; i < n; i++) {
		void **slot = &queue[i % QUEUE];
		void *p = malloc(mixed ? 16 + next() % 1000 : 64);

		while (__atomic_load_n(slot, __ATOMIC_ACQUIRE))
			sched_yield();
		__atomic_store_n(slot, p, __ATOMIC_RELEASE);
	}
	pthread_join(t, NULL);
}

static void handover_64(long n)
{
	produce(n, 0);
}

static void handover_mixed(long n)
{
	produce(n, 1);
}

static void *ring_thread(void *arg)
{
	ring((long)(intptr_t)arg, 4096, 0);
	return NULL;
}

static void two_threads(long n)
{
	pthread_t t;

	pthread_create(&t, NULL, ring_thread, (void *)(intptr_t)(n / 2));
	ring_thread((void *)(intptr_t)(n / 2));
	pthread_join(t, NULL);
}

static void realloc_growth(long n)
{
	for (long i = 0; i < n; i++) {
		char *p = NULL;

		for (size_t size = 16; size <= 1 << 20; size *= 2) {
			p = realloc(p, size);
			p[size - 1] = 1;
		}
		free(p);
	}
}

static void calloc_64(long n)
{
	for (long i = 0; i < n; i++) {
		sink = calloc(1, 64);
		free(sink);
	}
}

/* As a program does that asked for zeroes: it uses them. */
static void calloc_1m(long n)
{
	for (long i = 0; i < n; i++) {
		char *p = calloc(1, 1 << 20);

		for (size_t k = 0; k < 1 << 20; k += 4096)
			p[k] = 1;
		sink = p;
		free(sink);
	}
}

static void large(long n, int touched)
{
	for (long i = 0; i < n; i++) {
		size_t size = ((size_t)256 << 10) + next() % ((size_t)15 << 18);
		char *p = malloc(size);

		for (size_t k = 0; touched && k < size; k += 4096)
			p[k] = 1;
		touch(p);
		free(p);
	}
}

static void large_touched(long n)
{
	large(n, 1);
}

static void large_untouched(long n)
{
	large(n, 0);
}

static void memalign_64(long n)
{
	for (long i = 0; i < n; i++) {
		sink = memalign(64, 200);
		free(sink);
	}
}

static void *two_mallocs(void *arg)
{
	free(malloc(100));
	free(malloc(1000));
	return arg;
}

static void thread_life(long n)
{
	for (long i = 0; i < n; i++) {
		pthread_t t;

		pthread_create(&t, NULL, two_mallocs, NULL);
		pthread_join(t, NULL);
	}
}

static const struct {
	const char *name;
	void (*run)(long n);
	long n; /* about a tenth of a second */
} loops[] = {
	{ "pair_16", pair_16, 20 * MILLION },
	{ "pair_64", pair_64, 20 * MILLION },
	{ "pair_1k", pair_1k, 20 * MILLION },
	{ "pair_8k", pair_8k, 10 * MILLION },
	{ "pair_256k", pair_256k, MILLION },
	{ "ring_64", ring_64, 20 * MILLION },
	{ "ring_4096", ring_4096, 10 * MILLION },
	{ "ring_200k", ring_200k, 3 * MILLION },
	{ "batch_order", batch_order, 3 * MILLION },
	{ "batch_reverse", batch_reverse, 3 * MILLION },
	{ "batch_random", batch_random, 2 * MILLION },
	{ "handover_64", handover_64, 2 * MILLION },
	{ "handover_mixed", handover_mixed, 2 * MILLION },
	{ "two_threads", two_threads, 10 * MILLION },
	{ "realloc_growth", realloc_growth, 3000 },
	{ "calloc_64", calloc_64, 10 * MILLION },
	{ "calloc_1m", calloc_1m, 3000 },
	{ "large_touched", large_touched, 3000 },
	{ "large_untouched", large_untouched, 300000 },
	{ "memalign_64", memalign_64, 10 * MILLION },
	{ "thread_life", thread_life, 4000 },
};
#define NLOOPS (sizeof(loops) / sizeof(loops[0]))

static double cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

int main(int argc, char **argv)
{
	for (size_t i = 0; i < NLOOPS; i++) {
		if (argc > 1 && strcmp(argv[1], "--list") == 0) {
			puts(loops[i].name);
		} else if (argc > 1 && strcmp(argv[1], loops[i].name) == 0) {
			long n = argc > 2 ? atol(argv[2]) : loops[i].n;
			double start = cpu_ns();

			loops[i].run(n);
			printf("%.3f\n", (cpu_ns() - start) / (double)(n ? n : 1));
			return 0;
		}
	}
	return argc > 1 && strcmp(argv[1], "--list") == 0 ? 0 : 2;
}
