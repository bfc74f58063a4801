/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox: prctl and syscall, watched for what the program forbids itself. Everything
 * else goes on untouched, by a tail jump, to libc's.
 *
 * Filters of system calls (seccomp): preload/base/filter.h.
 * A filter counts for the thread that sets it and those that this one makes. It is
 * remembered when there is no other thread, or when it is for all of them.
 *
 * Pages that others supply (userfaultfd): the leak check must know that there may be
 * some, also when the descriptor is another process's by then.
 *
 * The time stamp counter, which the vDSO's clocks read: from PR_SET_TSC on ours ask the
 * kernel.
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/filter.h"
#include "preload/base/os.h"
#if CONFIG_PROFILER
#include "profiler/stack/thread.h"
#endif

static int owner;	    /* id of this process; in a child of vfork(), of another */
static uint32_t installing; /* atomic; a thread is in install() */

HIDDEN extern void *sandbox_real[2];
HIDDEN long sandbox_by_prctl(long op, unsigned long mode,
			     const struct sock_fprog *program, long d, long e);
HIDDEN long sandbox_by_syscall(long nr, unsigned long op, unsigned long flags,
			       const struct sock_fprog *program, long d, long e);
HIDDEN void sandbox_resolve(void);
void *sandbox_real[2]; /* syscall, prctl */

void sandbox_resolve(void)
{
	sandbox_real[0] = dlsym(RTLD_NEXT, "syscall");
	sandbox_real[1] = dlsym(RTLD_NEXT, "prctl");
}

void sandbox_init(void)
{
	if (filter_from_before())
		os_learn_ids();
	owner = os_getpid();
	sandbox_resolve();
}

void sandbox_fork_child(void)
{
	owner = os_getpid();
	atomic_store_relaxed(&installing, 0);
}

/* By what is known without a system call, which might be one too many. */
static bool is_alone(void)
{
#if CONFIG_PROFILER
	unsigned running = 0;

	if (!atomic_load_relaxed(&thread_are_many))
		return true;
	thread_lock();
	for (const struct thread_info *t = thread_list(); t; t = t->next)
		running += t->state != THREAD_FINISHED;
	thread_unlock();
	return running <= 1;
#else
	return false;
#endif
}

static long result(long ret)
{
	if (ret >= 0 || ret < -4095)
		return ret;
	errno = (int)-ret;
	return -1;
}

/* What the program asks for is asked as it is. */
static long install(const long args[6], unsigned long mode, bool for_all,
		    const struct sock_fprog *program)
{
	const bool here = os_getpid_now() == owner;
	const bool first = here && (for_all || is_alone()) &&
			   atomic_exchange_acquire(&installing, 1) == 0;
	const bool ready = first && mode == SECCOMP_MODE_FILTER && filter_prepare();
	long ret;

	if (first && !os_is_filtered())
		os_learn_ids();
	ret = os_call_unasked(args[0], args[1], args[2], args[3], args[4], args[5], 0);
	if (ret == 0 && ready)
		filter_add(program->filter, program->len);
	else if (ret >= 0 && here && mode == SECCOMP_MODE_FILTER)
		filter_add_unknown();
	if (ret == 0 && first && mode == SECCOMP_MODE_STRICT)
		filter_add_strict();
	if (first)
		atomic_store_release(&installing, 0);
	return result(ret);
}

long sandbox_by_prctl(long op, unsigned long mode, const struct sock_fprog *program,
		      long d, long e)
{
	const long args[6] = { SYS_prctl, op, (long)mode, (long)program, d, e };

	if ((int)op == PR_SET_TSC) {
		if (mode != PR_TSC_ENABLE)
			os_avoid_counter();
		return result(os_call_unasked(args[0], args[1], args[2], args[3], args[4],
					      args[5], 0));
	}
	return install(args, mode, false, program);
}

long sandbox_by_syscall(long nr, unsigned long op, unsigned long flags,
			const struct sock_fprog *program, long d, long e)
{
	const long args[6] = { nr, (long)op, (long)flags, (long)program, d, e };

	if (nr == SYS_userfaultfd) {
		os_note_userfaultfd();
		return result(os_call_unasked(nr, args[1], args[2], args[3], args[4],
					      args[5], 0));
	}
	switch (op) {
	case SECCOMP_SET_MODE_STRICT:
		return install(args, SECCOMP_MODE_STRICT, false, NULL);
	case SECCOMP_SET_MODE_FILTER:
		/* With a listener the result is a descriptor: nothing is remembered. */
		return install(args, SECCOMP_MODE_FILTER,
			       (flags & SECCOMP_FILTER_FLAG_TSYNC) != 0, program);
	default:
		return install(args, SECCOMP_MODE_DISABLED, false, NULL);
	}
}

/* If the first argument is this number. */
#define IF(number, watched) "\tcmp $" #number ", %edi\n\tje " #watched "\n"
#define WATCH(name, conditions, index)                                                  \
	__asm__(".text\n\t.globl " #name "\n\t.type " #name ", @function\n" #name ":\n" \
		"\t.cfi_startproc\n" conditions "\tcmpq $0, sandbox_real + 8 * " #index \
		"(%rip)\n"                                                              \
		"\tje 1f\n"                                                             \
		"\tjmp *sandbox_real + 8 * " #index "(%rip)\n"                          \
		"1:\tpush %rdi\n\t.cfi_adjust_cfa_offset 8\n"                           \
		"\tpush %rsi\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tpush %rdx\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tpush %rcx\n\t.cfi_adjust_cfa_offset 8\n"                             \
		"\tpush %r8\n\t.cfi_adjust_cfa_offset 8\n"                              \
		"\tpush %r9\n\t.cfi_adjust_cfa_offset 8\n"                              \
		"\tsub $8, %rsp\n\t.cfi_adjust_cfa_offset 8\n"                          \
		"\tcall sandbox_resolve\n"                                              \
		"\tadd $8, %rsp\n\t.cfi_adjust_cfa_offset -8\n"                         \
		"\tpop %r9\n\t.cfi_adjust_cfa_offset -8\n"                              \
		"\tpop %r8\n\t.cfi_adjust_cfa_offset -8\n"                              \
		"\tpop %rcx\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tpop %rdx\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tpop %rsi\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tpop %rdi\n\t.cfi_adjust_cfa_offset -8\n"                             \
		"\tjmp *sandbox_real + 8 * " #index "(%rip)\n"                          \
		"\t.cfi_endproc\n\t.size " #name ", .-" #name "\n")

/* SYS_seccomp, SYS_userfaultfd */
WATCH(syscall, IF(317, sandbox_by_syscall) IF(323, sandbox_by_syscall), 0);
/* PR_SET_SECCOMP, PR_SET_TSC */
WATCH(prctl, IF(22, sandbox_by_prctl) IF(26, sandbox_by_prctl), 1);
