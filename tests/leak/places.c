/* SPDX-License-Identifier: Apache-2.0 */
/*
 * places: the same loss and the same holds in places where it is hard to look: system
 * calls refused as containers and sandboxes do, many threads, blocked signals, privileges
 * given up. Each case loses one block of 60 bytes and keeps others in another thread's
 * register. Status 77: the case needs what is not there.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/leak/lose.h"

#define THREADS	 512
#define BIG_HEAP 1500000 /* nodes of 32 bytes: enough for several markers */

static uint32_t waiting;
static void *volatile kept;

static APART void *make_block(size_t size)
{
	return keep_alive(calloc(1, size));
}

static APART void lose_one(void)
{
	make_block(60);
}

static APART uintptr_t make_hidden(void)
{
	return ~(uintptr_t)make_block(128);
}

/* Blocked in the kernel, the pointer in r14 only. */
static void *holds(void *arg)
{
	static uint32_t word;
	uintptr_t hidden = make_hidden();

	scrub();
	__asm__ volatile("mov %[p], %%r14\n\tnot %%r14\n\t"
			 "mov %[word], %%rdi\n\txor %%esi, %%esi\n\txor %%edx, %%edx\n\t"
			 "xor %%r10d, %%r10d\n\tlock incl %[count]\n"
			 "1:\tmov $202, %%eax\n\tsyscall\n\tjmp 1b"
			 : [count] "+m"(waiting)
			 : [p] "r"(hidden), [word] "r"(&word)
			 : "rax", "rcx", "r11", "rdi", "rsi", "rdx", "r10", "r14",
			   "memory");
	return arg;
}

static void start(int n)
{
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 131072);
	for (int i = 0; i < n; i++)
		if (pthread_create(&t, &attr, holds, NULL) != 0)
			exit(77);
	while (__atomic_load_n(&waiting, __ATOMIC_ACQUIRE) < (uint32_t)n)
		sched_yield();
}

/* The calls of a list that ends with -1 have the action's result. */
static void forbid(const int *calls, unsigned action)
{
	struct sock_filter code[64];
	unsigned n = 0;
	struct sock_fprog program = { 0, code };

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, nr));
	for (; *calls >= 0; calls++) {
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							 (unsigned)*calls, 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = (unsigned short)n;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		exit(77);
}

static void refuse(const int *calls, unsigned error)
{
	forbid(calls, SECCOMP_RET_ERRNO | error);
}

static void plain(void)
{
	start(1);
}

static void many_threads(void)
{
	start(THREADS);
}

/* As a container's default profile does, and an old one that has no ptrace either. */
static void container(void)
{
	static const int none[] = { SYS_clone3, -1 };
	static const int no[] = {
		SYS_userfaultfd, SYS_unshare,	       SYS_setns, SYS_mount,
		SYS_ptrace,	 SYS_process_vm_readv, SYS_kcmp,  SYS_add_key,
		SYS_bpf,	 SYS_perf_event_open,  -1
	};

	refuse(none, ENOSYS);
	refuse(no, EPERM);
	start(1);
}

/* No new thread or process of any kind from now on, in a heap that would like some. */
static void no_clone(void)
{
	static const int no[] = { SYS_clone, SYS_clone3, SYS_fork, SYS_vfork, -1 };
	void **list = NULL;

	for (int i = 0; i < BIG_HEAP; i++) {
		void **node = malloc(32);

		node[0] = list;
		list = node;
	}
	kept = list;
	start(1);
	refuse(no, EPERM);
}

/* Calls that a program with threads and files need not make are its end. */
static void deadly(void)
{
	static const int no[] = { SYS_ptrace,
				  SYS_process_vm_readv,
				  SYS_ioctl,
				  SYS_execve,
				  SYS_fork,
				  SYS_userfaultfd,
				  SYS_unshare,
				  SYS_setns,
				  SYS_kcmp,
				  SYS_bpf,
				  SYS_pidfd_open,
				  SYS_perf_event_open,
				  SYS_set_tid_address,
				  -1 };

	start(3);
	forbid(no, SECCOMP_RET_KILL_PROCESS);
}

static void big_heap(void)
{
	void **list = NULL;

	for (int i = 0; i < BIG_HEAP; i++) {
		void **node = malloc(32);

		node[0] = list;
		list = node;
	}
	kept = list;
	start(1);
}

static void all_blocked(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	start(2);
}

static void dropped(void)
{
	if (geteuid() != 0)
		exit(77);
	start(1);
	if (setgid(65534) != 0 || setuid(65534) != 0)
		exit(77);
}

static void no_descriptors(void)
{
	start(1);
	for (int fd = 0; fd < 64; fd++)
		if (fd != 2)
			close(fd);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "plain", plain },	    { "many-threads", many_threads },
	{ "container", container }, { "no-clone", no_clone },
	{ "big-heap", big_heap },   { "all-blocked", all_blocked },
	{ "dropped", dropped },	    { "no-descriptors", no_descriptors },
	{ "deadly", deadly },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (argc > 1 && strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			lose_one();
			scrub();
			return 0;
		}
	fprintf(stderr, "places: no such case\n");
	return 97;
}
