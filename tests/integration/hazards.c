/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/*
 * Places where a preloaded malloc gets hurt: before constructors, in IFUNC resolvers,
 * forks, thread churn, little address space, many exit handlers, closed descriptors.
 *
 * All hazards and their tests (a case of hazards*.c, or a method of a test script):
 *
 *    1 malloc before constructors    early; plugin.c's IFUNC resolver
 *    2 re-entry from our init        test_beside_hooks (hook.c)
 *    3 static TLS                    load_late, test_static_tls_is_small
 *    4 thread exit                   malloc_family: test_threads, test_thread_rounds
 *    5 fork with threads             fork*, forks, test_beside_hooks; stress: forks
 *    6 a child's profiles            test_child_profiles*, test_child_not_followed
 *    7 vfork, posix_spawn, CLONE_VM  spawn, vfork_exec, spawn_threads, clone_vm
 *    8 clone without fork handlers   clone_vm, clone_copy, spawn
 *    9 exec'd children               test_exec_children, test_reexec_files
 *   10 daemons, descriptors          descriptors, daemon
 *   11 chroot, read-only, no /proc   no_proc; test_bad_input
 *   12 seccomp                       sandbox_refuses, sandbox_kills
 *   13 AT_SECURE                     test_secure
 *   14 static programs               test_tool
 *   15 a malloc of the program's own test_tool; test_fixed_address
 *   16 RTLD_DEEPBIND                deepbind, deepbind_on, runpath, dlmopen; programs: php
 *   17 foreign pointers             malloc_family: test_foreign; misuse
 *   18 signal handlers              signals, signal_stack
 *   19 out of memory                hazards_oom.c; little_space, test_ulimit_v
 *   30 huge pages and RSS           many_threads
 *   31 stacks                       hazards_stack.c
 *   32 dlclose                      unload, load_threads, loading
 *   33 environ, argc                environment, no_arguments
 *   34 sbrk                         break
 *   35 large runtimes               test_programs
 *   36 cancellation                 cancel
 *   37 LD_AUDIT, namespaces         test_audit, dlmopen
 */
/* clang-format on */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static int early;

static int real_answer(void)
{
	return 42;
}

static int (*resolve_answer(void))(void)
{
	void *volatile p = malloc(100);

	if (p)
		early++;
	free(p);
	return real_answer;
}
int answer(void) __attribute__((ifunc("resolve_answer")));

static void before_all(void)
{
	void *volatile p = calloc(3, 1000);

	if (p)
		early++;
	free(p);
}
__attribute__((section(".preinit_array"),
	       used)) static void (*preinit)(void) = before_all;

__attribute__((constructor(101))) static void constructor(void)
{
	free(malloc(1 << 18));
	early++;
}

static int test_early(void)
{
	return answer() == 42 && early == 3;
}

static volatile int stop;

static void *churn(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	void *held[64] = { 0 };

	while (!stop) {
		unsigned i = (seed = seed * 1103515245 + 12345) >> 16 & 63;

		free(held[i]);
		held[i] = malloc(seed >> 8 & 4095);
	}
	for (int i = 0; i < 64; i++)
		free(held[i]);
	return NULL;
}

static int test_fork(void)
{
	pthread_t t[4];
	int ok = 1;

	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, churn, (void *)(i + 1));
	for (int i = 0; i < 100; i++) {
		pid_t pid = fork();
		int status = 0;

		if (pid == 0) {
			for (int k = 0; k < 200; k++)
				free(malloc((size_t)k * 37));
			_exit(7);
		}
		waitpid(pid, &status, 0);
		ok &= WIFEXITED(status) && WEXITSTATUS(status) == 7;
	}
	stop = 1;
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	return ok;
}

static void *fork_here(void *arg)
{
	(void)arg;
	for (int i = 0; i < 50; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			free(malloc(100));
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		free(malloc(i * 100));
	}
	return NULL;
}

static int test_forks(void)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, fork_here, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	return 1;
}

static int test_spawn(void)
{
	char *argv[] = { "true", NULL };
	int ok = 1, status;
	pid_t pid;

	for (int i = 0; i < 20; i++) {
		ok &= posix_spawnp(&pid, "true", NULL, NULL, argv, environ) == 0;
		waitpid(pid, &status, 0);
		ok &= status == 0;
		pid = vfork();
		if (pid == 0)
			_exit(3);
		waitpid(pid, &status, 0);
		ok &= WEXITSTATUS(status) == 3;
		pid = (pid_t)syscall(SYS_fork); /* no handlers run */
		if (pid == 0) {
			free(malloc(100));
			_exit(4);
		}
		waitpid(pid, &status, 0);
		ok &= WEXITSTATUS(status) == 4;
	}
	return ok;
}

static void *small(void *arg)
{
	free(malloc(100));
	free(malloc(3000));
	return arg;
}

static long resident_kib(void)
{
	long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f && fscanf(f, "%ld %ld", &size, &resident) != 2)
		resident = -1;
	if (f)
		fclose(f);
	return resident * 4;
}

static int test_many_threads(void)
{
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16384); /* the least there is */
	for (int i = 0; i < 20000; i++) {
		if (pthread_create(&t, &attr, small, NULL) != 0)
			return 0;
		pthread_join(t, NULL);
	}
	return resident_kib() < 150 * 1024;
}

static int test_little_space(void)
{
	struct rlimit lim = { (rlim_t)512 << 20, (rlim_t)512 << 20 };
	void *volatile big;
	size_t got = 0;
	void **list = NULL;

	if (setrlimit(RLIMIT_AS, &lim) != 0)
		return 0;
	big = malloc((size_t)1 << 30);
	if (big != NULL || errno != ENOMEM)
		return 0;
	for (;;) { /* until memory is out, then it is usable again */
		void **p = malloc(100000);

		if (!p)
			break;
		*p = list;
		list = p;
		got += 100000;
	}
	while (list) {
		void **next = *list;

		free(list);
		list = next;
	}
	big = malloc(20 << 20);
	return got > (size_t)100 << 20 && big != NULL;
}

static void nothing(void)
{
}

static int test_exit_handlers(void)
{
	for (int i = 0; i < 200; i++)
		if (atexit(nothing) != 0)
			return 0;
	return 1;
}

static int test_environment(void)
{
	clearenv();
	environ = NULL;
	free(malloc(100));
	return 1;
}

static int test_descriptors(void)
{
	char path[] = "/tmp/seep-data-XXXXXX";
	int fd = mkstemp(path);

	unlink(path);
	syscall(SYS_close_range, 0, 2, 0);
	for (int i = 0; i <= 3; i++) /* now "stderr" is the program's data file */
		dup2(fd, i);
	free(malloc(100));
	if (lseek(fd, 0, SEEK_END) != 0)
		_exit(1);
	_exit(0);
}

static void on_profile(int sig)
{
	(void)sig;
}

static int test_signals(void)
{
	struct itimerval every = { { 0, 500 }, { 0, 500 } };

	signal(SIGPROF, on_profile);
	setitimer(ITIMER_PROF, &every, NULL);
	for (int i = 0; i < 300000; i++)
		free(malloc((size_t)i % 5000));
	return 1;
}

static int test_loading(void)
{
	for (int i = 0; i < 200; i++) {
		void *h = dlopen("libm.so.6", RTLD_NOW | RTLD_DEEPBIND);
		void *z = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);

		if (!h || !z)
			return 0;
		free(malloc(1000));
		dlclose(z);
		dlclose(h);
	}
	return 1;
}

static const struct {
	const char *name;
	int (*run)(void);
} cases[] = {
	{ "early", test_early },
	{ "fork", test_fork },
	{ "forks", test_forks },
	{ "spawn", test_spawn },
	{ "many_threads", test_many_threads },
	{ "little_space", test_little_space },
	{ "exit_handlers", test_exit_handlers },
	{ "environment", test_environment },
	{ "descriptors", test_descriptors },
	{ "signals", test_signals },
	{ "loading", test_loading },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(argv[1], cases[i].name) == 0)
			return cases[i].run() ? 0 : 1;
	return 2;
}
