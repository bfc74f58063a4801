/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork_stdio: forks beside threads that hold stdio's locks in every order that libc
 * allows: getline() allocates with a stream locked, fflush(NULL) waits for streams with
 * the list of all of them locked, and fork() takes that list.
 *
 * Usage: fork_stdio FORKS
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FORKERS 4
#define READERS 6
#define LINE	60000

static int forks, done; /* atomic */

static void *fork_often(void *arg)
{
	while (__atomic_sub_fetch(&forks, 1, __ATOMIC_RELAXED) >= 0) {
		int status = 0;
		pid_t pid = fork();

		if (pid == 0) {
			char *p = malloc(LINE);
			FILE *f = fopen("/dev/null", "w");

			if (!p || !f || fputs("child", f) < 0 || fclose(f) != 0)
				_exit(3);
			free(p);
			_exit(17);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
		    WEXITSTATUS(status) != 17) {
			fprintf(stderr, "fork: status %#x\n", status);
			_exit(1);
		}
	}
	return arg;
}

/* Neither stdio's locks nor the list's are fair. */
static void let_others(void)
{
	const struct timespec pause = { .tv_nsec = 100000 };

	nanosleep(&pause, NULL);
}

static void *read_lines(void *arg)
{
	FILE *f = tmpfile();

	if (!f)
		_exit(2);
	for (int i = 0; i < LINE; i++)
		fputc('x', f);
	fputc('\n', f);
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		char *line = NULL;
		size_t room = 0;

		rewind(f);
		if (getline(&line, &room, f) != LINE + 1)
			_exit(2);
		free(line);
		let_others();
	}
	fclose(f);
	return arg;
}

static void *flush_all(void *arg)
{
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		fflush(NULL);
		let_others();
	}
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t forkers[FORKERS], readers[READERS], flusher;

	forks = argc > 1 ? atoi(argv[1]) : 200;
	pthread_create(&flusher, NULL, flush_all, NULL);
	for (int i = 0; i < READERS; i++)
		pthread_create(&readers[i], NULL, read_lines, NULL);
	for (int i = 0; i < FORKERS; i++)
		pthread_create(&forkers[i], NULL, fork_often, NULL);
	for (int i = 0; i < FORKERS; i++)
		pthread_join(forkers[i], NULL);
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	pthread_join(flusher, NULL);
	return 0;
}
