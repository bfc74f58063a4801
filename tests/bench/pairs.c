/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that allocate and free at the same stacks as fast as they can: pairs THREADS.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#define PAIRS 1500000
#define RING  64
#define DEPTH 5

static __attribute__((noinline)) void *make(size_t size, int depth)
{
	void *p = depth > 0 ? make(size, depth - 1) : malloc(size);

	__asm__ volatile("" : "+r"(p)); /* no tail call */
	return p;
}

static void *run(void *arg)
{
	void *ring[RING] = { 0 };
	uint32_t random = 1;

	(void)arg;
	for (int i = 0; i < PAIRS; i++) {
		void **at;

		random = random * 1664525u + 1013904223u;
		at = &ring[random >> 26];
		free(*at);
		*at = make(16 + (random >> 24), DEPTH);
	}
	for (int i = 0; i < RING; i++)
		free(ring[i]);
	return NULL;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 1;
	pthread_t threads[16];

	for (int i = 0; i < n && i < 16; i++)
		pthread_create(&threads[i], NULL, run, NULL);
	for (int i = 0; i < n && i < 16; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
