/* SPDX-License-Identifier: Apache-2.0 */
/* Objects whose lives are known: short, longer, unended, ended by another thread, resized
 * in place. With "fork" a child of fork() does the same again and the parent waits; with
 * "kill" as the last argument each process ends by SIGKILL. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif

#define HANDED	40
#define RESIZED 30

void *kept[50], *resized[RESIZED];
static void *handed[HANDED];

NOINLINE void *churn_site(void)
{
	void *p = malloc(100);

	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE void *held_site(void)
{
	void *p = malloc(1000);

	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE void *handed_site(void)
{
	void *p = malloc(64);

	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE void *long_site(size_t size)
{
	void *p = malloc(size);

	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE void *grown_site(void *old)
{
	void *p = realloc(old, 320);

	__asm__ volatile("" : "+r"(p));
	return p;
}

/* Made by one site, and another's from then on. */
static void resize(void)
{
	for (int i = 0; i < 1000; i++)
		free(grown_site(long_site(310)));
	for (int i = 0; i < RESIZED; i++)
		resized[i] = grown_site(long_site(310));
}

/* Until so many milliseconds have passed. */
static void pass(long ms)
{
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec <
	       ms * 1000000);
}

static void *consume(void *arg)
{
	pthread_setname_np(pthread_self(), "consumer-of-all");
	for (int i = 0; i < HANDED; i++)
		free(handed[i]);
	for (int i = 0; i < 10; i++)
		free(churn_site());
	return arg;
}

static void live(void)
{
	void *lasting[4];
	pthread_t t;

	for (int i = 0; i < 1000; i++)
		free(churn_site());
	for (int i = 0; i < 50; i++)
		kept[i] = held_site();
	for (int i = 0; i < HANDED; i++)
		handed[i] = handed_site();
	for (int i = 0; i < 4; i++)
		lasting[i] = long_site(i < 3 ? 3000 : 100000);
	pass(20);
	for (int i = 0; i < 4; i++)
		free(lasting[i]);
	pthread_create(&t, NULL, consume, NULL);
	pthread_join(t, NULL);
	resize();
}

static int end(bool kills)
{
	if (kills)
		raise(SIGKILL);
	return 0;
}

int main(int argc, char **argv)
{
	bool kills = argc > 1 && strcmp(argv[argc - 1], "kill") == 0;

	live();
	if (argc > 1 && strcmp(argv[1], "fork") == 0) {
		if (fork() == 0) {
			live();
			return end(kills);
		}
		for (int i = 0; i < 25; i++) /* the child has it still */
			free(kept[i]);
		wait(NULL);
	}
	return end(kills);
}
