/* SPDX-License-Identifier: Apache-2.0 */
/*
 * begins_library: a library that the program needs, so that its constructors run before
 * those of a preloaded one. They allocate, from a thread, too.
 */
#include <pthread.h>
#include <stdlib.h>

void *begins_kept[40];

static void *make_in_thread(void *arg)
{
	begins_kept[30] = malloc(3000);
	return arg;
}

__attribute__((constructor, noinline)) void begins_constructor(void)
{
	pthread_t thread;

	for (int i = 0; i < 10; i++)
		begins_kept[i] = malloc(1000);
	begins_kept[10] = malloc(700000);
	free(begins_kept[10]);
	begins_kept[10] = NULL;
	if (pthread_create(&thread, NULL, make_in_thread, NULL) == 0)
		pthread_join(thread, NULL);
}
