/* SPDX-License-Identifier: Apache-2.0 */
/* Ways to end a process, each after 100 bytes have been lost. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noipa))

static char *volatile keep;
static char alternate[16384] __attribute__((aligned(16)));

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
	/* A system call leaves these as they are. */
	__asm__ volatile("xor %%edx, %%edx\n\txor %%esi, %%esi\n\txor %%edi, %%edi\n\t"
			 "xor %%r8d, %%r8d\n\txor %%r9d, %%r9d\n\txor %%r10d, %%r10d"
			 :
			 :
			 : "rdx", "rsi", "rdi", "r8", "r9", "r10", "cc");
}

static void lose_late(void)
{
	lose();
	scrub();
}

static void free_late(void)
{
	free(keep);
	keep = NULL;
}

/* Handlers run in the reverse order: what the last one loses, and the first one frees. */
static void end_quickly(const char *how)
{
	if (strstr(how, "-late"))
		at_quick_exit(lose_late);
	if (strstr(how, "-many"))
		for (int i = 0; i < 40; i++) /* more than have room in libc's own list */
			at_quick_exit(scrub);
	at_quick_exit(free_late);
	quick_exit(7);
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

static int lose_and_return(void *arg)
{
	(void)arg;
	lose();
	scrub();
	return 3;
}

static pid_t fork_by(const char *how)
{
	struct clone_args args = { .exit_signal = SIGCHLD };
	pid_t pid = -1;

	if (strcmp(how, "fork-syscall") == 0)
		return (pid_t)syscall(SYS_fork);
	if (strcmp(how, "fork-clone-syscall") == 0)
		return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (strcmp(how, "fork-clone3") == 0) /* which filters may not know */
		pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	return pid < 0 ? fork() : pid;
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
	if (strcmp(how, "fork-clone") == 0) {
		pid = clone(lose_and_return, alternate + sizeof(alternate), SIGCHLD,
			    NULL);
		return wait_for(pid);
	}
	pid = fork_by(how);
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

/* SIGXFSZ, where no report can be written either. */
static int exceed_limit(void)
{
	const struct rlimit none = { 0, 0 };
	FILE *f = tmpfile();

	setrlimit(RLIMIT_FSIZE, &none);
	return f && write(fileno(f), "x", 1) == 1 ? 1 : 2;
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

/* As soon as somebody writes to standard error, a pipe. */
static void *crash(void *arg)
{
	int before, now;

	ioctl(2, FIONREAD, &before);
	pthread_barrier_wait(arg);
	do
		ioctl(2, FIONREAD, &now);
	while (now <= before);
	*(volatile int *)8 = 1;
	return arg;
}

/* With a handler that ends the process otherwise; beside a thread that could take the
 * signal. */
static int end_late(const char *how)
{
	static pthread_barrier_t ready_to_crash;
	pthread_t t;

	if (strstr(how, "handled")) {
		signal(SIGTERM, leave);
		signal(SIGINT, leave);
		signal(SIGHUP, leave);
	}
	if (strstr(how, "thread"))
		pthread_create(&t, NULL, stay, NULL);
	if (strstr(how, "crash")) {
		pthread_barrier_init(&ready_to_crash, NULL, 2);
		pthread_create(&t, NULL, crash, &ready_to_crash);
		pthread_barrier_wait(&ready_to_crash);
	}
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
	if (strncmp(how, "quick_exit", 10) == 0)
		end_quickly(how);
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
	if (strcmp(how, "file-limit") == 0)
		return exceed_limit();
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
