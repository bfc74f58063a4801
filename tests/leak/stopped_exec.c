/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stopped_exec N: N children, each of which execs while another thread of it checks for
 * leaks over and over, and ptrace is refused: threads are stopped by a signal, and an
 * exec must not carry one over into the new program, nor leave a helper of the check
 * behind. Status 1: a child did not end well; SIGALRM: a helper did not end.
 */
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/leak/refuse.h"

#define HELPERS_END 600 /* seconds at most, many times what it takes */

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static unsigned checks;

static void *check(void *arg)
{
	for (;;) {
		__lsan_do_recoverable_leak_check();
		__atomic_fetch_add(&checks, 1, __ATOMIC_RELEASE);
	}
	return arg;
}

static void child(const char *self, int n)
{
	pthread_t t;

	if (pthread_create(&t, NULL, check, NULL) != 0)
		_exit(77);
	while (__atomic_load_n(&checks, __ATOMIC_ACQUIRE) < 2)
		sched_yield();
	for (volatile int spin = n * 997 % 100000; spin > 0;) /* any moment of a check */
		spin = spin - 1;
	/* Some that fail come first. */
	for (int i = 0; i < n % 3; i++)
		execl("/dev/null", "null", (char *)NULL);
	execl(self, self, (char *)NULL);
	_exit(76);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 0, bad = 0;

	if (rounds == 0)
		return 0;
	if (!__lsan_do_recoverable_leak_check)
		return 2;
	refuse_call(SYS_ptrace, 0, UINT32_MAX);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	for (int i = 0; i < rounds; i++) {
		int status = 0;
		pid_t pid = fork();

		if (pid == 0)
			child(argv[0], i);
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			return 2;
		if (status == 0)
			continue;
		bad++;
		fprintf(stderr, "child %d: signal %d, status %d\n", i, WTERMSIG(status),
			WEXITSTATUS(status));
	}
	alarm(HELPERS_END);
	while (waitpid(-1, NULL, __WALL) > 0) {
	}
	return bad > 0;
}
