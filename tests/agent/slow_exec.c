/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that stands in the middle of an exec: another thread of it is to end first,
 * which a tracer prevents. It is asked meanwhile: we print its number, let it go on for a
 * byte from stdin, and print what it comes to.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static int tids[2], go[2]; /* pipes */

static void *second(void *arg)
{
	const int tid = (int)gettid();
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	if (write(tids[1], &tid, sizeof(tid)) != sizeof(tid))
		_exit(1);
	for (;;)
		pause();
	return arg;
}

static void become_another(const char *self)
{
	pthread_t t;
	char byte;

	if (pthread_create(&t, NULL, second, NULL) != 0 || read(go[0], &byte, 1) != 1)
		_exit(1);
	execl(self, self, "after", (char *)NULL);
	_exit(1);
}

int main(int argc, char **argv)
{
	int status = 0, tid;
	pid_t child;

	if (argc > 1)
		return strcmp(argv[1], "after") == 0 ? 7 : 1;
	if (pipe(tids) != 0 || pipe(go) != 0)
		return 1;
	child = fork();
	if (child == 0)
		become_another(argv[0]);
	if (read(tids[0], &tid, sizeof(tid)) != sizeof(tid) ||
	    ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACEEXIT) != 0 ||
	    write(go[1], "", 1) != 1 || waitpid(tid, &status, __WALL) != tid ||
	    !WIFSTOPPED(status))
		return 1;
	printf("%d\n", (int)child);
	fflush(stdout);
	getchar();
	if (ptrace(PTRACE_CONT, tid, 0, 0) != 0 || waitpid(tid, &status, __WALL) != tid ||
	    waitpid(child, &status, 0) != child)
		return 1;
	printf("%d %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1,
	       WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	return 0;
}
