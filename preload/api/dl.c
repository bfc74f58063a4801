/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dl: dlopen and dlmopen without RTLD_DEEPBIND, and dlclose that tells the profiler.
 *
 * A library opened with RTLD_DEEPBIND finds libc's malloc before ours, while libc's own
 * functions hand it our blocks: every allocator that is preloaded crashes. So the flag is
 * cleared (option deepbind=on leaves it). The real function is reached by a tail jump:
 * the loader takes the caller, for RUNPATH and namespaces, from the return address.
 * dlopen adds code, which is noticed at the next report or capture; dlclose removes some,
 * so row caches are dropped after it.
 */
#include <dlfcn.h>

#include "preload/api/api.h"
#include "preload/base/opt.h"
#if CONFIG_PROFILER
#include "profiler/escape/where.h"
#include "profiler/stack/module.h"
#include "profiler/stack/unwind.h"
#endif

#define DEEPBIND 8 /* RTLD_DEEPBIND, as the assembly writes it */
_Static_assert(RTLD_DEEPBIND == DEEPBIND, "flag value");

/* Read by the assembly below; written once by dl_init(), or before by dl_resolve(). */
HIDDEN extern void *dl_real_dlopen, *dl_real_dlmopen;
HIDDEN extern uint32_t dl_flag_mask;
HIDDEN void dl_resolve(void);
void *dl_real_dlopen, *dl_real_dlmopen;
uint32_t dl_flag_mask = ~(uint32_t)DEEPBIND;

static struct {
	int (*dlclose)(void *handle);
} dl_real;

void dl_resolve(void)
{
	dl_real_dlopen = dlsym(RTLD_NEXT, "dlopen");
	dl_real_dlmopen = dlsym(RTLD_NEXT, "dlmopen");
}

/* Arguments: dlopen(rdi, esi), dlmopen(rdi, rsi, edx); all saved around dl_resolve(). */
#define TRAMPOLINE(name, flags)                                                         \
	__asm__(".text\n\t.globl " #name "\n\t.type " #name ", @function\n" #name ":\n" \
		"\t.cfi_startproc\n"                                                    \
		"\tmov dl_real_" #name "(%rip), %rax\n"                                 \
		"\ttest %rax, %rax\n"                                                   \
		"\tjne 1f\n"                                                            \
		"\tpush %rdi\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tpush %rsi\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tpush %rdx\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tcall dl_resolve\n"                                                   \
		"\tpop %rdx\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tpop %rsi\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tpop %rdi\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tmov dl_real_" #name "(%rip), %rax\n"                                 \
		"1:\tand dl_flag_mask(%rip), " flags "\n"                               \
		"\tjmp *%rax\n"                                                         \
		"\t.cfi_endproc\n\t.size " #name ", .-" #name "\n")

TRAMPOLINE(dlopen, "%esi");
TRAMPOLINE(dlmopen, "%edx");

static void modules_changed(bool closed)
{
#if CONFIG_PROFILER
	if (opt_get()->mode == OPT_MODE_OFF)
		return;
	module_refresh();
	if (closed)
		unwind_modules_changed();
#else
	(void)closed;
#endif
}

EXPORT int dlclose(void *handle)
{
	int ret;

	if (!dl_real.dlclose)
		dl_real.dlclose = (int (*)(void *))(uintptr_t)dlsym(RTLD_NEXT, "dlclose");
	if (!dl_real.dlclose)
		return -1;
	modules_changed(false); /* what goes away now must be known by name */
#if CONFIG_PROFILER
	where_pause();
#endif
	ret = dl_real.dlclose(handle);
	modules_changed(true);
#if CONFIG_PROFILER
	where_resume();
#endif
	return ret;
}

void dl_init(void)
{
	dl_resolve();
	if (opt_get()->deepbind)
		dl_flag_mask = ~(uint32_t)0;
}
