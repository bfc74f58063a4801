/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps more and more memory and says how much, until somebody kills it. */
#include <pthread.h>
#include <sched.h>
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

static void *await_end_of_input(void *arg)
{
	char c;

	while (read(0, &c, 1) > 0)
		;
	return arg;
}

/* Of the main thread. */
static char state_of(pid_t pid)
{
	char path[32], state = '\0';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%*d %*s %c", &state) != 1)
		abort();
	fclose(f);
	return state;
}

/* A process whose main thread has ended lives on without its parent. */
static int leave_threads(void)
{
	pid_t pid = fork();
	pthread_t t;

	if (pid == 0) {
		close(2); /* others wait for its end */
		pthread_create(&t, NULL, await_end_of_input, NULL);
		pthread_exit(NULL);
	}
	while (state_of(pid) != 'Z')
		sched_yield();
	return 0;
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
	if (argc > 1 && strcmp(argv[1], "leave") == 0)
		return leave_threads();
	pthread_create(&t, NULL, churn_for_ever, NULL);
	grow();
	return 0;
}
