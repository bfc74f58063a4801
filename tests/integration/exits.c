/* SPDX-License-Identifier: Apache-2.0 */
/* Ways to end a process, each after 100 bytes have been lost. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noipa))

static char *volatile keep;
static char alternate[8192];

NOINLINE static void lose(void)
{
	char *volatile p = malloc(100);

	p[0] = 1;
	p = NULL;
}

NOINLINE static void scrub(void)
{
	volatile char b[4096];

	for (size_t i = 0; i < sizeof(b); i++)
		b[i] = 0;
}

static void leave(int sig)
{
	_exit(sig == SIGTERM ? 5 : 6);
}

static void *stay(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* As of one process that is told by its parent and as one of its group. */
static int by_two_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	kill(getpid(), SIGTERM);
	pthread_kill(pthread_self(), SIGTERM); /* a queue of its own */
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	return 99;
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static int spin(void)
{
	void *p[300];

	ready();
	for (;;) {
		for (int i = 0; i < 300; i++)
			p[i] = malloc(16 + (size_t)i * 50);
		for (int i = 0; i < 300; i++)
			free(p[i]);
	}
	return 0;
}

static int wait_for(pid_t pid)
{
	int status = 0;

	waitpid(pid, &status, 0);
	printf("child %d\n",
	       WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	fflush(stdout);
	return 0;
}

static int children(const char *how)
{
	pthread_t t;
	pid_t pid;

	if (strcmp(how, "vfork-exit") == 0) {
		pid = vfork();
		if (pid == 0)
			_exit(3);
		return wait_for(pid);
	}
	if (strcmp(how, "vfork-exec") == 0) {
		pid = vfork();
		if (pid == 0) {
			execl("/bin/false", "false", (char *)NULL);
			_exit(9);
		}
		return wait_for(pid);
	}
	if (strncmp(how, "thread-", 7) == 0) {
		pthread_create(&t, NULL, stay, NULL);
		how += 7;
	}
	pid = fork();
	if (pid == 0) {
		lose();
		scrub();
		if (strcmp(how, "fork-raise") == 0)
			raise(SIGTERM);
		if (strcmp(how, "fork-exec") == 0)
			execl("/bin/false", "false", (char *)NULL);
		_exit(3);
	}
	return wait_for(pid);
}

/* Its parent ends at once; the pipe that is its standard output goes with it. */
static int become_daemon(void)
{
	lose();
	scrub();
	if (daemon(0, 1) != 0)
		return 1;
	lose();
	scrub();
	puts("daemon");
	fflush(stdout);
	close(2);
	return 0;
}

/* Loses twice as much as the command, and when that has ended. */
static int leave_grandchild(void)
{
	const pid_t command = getpid();

	if (fork() > 0)
		_exit(0);
	if (fork() > 0)
		_exit(0);
	while (kill(command, 0) == 0)
		usleep(1000);
	lose();
	scrub();
	return 0;
}

static int restored(void)
{
	struct sigaction act;
	int ok = signal(SIGTERM, leave) == SIG_DFL;

	ok &= sigaction(SIGTERM, NULL, &act) == 0 && act.sa_handler == leave;
	ok &= signal(SIGTERM, SIG_DFL) == leave;
	ok &= sigaction(SIGTERM, NULL, &act) == 0 && act.sa_handler == SIG_DFL;
	ok &= sigaction(SIGINT, &act, NULL) == 0 && signal(SIGINT, SIG_IGN) == SIG_DFL;
	puts(ok ? "default" : "changed");
	fflush(stdout);
	raise(SIGTERM);
	return 1;
}

static int by_signal(const char *how)
{
	struct sigaction act = { .sa_handler = leave };
	stack_t ss = { .ss_sp = alternate, .ss_size = sizeof(alternate) };

	if (strcmp(how, "handler-exit") == 0) {
		signal(SIGTERM, leave);
		raise(SIGTERM);
	}
	if (strcmp(how, "alternate") == 0) {
		sigaltstack(&ss, NULL);
		raise(SIGTERM);
	}
	if (strcmp(how, "restored") == 0)
		return restored();
	if (strcmp(how, "segv") == 0)
		*(volatile int *)8 = 1;
	if (strcmp(how, "ill") == 0)
		__asm__ volatile("ud2");
	if (strcmp(how, "trap") == 0)
		__asm__ volatile("int3");
	if (strcmp(how, "fpe") == 0)
		__asm__ volatile("xor %%ecx, %%ecx\n\tidiv %%ecx" ::
					 : "eax", "ecx", "edx");
	if (strcmp(how, "abort") == 0)
		abort();
	if (strncmp(how, "raise-", 6) == 0)
		raise(atoi(how + 6));
	return 1;
}

/* The signals that come before SIGUSR1. */
static int count_signals(const char *how)
{
	sigset_t set;
	int sig, count = 0;

	if (strstr(how, "apart"))
		setpgid(0, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	ready();
	while (sigwait(&set, &sig) == 0 && sig == SIGTERM) {
		count++;
		puts("came");
		fflush(stdout);
	}
	printf("%d\n", count);
	return 0;
}

/* With a handler that ends the process otherwise; beside a thread that could take the
 * signal. */
static int end_late(const char *how)
{
	pthread_t t;

	if (strstr(how, "handled")) {
		signal(SIGTERM, leave);
		signal(SIGINT, leave);
		signal(SIGHUP, leave);
	}
	if (strstr(how, "thread"))
		pthread_create(&t, NULL, stay, NULL);
	if (strstr(how, "_exit"))
		_exit(7);
	return 7;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	const struct rlimit no_core = { 0, 0 };

	setrlimit(RLIMIT_CORE, &no_core);
	keep = malloc(64);
	lose();
	scrub();
	if (strcmp(how, "dropped") == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
		return 97;
	if (strcmp(how, "_exit") == 0)
		_exit(7);
	if (strcmp(how, "_Exit") == 0)
		_Exit(7);
	if (strcmp(how, "quick_exit") == 0)
		quick_exit(7);
	if (strcmp(how, "exec") == 0)
		execl("/bin/false", "false", (char *)NULL);
	if (strcmp(how, "exec-syscall") == 0)
		syscall(SYS_execve, "/bin/true", (char *[]){ "true", NULL }, environ);
	if (strcmp(how, "exec-static") == 0)
		execv(argv[2], argv + 2);
	if (strcmp(how, "exec-fails") == 0) {
		execl("/nonexistent", "x", (char *)NULL);
		execlp("no-such-program", "x", (char *)NULL);
		execl("/etc", "x", (char *)NULL);
		return 7;
	}
	if (strcmp(how, "syscall") == 0)
		syscall(SYS_exit_group, 7);
	if (strcmp(how, "spin") == 0)
		return spin();
	if (strcmp(how, "wait") == 0) {
		ready();
		stay(NULL);
	}
	if (strcmp(how, "return") == 0 || strcmp(how, "dropped") == 0)
		return 0;
	if (strcmp(how, "twice") == 0)
		return by_two_signals();
	if (strcmp(how, "grandchild") == 0)
		return leave_grandchild();
	if (strcmp(how, "daemon") == 0)
		return become_daemon();
	if (strncmp(how, "late", 4) == 0)
		return end_late(how);
	if (strncmp(how, "count", 5) == 0)
		return count_signals(how);
	if (strstr(how, "fork"))
		return children(how);
	return by_signal(how);
}
