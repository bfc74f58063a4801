/* SPDX-License-Identifier: Apache-2.0 */
/*
 * special: leak checks under special circumstances: marks of the LSan interface, ptrace
 * refused, no /proc, checks of a running program whose threads are blocked in system
 * calls.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/leak/lose.h"

#define CHECKS 5

void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));
void __lsan_ignore_object(const void *p) __attribute__((weak));
int __lsan_do_recoverable_leak_check(void) __attribute__((weak));
void __lsan_do_leak_check(void) __attribute__((weak));

static void *volatile kept;
static __thread void *volatile kept_in_thread;

static APART void *make_block(size_t size)
{
	char *p = keep_alive(malloc(size));

	memset(p, 0, size);
	return p;
}

/* ---- the LSan interface ---- */

static APART void ignored(void)
{
	void **p = make_block(40);

	p[0] = make_block(50);
	__lsan_ignore_object(p);
	keep_alive(make_block(60)); /* not ignored */
}

static APART void ignored_many(void)
{
	for (int i = 0; i < 70000; i++)
		__lsan_ignore_object(make_block(24));
	__lsan_ignore_object((char *)make_block(300000) + 200000);
	__lsan_ignore_object(&kept); /* is none */
}

/* Other objects in the places of such. */
static APART void ignored_freed(void)
{
	enum { N = 200 };
	void *volatile list[N];

	for (int i = 0; i < N; i++) {
		list[i] = make_block(100);
		__lsan_ignore_object(list[i]);
	}
	for (int i = 0; i < N; i++) {
		free(list[i]);
		list[i] = NULL;
	}
	for (int i = 0; i < N; i++)
		keep_alive(make_block(100));
}

static APART void disabled(void)
{
	__lsan_disable();
	keep_alive(make_block(40));
	__lsan_enable();
	keep_alive(make_block(60));
}

/* The third of three from one stack, beside the first two in their span. */
static APART void disabled_known(void)
{
	static void *volatile places[3];

	for (volatile int i = 0; i < 3; i++) { /* volatile: one call, not three */
		if (i == 2)
			__lsan_disable();
		places[i] = make_block(40);
	}
	__lsan_enable();
	places[2] = NULL;
}

/* The same loss is found by each check of a running program. */
static APART void lose_one(void)
{
	keep_alive(make_block(60));
}

static APART void recoverable(void)
{
	lose_one();
	scrub();
	if (__lsan_do_recoverable_leak_check() != 1 ||
	    __lsan_do_recoverable_leak_check() != 1)
		exit(99);
}

/* A check that finds something is the last thing. */
static APART void fatal_check(void)
{
	lose_one();
	scrub();
	__lsan_do_leak_check();
	exit(99);
}

/* One that finds nothing is the last check. */
static APART void final_check(void)
{
	__lsan_do_leak_check();
	lose_one();
	scrub();
	__lsan_do_leak_check();
}

/* ---- LSan's functions that a program defines; not exported ---- */

static const char *volatile own_suppressions;
static const char *volatile own_options;
static volatile int turned_off;

const char *__lsan_default_options(void);
const char *__lsan_default_suppressions(void);
int __lsan_is_turned_off(void);

__attribute__((visibility("hidden"))) const char *__lsan_default_suppressions(void)
{
	return own_suppressions;
}

__attribute__((visibility("hidden"))) const char *__lsan_default_options(void)
{
	return own_options;
}

__attribute__((visibility("hidden"))) int __lsan_is_turned_off(void)
{
	return turned_off;
}

static APART void default_suppressions(void)
{
	own_suppressions = "# what this program knows of\nleak:^lose_one$\n";
	lose_one();
	keep_alive(make_block(70));
}

static APART void default_exitcode(void)
{
	own_options = "verbosity=0:max_leaks=1,exitcode='55' report_objects=1:nonsense";
	lose_one();
	keep_alive(make_block(70));
}

static APART void default_off(void)
{
	own_options = "exitcode=55:detect_leaks=false";
	lose_one();
}

static APART void default_file(void)
{
	static const char known[] = "leak:^lose_one$\n";
	static char options[64];
	int fd = memfd_create("known", 0);

	if (write(fd, known, sizeof(known) - 1) < 0)
		exit(99);
	snprintf(options, sizeof(options), "suppressions=\"/proc/self/fd/%d\"", fd);
	own_options = options;
	lose_one();
}

static APART void turned_off_late(void)
{
	lose_one();
	turned_off = 1;
}

/* Said to be lost, and then freed after all: its address was kept in disguise. */
static APART void retracted(void)
{
	static volatile uintptr_t disguised;

	disguised = ~(uintptr_t)make_block(90);
	lose_one();
	scrub();
	if (__lsan_do_recoverable_leak_check() != 1)
		exit(99);
	free((void *)~disguised);
	lose_one();
	scrub();
}

/* ---- ptrace refused: threads are stopped by signal ---- */

static void filter(int nr, unsigned action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		exit(77);
}

static uint32_t spinning;

static APART uintptr_t make_hidden(void)
{
	return ~(uintptr_t)make_block(128);
}

static void *spins(void *arg)
{
	uintptr_t hidden = make_hidden();

	scrub();
	__asm__ volatile("mov %[p], %%r15\n\tnot %%r15\n\txor %%eax, %%eax\n\t"
			 "movl $1, %[flag]\n"
			 "1:\tpause\n\tjmp 1b"
			 : [flag] "=m"(spinning)
			 : [p] "D"(hidden)
			 : "rax", "r15", "memory");
	return arg;
}

static void *spins_masked(void *arg)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	return spins(arg);
}

/* Not even the C library's own signals. */
static void *spins_deaf(void *arg)
{
	uint64_t everything = UINT64_MAX;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &everything, NULL, sizeof(everything));
	return spins(arg);
}

static void start_spinner(void *(*routine)(void *))
{
	pthread_t t;

	if (pthread_create(&t, NULL, routine, NULL) != 0)
		exit(99);
	while (!__atomic_load_n(&spinning, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void no_ptrace(void)
{
	filter(SYS_ptrace, SECCOMP_RET_ERRNO | EPERM);
	start_spinner(spins);
	lose_one();
}

/* A filter that kills whoever asks. */
static void fatal_ptrace(void)
{
	filter(SYS_ptrace, SECCOMP_RET_KILL_PROCESS);
	start_spinner(spins);
	lose_one();
}

static void no_ptrace_masked(void)
{
	filter(SYS_ptrace, SECCOMP_RET_ERRNO | EPERM);
	start_spinner(spins_masked);
	lose_one();
}

static void no_ptrace_deaf(void)
{
	filter(SYS_ptrace, SECCOMP_RET_ERRNO | EPERM);
	start_spinner(spins_deaf);
	lose_one();
}

static void *waits_for_end(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void cancel_one(void)
{
	void *result;
	pthread_t t;

	if (pthread_create(&t, NULL, waits_for_end, NULL) != 0 ||
	    pthread_cancel(t) != 0 || pthread_join(t, &result) != 0 ||
	    result != PTHREAD_CANCELED)
		exit(99);
}

/* Threads are stopped by the signal that cancels threads: it still does. */
static void no_ptrace_cancel(void)
{
	filter(SYS_ptrace, SECCOMP_RET_ERRNO | EPERM);
	start_spinner(spins);
	for (int i = 0; i < 3; i++) {
		if (__lsan_do_recoverable_leak_check() != 0)
			exit(98);
		cancel_one();
	}
	lose_one();
}

/* ---- no /proc ---- */

static void enter_empty_root(void)
{
	char dir[] = "/tmp/seep-root-XXXXXX";

	if (!mkdtemp(dir) || chdir(dir) != 0 || rmdir(dir) != 0 || chroot(".") != 0)
		exit(77);
}

static void no_proc_clean(void)
{
	enter_empty_root();
	kept = make_block(70);
	kept_in_thread = make_block(80);
}

static void no_proc_thread(void)
{
	enter_empty_root();
	start_spinner(spins);
}

/* ---- a running program: nobody notices ---- */

static struct {
	int pipe[2], sockets[2], semaphore;
	uint32_t waiting, failed;
	pid_t tid;
} calls;

/* Each thread makes one blocking call that has to end as if nothing had happened. */
static long in_epoll(void)
{
	struct epoll_event e;

	return epoll_wait(epoll_create1(0), &e, 1, 600) == 0;
}

static long in_receive(void)
{
	struct timeval t = { 0, 600000 };
	char c;

	setsockopt(calls.sockets[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	return recv(calls.sockets[0], &c, 1, 0) == -1 && errno == EAGAIN;
}

static long in_semaphore(void)
{
	struct timespec t = { 0, 600000000 };
	struct sembuf op = { 0, -1, 0 };

	return semtimedop(calls.semaphore, &op, 1, &t) == -1 && errno == EAGAIN;
}

static long in_sigwait(void)
{
	struct timespec t = { 0, 600000000 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return sigtimedwait(&set, NULL, &t) == -1 && errno == EAGAIN;
}

static long in_sleep(void)
{
	struct timespec t = { 0, 600000000 };

	return nanosleep(&t, NULL) == 0;
}

static long in_read(void)
{
	char c;

	return read(calls.pipe[0], &c, 1) == 1;
}

static void *runs_call(void *arg)
{
	long (*call)(void) = *(long (**)(void))arg;

	__atomic_add_fetch(&calls.waiting, 1, __ATOMIC_RELEASE);
	if (!call())
		__atomic_add_fetch(&calls.failed, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void unnoticed(void)
{
	static long (*all[])(void) = { in_epoll,   in_receive, in_semaphore,
				       in_sigwait, in_sleep,   in_read };
	enum { N = sizeof(all) / sizeof(all[0]) };
	pthread_t t[N];

	calls.semaphore = semget(IPC_PRIVATE, 1, 0600);
	if (pipe(calls.pipe) != 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, calls.sockets) != 0)
		exit(99);
	for (int i = 0; i < N; i++)
		if (pthread_create(&t[i], NULL, runs_call, &all[i]) != 0)
			exit(99);
	while (__atomic_load_n(&calls.waiting, __ATOMIC_ACQUIRE) < N)
		sched_yield();
	for (int i = 0; i < CHECKS; i++)
		if (__lsan_do_recoverable_leak_check() != 0)
			exit(98);
	if (write(calls.pipe[1], "", 1) != 1)
		exit(99);
	for (int i = 0; i < N; i++)
		pthread_join(t[i], NULL);
	semctl(calls.semaphore, 0, IPC_RMID);
	if (calls.failed)
		exit(96);
}

/*
 * A signal of the program's own still ends a call, also one that arrives while the thread
 * is held. SIGUSR1 is let in by epoll_pwait only, and each round has just one, sent by
 * another process at any moment of a check.
 */
#define SIGNALS 400

static void on_signal(int sig)
{
	(void)sig;
}

static void *waits_for_signals(void *arg)
{
	struct epoll_event e;
	sigset_t none;
	int epoll = epoll_create1(0);

	sigemptyset(&none);
	calls.tid = (pid_t)syscall(SYS_gettid);
	__atomic_store_n(&calls.waiting, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < SIGNALS; i++) {
		if (epoll_pwait(epoll, &e, 1, -1, &none) != -1 || errno != EINTR)
			__atomic_add_fetch(&calls.failed, 1, __ATOMIC_RELAXED);
		if (write(calls.sockets[1], "", 1) != 1) /* the next, please */
			exit(99);
	}
	__atomic_store_n(&spinning, 1, __ATOMIC_RELEASE);
	return arg;
}

static void send_signals(pid_t program)
{
	volatile unsigned spin;
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned i = 0; i < SIGNALS; i++) {
		for (spin = i * 7919 % 60000; spin > 0; spin--)
			;
		syscall(SYS_tgkill, program, calls.tid, SIGUSR1);
		if (read(calls.sockets[0], &c, 1) != 1)
			break;
	}
	syscall(SYS_exit_group, 0); /* without a report of its own */
}

static void interrupted(void)
{
	struct sigaction act = { .sa_handler = on_signal };
	pid_t program = getpid();
	sigset_t usr1;
	pthread_t t;

	alarm(600); /* a lost signal would be waited for without end */
	sigaction(SIGUSR1, &act, NULL);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, calls.sockets) != 0 ||
	    pthread_create(&t, NULL, waits_for_signals, NULL) != 0)
		exit(99);
	while (!__atomic_load_n(&calls.waiting, __ATOMIC_ACQUIRE))
		sched_yield();
	if (fork() == 0)
		send_signals(program);
	while (!__atomic_load_n(&spinning, __ATOMIC_ACQUIRE))
		if (__lsan_do_recoverable_leak_check() != 0)
			exit(98);
	pthread_join(t, NULL);
	if (calls.failed)
		exit(96);
}

/* Moves the only pointer to a block from place to place, through registers. */
static void *moves_pointer(void *arg)
{
	void *volatile places[64] = { NULL };
	unsigned at = 0;

	places[0] = make_block(128);
	__atomic_add_fetch(&calls.waiting, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&spinning, __ATOMIC_ACQUIRE)) {
		void *p = places[at];

		places[at] = NULL;
		__asm__ volatile("pause\n\tpause" : "+r"(p));
		at = (at + 7) % 64;
		places[at] = p;
	}
	free(places[at]);
	return arg;
}

static void *allocates(void *arg)
{
	void *volatile held[32] = { NULL };

	__atomic_add_fetch(&calls.waiting, 1, __ATOMIC_RELEASE);
	for (unsigned i = 0; !__atomic_load_n(&spinning, __ATOMIC_ACQUIRE); i++) {
		free(held[i % 32]);
		held[i % 32] = malloc(i * 37 % 3000 + (i % 101 == 0 ? 40000 : 0));
	}
	for (int i = 0; i < 32; i++)
		free(held[i]);
	return arg;
}

static void busy(void)
{
	enum { N = 4, ROUNDS = 40 };
	pthread_t t[N];

	for (int i = 0; i < N; i++)
		if (pthread_create(&t[i], NULL, i % 2 ? moves_pointer : allocates,
				   NULL) != 0)
			exit(99);
	while (__atomic_load_n(&calls.waiting, __ATOMIC_ACQUIRE) < N)
		sched_yield();
	for (int i = 0; i < ROUNDS; i++)
		if (__lsan_do_recoverable_leak_check() != 0)
			exit(98);
	__atomic_store_n(&spinning, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < N; i++)
		pthread_join(t[i], NULL);
}

static void busy_no_ptrace(void)
{
	filter(SYS_ptrace, SECCOMP_RET_ERRNO | EPERM);
	busy();
}

/* The program's own children and signals are its own. */
static uint32_t child_signals;

static void on_child(int sig)
{
	(void)sig;
	__atomic_add_fetch(&child_signals, 1, __ATOMIC_RELAXED);
}

static void no_children(void)
{
	signal(SIGCHLD, on_child);
	start_spinner(spins);
	if (__lsan_do_recoverable_leak_check() != 0)
		exit(98);
	if (__atomic_load_n(&child_signals, __ATOMIC_RELAXED) != 0)
		exit(95);
	if (prctl(PR_GET_DUMPABLE) != 1)
		exit(94);
}

static void not_dumpable(void)
{
	prctl(PR_SET_DUMPABLE, 0);
	start_spinner(spins);
	if (__lsan_do_recoverable_leak_check() != 0)
		exit(98);
	if (prctl(PR_GET_DUMPABLE) != 0)
		exit(94);
	prctl(PR_SET_DUMPABLE, 1);
}

/* A status of its own that a clean check leaves alone. */
static void status_three(void)
{
	kept = make_block(70);
	exit(3);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "ignored", ignored },
	{ "ignored-many", ignored_many },
	{ "ignored-freed", ignored_freed },
	{ "disabled", disabled },
	{ "disabled-known", disabled_known },
	{ "recoverable", recoverable },
	{ "retracted", retracted },
	{ "fatal-check", fatal_check },
	{ "final-check", final_check },
	{ "default-suppressions", default_suppressions },
	{ "default-exitcode", default_exitcode },
	{ "default-off", default_off },
	{ "default-file", default_file },
	{ "turned-off", turned_off_late },
	{ "no-ptrace", no_ptrace },
	{ "fatal-ptrace", fatal_ptrace },
	{ "no-ptrace-masked", no_ptrace_masked },
	{ "no-ptrace-deaf", no_ptrace_deaf },
	{ "no-ptrace-cancel", no_ptrace_cancel },
	{ "interrupted", interrupted },
	{ "no-proc-clean", no_proc_clean },
	{ "no-proc-thread", no_proc_thread },
	{ "unnoticed", unnoticed },
	{ "busy", busy },
	{ "busy-no-ptrace", busy_no_ptrace },
	{ "no-children", no_children },
	{ "not-dumpable", not_dumpable },
	{ "status-three", status_three },
	{ "lose-one", lose_one },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (argc > 1 && strcmp(argv[1], cases[i].name) == 0) {
			if (!__lsan_disable)
				return 99;
			cases[i].run();
			scrub();
			return 0;
		}
	fprintf(stderr, "special: no such case\n");
	return 97;
}
