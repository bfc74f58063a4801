/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alone: a program with one thread that takes the loader's locks all the time, until its
 * standard input ends; then it makes threads.
 *
 *   alone walk        the list of modules, over and over
 *   alone open PATH   a library, opened and closed
 *
 * 0; 1: a library could not be opened; 2: a thread could not be made.
 */
#include <dlfcn.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define TURNS	64 /* between two looks at standard input */
#define THREADS 4

static volatile int modules;
static pthread_barrier_t all_there;

static int count(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)info;
	(void)size;
	(void)arg;
	modules++;
	return 0;
}

static int turn(const char *path)
{
	void *library;

	if (!path)
		return dl_iterate_phdr(count, NULL);
	library = dlopen(path, RTLD_NOW);
	return library ? dlclose(library) : 1;
}

static void *wait_for_all(void *arg)
{
	pthread_barrier_wait(&all_there);
	pthread_barrier_wait(&all_there);
	return arg;
}

/* Their user is set in every thread, by a signal that libc handles since its first one.
 */
static int make_threads(void)
{
	pthread_t t[THREADS];

	pthread_barrier_init(&all_there, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, wait_for_all, NULL) != 0)
			return 2;
	pthread_barrier_wait(&all_there);
	if (setuid(getuid()) != 0)
		return 2;
	pthread_barrier_wait(&all_there);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	return 0;
}

int main(int argc, char **argv)
{
	struct pollfd end = { .fd = 0, .events = POLLIN };
	const char *path = argc > 2 ? argv[2] : NULL;

	puts("up");
	fflush(stdout);
	while (poll(&end, 1, 0) == 0)
		for (int i = 0; i < TURNS; i++)
			if (turn(path) != 0)
				return 1;
	return make_threads();
}
