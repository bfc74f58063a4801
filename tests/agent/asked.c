/* SPDX-License-Identifier: Apache-2.0 */
/*
 * asked: a program for the live agent's tests. Obeys lines of standard input, each
 * answered by a line.
 *
 *   alloc N SIZE   N objects, kept       free        all of them
 *   close          every descriptor but the two of the conversation
 *   chroot DIR     setuid UID            fork        goes on as a child; answers its pid
 *   block          every signal          take N      own handler for signal N
 *   thread         one that sleeps for ever
 *   read FILE      maps it, to be read
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY 1000000

static void *kept[MANY];
static int nkept;

__attribute__((noinline)) static void asked_alloc(int n, size_t size)
{
	while (n-- > 0 && nkept < MANY)
		memset(kept[nkept++] = malloc(size), 1, size);
}

static void ignore(int sig)
{
	(void)sig;
}

static void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static int become_child(void)
{
	int pid = fork(), status;

	if (pid == 0)
		return getpid();
	waitpid(pid, &status, 0);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
}

static int map_to_read(const char *file)
{
	int fd = open(file, O_RDONLY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0)
		return errno;
	return mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED
		       ? errno
		       : close(fd);
}

static int obey(const char *word, long a, long b, const char *text)
{
	pthread_t t;
	sigset_t all;

	if (strcmp(word, "alloc") == 0) {
		asked_alloc((int)a, (size_t)b);
	} else if (strcmp(word, "free") == 0) {
		while (nkept > 0)
			free(kept[--nkept]);
	} else if (strcmp(word, "close") == 0) {
		for (int fd = 2; fd < 1024; fd++)
			close(fd);
	} else if (strcmp(word, "chroot") == 0) {
		return chroot(text) == 0 && chdir("/") == 0 ? 0 : errno;
	} else if (strcmp(word, "setuid") == 0) {
		return setgid((gid_t)a) == 0 && setuid((uid_t)a) == 0 ? 0 : errno;
	} else if (strcmp(word, "fork") == 0) {
		return become_child();
	} else if (strcmp(word, "block") == 0) {
		sigfillset(&all);
		return sigprocmask(SIG_SETMASK, &all, NULL);
	} else if (strcmp(word, "take") == 0) {
		return signal((int)a, ignore) == SIG_ERR;
	} else if (strcmp(word, "thread") == 0) {
		return pthread_create(&t, NULL, sleep_for_ever, NULL);
	} else if (strcmp(word, "read") == 0) {
		return map_to_read(text);
	}
	return 0;
}

/* Lines without stdio, which would notice neither EINTR nor a closed descriptor. */
int main(void)
{
	char line[256], word[32], text[200], answer[32];

	for (;;) {
		long a = 0, b = 0;
		size_t used = 0;
		ssize_t n;

		while (used < sizeof(line) - 1 && (n = read(0, line + used, 1)) == 1 &&
		       line[used] != '\n')
			used++;
		if (n < 0)
			return 77; /* EINTR */
		if (n == 0)
			return 0;
		line[used] = text[0] = '\0';
		if (sscanf(line, "%31s %ld %ld", word, &a, &b) < 2)
			sscanf(line, "%31s %199s", word, text);
		snprintf(answer, sizeof(answer), "%d\n", obey(word, a, b, text));
		if (write(1, answer, strlen(answer)) < 0)
			return 1;
	}
}
