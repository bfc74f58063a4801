/* SPDX-License-Identifier: Apache-2.0 */
/*
 * longjmp: the four names of it, which tell signal.c that a handler may be left, and the
 * escape profiler that activations end without returning. Their registers go on
 * untouched, by a tail jump, to libc's.
 */
#include <dlfcn.h>

#include "preload/api/api.h"
#if CONFIG_PROFILER
#include "profiler/escape/hijack.h"
#endif

#define JB_RSP	    6	 /* word of a jmp_buf, x86-64 */
#define GUARD_SHIFT 0x11 /* how glibc mangles it */

HIDDEN extern void *longjmp_real[4];
HIDDEN void longjmp_prepare(const uintptr_t *env);
void *longjmp_real[4];

void longjmp_init(void)
{
	static const char *const names[] = { "longjmp", "_longjmp", "siglongjmp",
					     "__longjmp_chk" };

	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		if (!longjmp_real[i])
			longjmp_real[i] = dlsym(RTLD_NEXT, names[i]);
}

/* The stack pointer that env restores. */
static uintptr_t target_of(const uintptr_t *env)
{
	uintptr_t sp = env[JB_RSP], guard;

	__asm__("mov %%fs:0x30, %0" : "=r"(guard));
	return (sp >> GUARD_SHIFT | sp << (64 - GUARD_SHIFT)) ^ guard;
}

void longjmp_prepare(const uintptr_t *env)
{
	if (!longjmp_real[0])
		longjmp_init();
	signal_leave(target_of(env));
#if CONFIG_PROFILER
	if (hijack_is_on())
		hijack_leave(target_of(env));
#endif
}

/* rdi: env, esi: value. */
#define JUMP(name, number)                                                              \
	__asm__(".text\n\t.globl " #name "\n\t.type " #name ", @function\n" #name ":\n" \
		"\t.cfi_startproc\n"                                                    \
		"\tpush %rdi\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tpush %rsi\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tsub $8, %rsp\n\t.cfi_adjust_cfa_offset 8\n"                          \
		"\tcall longjmp_prepare\n"                                              \
		"\tadd $8, %rsp\n\t.cfi_adjust_cfa_offset -8\n"                         \
		"\tpop %rsi\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tpop %rdi\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tjmp *longjmp_real + 8 * " #number "(%rip)\n"                         \
		"\t.cfi_endproc\n\t.size " #name ", .-" #name "\n")

JUMP(longjmp, 0);
JUMP(_longjmp, 1);
JUMP(siglongjmp, 2);
JUMP(__longjmp_chk, 3);
