/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps more and more memory and says how much, until somebody kills it. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noipa))
#define STEP	 50

NOINLINE void *keep_block(size_t size)
{
	void *volatile p = malloc(size);

	return p;
}

NOINLINE static void churn(int n)
{
	for (int i = 0; i < n; i++)
		free(keep_block(16 + (size_t)i * 40));
	__asm__ volatile("");
}

static void *churn_for_ever(void *arg)
{
	for (;;)
		churn(100);
	return arg;
}

NOINLINE static void grow(void)
{
	char line[32];

	for (int n = STEP;; n += STEP) {
		for (int i = 0; i < STEP; i++)
			keep_block(100);
		if (write(1, line, (size_t)snprintf(line, sizeof(line), "%d\n", n)) < 0)
			_exit(1);
		churn(3);
	}
}

NOINLINE static void child_part(int n)
{
	for (int i = 0; i < n; i++)
		keep_block(1000);
	__asm__ volatile("");
}

int main(int argc, char **argv)
{
	pthread_t t;

	if (argc > 1 && strcmp(argv[1], "fork") == 0) {
		child_part(10);
		if (fork() == 0) {
			child_part(20);
			raise(SIGKILL);
		}
		wait(NULL);
		child_part(3);
		return 0;
	}
	pthread_create(&t, NULL, churn_for_ever, NULL);
	grow();
	return 0;
}
