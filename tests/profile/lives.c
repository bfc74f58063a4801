/* SPDX-License-Identifier: Apache-2.0 */
/* Objects whose lives are known: short, longer, unended, ended by another thread. With an
 * argument a child of fork() does the same again and the parent waits. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif

#define HANDED 40

void *kept[50];
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
}

int main(int argc, char **argv)
{
	(void)argv;
	live();
	if (argc > 1) {
		if (fork() == 0) {
			live();
			return 0;
		}
		wait(NULL);
	}
	return 0;
}
