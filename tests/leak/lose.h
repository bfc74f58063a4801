/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lose: how a test program really loses a pointer: it is made and dropped in a function
 * of its own, then the dead stack below and the registers are overwritten.
 */
#ifndef TESTS_LEAK_LOSE_H
#define TESTS_LEAK_LOSE_H

#include <stddef.h>
#include <stdint.h>

#define APART	   __attribute__((noinline))
#define SCRUB_SIZE 32768

/* Overwrites the stack below the caller and every register that a call may change. */
static APART void scrub(void)
{
	volatile char dead[SCRUB_SIZE];

	for (size_t i = 0; i < sizeof(dead); i++)
		dead[i] = 0;
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vzeroall");
	__asm__ volatile("pxor %%xmm0, %%xmm0\n\tpxor %%xmm1, %%xmm1\n\t"
			 "pxor %%xmm2, %%xmm2\n\tpxor %%xmm3, %%xmm3\n\t"
			 "xor %%eax, %%eax\n\txor %%ecx, %%ecx\n\txor %%edx, %%edx\n\t"
			 "xor %%esi, %%esi\n\txor %%edi, %%edi\n\txor %%r8d, %%r8d\n\t"
			 "xor %%r9d, %%r9d\n\txor %%r10d, %%r10d\n\txor %%r11d, %%r11d"
			 :
			 :
			 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
			   "xmm0", "xmm1", "xmm2", "xmm3", "memory");
}

/* The compiler must assume that p is used. */
static inline void *keep_alive(void *p)
{
	__asm__ volatile("" : "+r"(p) : : "memory");
	return p;
}

#endif
