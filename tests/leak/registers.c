/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registers: programs that lose nothing, but keep the only pointer to a block in a
 * register of another thread, one a case; run by run_leak.py, which expects a clean
 * verdict. What the machine does not have is left out: the pointer is in an older one.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "tests/leak/lose.h"
#include "tests/leak/refuse.h"

#define BLOCK 112

/* The block holds a second one, so that being found is not enough: it must be scanned. */
static APART void *make_block(void)
{
	void **p = keep_alive(calloc(1, BLOCK));

	p[1] = keep_alive(calloc(1, BLOCK));
	return p;
}

static uint32_t spin_ready;

static void wait_spinner(void)
{
	while (!__atomic_load_n(&spin_ready, __ATOMIC_ACQUIRE))
		sched_yield();
}

/* Clears the stack below and every other register, then spins with the pointer in one. */
#define SPIN_WITH(load)                                                            \
	__asm__ volatile(load "\n\t"                                               \
			      "xor %%eax, %%eax\n\txor %%ecx, %%ecx\n\t"           \
			      "xor %%edx, %%edx\n\txor %%esi, %%esi\n\t"           \
			      "movl $1, %[flag]\n"                                 \
			      "1:\tpause\n\tjmp 1b"                                \
			 : [flag] "=m"(spin_ready)                                 \
			 : [p] "D"(hidden)                                         \
			 : "rax", "rcx", "rdx", "rsi", "r12", "r13", "r14", "r15", \
			   "xmm7", "memory")

/* The block's address inverted: no reference. */
static APART uintptr_t make_hidden(void)
{
	return ~(uintptr_t)make_block();
}

static void *spins_with_r13(void *arg)
{
	uintptr_t hidden = make_hidden();

	scrub();
	SPIN_WITH("mov %[p], %%r13\n\tnot %%r13");
	return arg;
}

static void *spins_with_xmm(void *arg)
{
	uintptr_t hidden = make_hidden();

	scrub();
	SPIN_WITH("mov %[p], %%rax\n\tnot %%rax\n\tmovq %%rax, %%xmm7");
	return arg;
}

/* In the upper half of a vector register, where the machine has such. */
static void *spins_with_ymm(void *arg)
{
	uintptr_t hidden = make_hidden();

	scrub();
	if (__builtin_cpu_supports("avx"))
		SPIN_WITH("mov %[p], %%rax\n\tnot %%rax\n\tvmovq %%rax, %%xmm7\n\t"
			  "vinsertf128 $1, %%xmm7, %%ymm7, %%ymm7\n\t"
			  "pxor %%xmm7, %%xmm7");
	SPIN_WITH("mov %[p], %%rax\n\tnot %%rax\n\tmovq %%rax, %%xmm7");
	return arg;
}

/* In one of those that only AVX-512 has; the C library copies by them. */
static void *spins_with_zmm(void *arg)
{
	uintptr_t hidden = make_hidden();

	scrub();
	if (__builtin_cpu_supports("avx512f"))
		SPIN_WITH("mov %[p], %%rax\n\tnot %%rax\n\t"
			  "vpbroadcastq %%rax, %%zmm17\n\t"
			  "xor %%eax, %%eax\n\tvmovq %%rax, %%xmm7\n\t"
			  "vinserti64x2 $0, %%xmm7, %%zmm17, %%zmm17");
	SPIN_WITH("mov %[p], %%rax\n\tnot %%rax\n\tmovq %%rax, %%xmm7");
	return arg;
}

/* In the upper half of one that AVX widens. */
static void *spins_with_high_zmm(void *arg)
{
	uintptr_t hidden = make_hidden();

	scrub();
	if (__builtin_cpu_supports("avx512f"))
		SPIN_WITH("mov %[p], %%rax\n\tnot %%rax\n\tvmovq %%rax, %%xmm7\n\t"
			  "vinserti64x4 $1, %%ymm7, %%zmm7, %%zmm7\n\t"
			  "pxor %%xmm7, %%xmm7");
	SPIN_WITH("mov %[p], %%rax\n\tnot %%rax\n\tmovq %%rax, %%xmm7");
	return arg;
}

static APART void spin_thread(void *(*routine)(void *))
{
	pthread_t t;

	if (pthread_create(&t, NULL, routine, NULL) != 0)
		exit(99);
	wait_spinner();
}

static APART void keep_thread_register(void)
{
	spin_thread(spins_with_r13);
}

static APART void keep_thread_xmm(void)
{
	spin_thread(spins_with_xmm);
}

static APART void keep_thread_ymm(void)
{
	spin_thread(spins_with_ymm);
}

static APART void keep_thread_zmm(void)
{
	spin_thread(spins_with_zmm);
}

static APART void keep_thread_high_zmm(void)
{
	spin_thread(spins_with_high_zmm);
}

/* Blocked in the kernel with the pointer in r14. */
static void *blocks_with_r14(void *arg)
{
	static uint32_t word;
	uintptr_t hidden = make_hidden();

	scrub();
	__asm__ volatile("mov %[p], %%r14\n\tnot %%r14\n\t"
			 "mov %[word], %%rdi\n\txor %%esi, %%esi\n\txor %%edx, %%edx\n\t"
			 "xor %%r10d, %%r10d\n\tmovl $1, %[flag]\n"
			 "1:\tmov $202, %%eax\n\tsyscall\n\tjmp 1b"
			 : [flag] "=m"(spin_ready)
			 : [p] "r"(hidden), [word] "r"(&word)
			 : "rax", "rcx", "r11", "rdi", "rsi", "rdx", "r10", "r14",
			   "memory");
	return arg;
}

static APART void keep_blocked_register(void)
{
	spin_thread(blocks_with_r14);
}

static void *blocks_all_signals(void *arg)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	return spins_with_r13(arg);
}

static APART void keep_masked_register(void)
{
	spin_thread(blocks_all_signals);
}

static const struct {
	const char *name;
	void (*keep)(void);
} cases[] = {
	{ "thread", keep_thread_register },   { "xmm", keep_thread_xmm },
	{ "ymm", keep_thread_ymm },	      { "zmm", keep_thread_zmm },
	{ "high-zmm", keep_thread_high_zmm }, { "blocked", keep_blocked_register },
	{ "masked", keep_masked_register },
};

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (strncmp(name, "signal-", 7) == 0) {
		refuse_call(SYS_ptrace, 0, UINT32_MAX); /* then by a signal */
		name += 7;
	}
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(name, cases[i].name) == 0) {
			cases[i].keep();
			scrub();
			return 0;
		}
	fprintf(stderr, "registers: no case %s\n", name);
	return 97;
}
