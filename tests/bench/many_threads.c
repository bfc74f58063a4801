/* SPDX-License-Identifier: Apache-2.0 */
/*
 * many_threads: N threads, 25 frames deep, that wait for a condition, but for M of them,
 * which compute.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DEPTH	    20
#define STACK_BYTES (256 << 10)

static struct {
	pthread_mutex_t lock;
	pthread_cond_t never, counted;
	int ready;
} shared = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER,
	     PTHREAD_COND_INITIALIZER, 0 };

static __attribute__((noinline)) void be_ready(int computes)
{
	pthread_mutex_lock(&shared.lock);
	shared.ready++;
	pthread_cond_signal(&shared.counted);
	while (!computes)
		pthread_cond_wait(&shared.never, &shared.lock);
	pthread_mutex_unlock(&shared.lock);
	for (volatile unsigned i = 0;; i++)
		;
}

static __attribute__((noinline)) int descend(int depth, int computes)
{
	if (depth == 0)
		be_ready(computes);
	return descend(depth - 1, computes) + 1; /* no tail call */
}

static void *run(void *computes)
{
	return (void *)(long)descend(DEPTH, computes != NULL);
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 512, computing = argc > 2 ? atoi(argv[2]) : 0;
	pthread_attr_t a;
	pthread_t t;
	char c;

	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, STACK_BYTES);
	for (int i = 0; i < n; i++)
		if (pthread_create(&t, &a, run, i < computing ? &shared : NULL) != 0)
			return 1;
	pthread_mutex_lock(&shared.lock);
	while (shared.ready < n)
		pthread_cond_wait(&shared.counted, &shared.lock);
	pthread_mutex_unlock(&shared.lock);
	if (write(1, "up\n", 3) != 3)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
