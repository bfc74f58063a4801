/* SPDX-License-Identifier: Apache-2.0 */
/* What libraries with threads do at a fork: the prepare handler takes their lock, and
 * ends their worker and waits for it. Both wait for threads that allocate. */
#include <pthread.h>
#include <stdlib.h>

#include "forker.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t worker;
static int has_worker, has_ended, stop; /* stop: atomic */

void forker_work(void)
{
	void *held[64];

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < 64; i++)
		held[i] = malloc(100 + i * 700);
	for (size_t i = 0; i < 64; i++)
		free(held[i]);
	pthread_mutex_unlock(&lock);
}

static void *work(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE))
		forker_work();
	return malloc(1000);
}

void forker_start(void)
{
	__atomic_store_n(&stop, 0, __ATOMIC_RELEASE);
	has_worker = pthread_create(&worker, NULL, work, NULL) == 0;
}

int forker_has_ended(void)
{
	return has_ended;
}

static void prepare(void)
{
	void *last = NULL;

	has_ended = has_worker;
	if (has_worker) {
		__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
		pthread_join(worker, &last);
		free(last);
		has_worker = 0;
	}
	pthread_mutex_lock(&lock);
}

static void after(void)
{
	free(malloc(100));
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void start(void)
{
	pthread_atfork(prepare, after, after);
}
