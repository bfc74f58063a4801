/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandboxed: a program that installs a filter which ends it at one system call, and then
 * allocates: sandboxed NUMBER WAY LEAKS [THREADS]. WAY: prctl, seccomp, odd (the filter
 * finds the number by its memory and arithmetic), before (it is there when the program
 * starts: it execs itself), refuse (the call fails with EPERM), error (likewise, and
 * before), thread (for one of two threads). So many THREADS come and go, each with a
 * chain of objects that only its stack holds for a while. 77: no filters here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(field) \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))

struct node {
	struct node *next;
	char rest[56];
};

static struct node *volatile kept;
static pthread_barrier_t all_there;

static void install(struct sock_filter *code, size_t n, int by_prctl)
{
	struct sock_fprog program = { (unsigned short)n, code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if ((by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)
		      : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) != 0)
		_exit(77);
}

static void plain(unsigned nr, int by_prctl, unsigned result)
{
	struct sock_filter code[] = {
		LOAD(nr),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, result),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	install(code, sizeof(code) / sizeof(*code), by_prctl);
}

/* The same, the long way round. */
static void odd(unsigned nr)
{
	struct sock_filter code[] = {
		LOAD(arch),
		BPF_STMT(BPF_ST, 3),
		LOAD(nr),
		BPF_STMT(BPF_MISC | BPF_TAX, 0),
		BPF_STMT(BPF_LDX | BPF_IMM, 7),
		BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
		BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 1),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (nr + 7) * 2 + 1, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (nr + 7) * 2 - 1, 0, 2),
		BPF_STMT(BPF_LD | BPF_MEM, 3),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	install(code, sizeof(code) / sizeof(*code), 1);
}

static __attribute__((noinline)) void lose(void)
{
	char *volatile p = malloc(300);

	p[0] = 1;
	p = NULL;
}

static void *sleeps(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void restrict_oneself(unsigned nr, char **argv)
{
	static char none[] = "none";
	pthread_t other;

	if (strcmp(argv[2], "odd") == 0) {
		odd(nr);
		return;
	}
	if (strcmp(argv[2], "thread") == 0)
		pthread_create(&other, NULL, sleeps, NULL);
	plain(nr, strcmp(argv[2], "prctl") == 0,
	      strcmp(argv[2], "error") == 0 || strcmp(argv[2], "refuse") == 0
		      ? SECCOMP_RET_ERRNO | EPERM
		      : SECCOMP_RET_KILL_PROCESS);
	if (strcmp(argv[2], "before") == 0 || strcmp(argv[2], "error") == 0) {
		argv[2] = none;
		execv(argv[0], argv);
		_exit(99);
	}
}

/* Large objects that are filled: what comes next may be given huge pages. */
static void fill_large(void)
{
	static char *volatile large[40];

	for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++) {
		large[i] = malloc(1 << 20);
		memset(large[i], 1, 1 << 20);
	}
}

static struct node *push(struct node *list)
{
	struct node *n = malloc(sizeof(*n));

	n->next = list;
	return n;
}

/* The last one holds its objects while the process ends. */
static void *chains(void *last)
{
	struct node *volatile list = NULL;

	for (int i = 0; i < 1000; i++)
		list = push(list);
	pthread_barrier_wait(&all_there);
	while (last)
		pause();
	while (list) {
		struct node *next = list->next;

		free(list);
		list = next;
	}
	return NULL;
}

static void run_threads(int n)
{
	static int last;
	pthread_t t[8];

	if (n == 0)
		return;
	pthread_barrier_init(&all_there, NULL, (unsigned)n + 1);
	for (int i = 0; i < n; i++)
		pthread_create(&t[i], NULL, chains, i == n - 1 ? &last : NULL);
	pthread_barrier_wait(&all_there);
	for (int i = 0; i < n - 1; i++)
		pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
	unsigned nr = (unsigned)atoi(argv[1]);

	if (strcmp(argv[2], "none") != 0)
		restrict_oneself(nr, argv);
	if (strcmp(argv[2], "none") == 0 || strcmp(argv[2], "thread") == 0)
		fill_large();
	for (int i = 0; i < 150000; i++) { /* enough for huge pages */
		struct node *n = malloc(sizeof(*n));

		n->next = kept;
		kept = n;
	}
	free(realloc(calloc(1, 3 << 20), 9 << 20));
	run_threads(argc > 4 ? atoi(argv[4]) : 0);
	if (argv[3][0] == '1')
		lose();
	return 0;
}
