/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alone: see alone.h. libc's sign is __libc_single_threaded, in its own data: a program
 * that uses the variable may have a copy, which libc keeps up to date and never reads.
 *
 *   NOBODY --alone_end()--> TOLD --alone_again()--> RETURNING --> NOBODY
 *   NOBODY, TOLD --alone_begin_thread()--> MAKING --alone_end_thread()--> NOBODY
 *
 * The sign is true at most while the program has one thread. That one moves NOBODY to
 * TOLD, in the signal handler, and to MAKING; the agent moves TOLD to RETURNING and on.
 * With several threads the sign is false, and the state without meaning.
 */
#include "profiler/control/alone.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"
#include "profiler/stack/dynsym.h"
#include "profiler/stack/module.h"

#define SIGN		  "__libc_single_threaded"
#define LIBC		  "/libc.so.6"
#define TCB_SEVERAL	  0x18 /* in a thread descriptor: the sign of glibc before 2.35 */
#define SYSCALL_INSN	  0x050f
#define PROGRAM_AND_AGENT 2

enum state { NOBODY, TOLD, RETURNING, MAKING };

static struct {
	const struct module *libc; /* NULL: not looked for, or not found */
	char *sign;		   /* NULL: as above; atomic */
	uint32_t state;		   /* enum state; atomic */
} alone;

static bool is_libc(const char *path)
{
	size_t n = strlen(path), end = sizeof(LIBC) - 1;

	return n >= end && memcmp(path + n - end, LIBC, end) == 0;
}

/* Of the first namespace, which is the program's. */
static void find_libc(void)
{
	uintptr_t at;
	size_t size;

	for (uint32_t i = 0; i < module_count() && !alone.libc; i++)
		if (is_libc(module_at(i)->path))
			alone.libc = module_at(i);
	if (alone.libc &&
	    dynsym_find_at(alone.libc->bias, alone.libc->dynamic, SIGN, &at, &size) &&
	    size == sizeof(*alone.sign))
		atomic_store_release(&alone.sign, (char *)at);
}

static bool is_syscall(uintptr_t at)
{
	uint16_t insn;

	memcpy(&insn, (const char *)at, sizeof(insn));
	return insn == SYSCALL_INSN;
}

/* In libc, but neither at a system call, which is made again, nor behind it. */
static bool is_amid_libc(uintptr_t pc)
{
	return module_find_code(pc) == alone.libc && !is_syscall(pc) &&
	       !is_syscall(pc - sizeof(uint16_t));
}

static void tell_older_libc(void)
{
	const int several = 1;

	memcpy((char *)__builtin_thread_pointer() + TCB_SEVERAL, &several,
	       sizeof(several));
}

bool alone_end(uintptr_t pc)
{
	char *sign;

	tell_older_libc();
	if (!atomic_load_relaxed(&alone.sign))
		find_libc();
	sign = atomic_load_relaxed(&alone.sign);
	if (!sign || !atomic_load_relaxed(sign))
		return true;
	if (atomic_load_relaxed(&alone.state) != NOBODY)
		return false;
	atomic_store_relaxed(&alone.state, (uint32_t)TOLD);
	atomic_store_release(sign, (char)0);
	return !is_amid_libc(pc);
}

/* Not if libc made a thread by itself, as for a timer. */
void alone_again(void)
{
	uint32_t told = TOLD;

	if (!atomic_cas_acquire(&alone.state, &told, (uint32_t)RETURNING))
		return;
	if (stop_count_threads(os_getpid()) <= PROGRAM_AND_AGENT)
		atomic_store_release(alone.sign, (char)1);
	atomic_store_release(&alone.state, (uint32_t)NOBODY);
}

void alone_begin_thread(void)
{
	uint32_t state = atomic_load_acquire(&alone.state);

	while (state == RETURNING ||
	       !atomic_cas_acquire(&alone.state, &state, (uint32_t)MAKING)) {
		os_yield();
		state = atomic_load_acquire(&alone.state);
	}
	if (state == TOLD)
		atomic_store_release(alone.sign, (char)1);
}

void alone_end_thread(void)
{
	atomic_store_release(&alone.state, (uint32_t)NOBODY);
}

void alone_fork_child(void)
{
	if (alone.state == TOLD || alone.state == RETURNING)
		*alone.sign = 1;
	alone.state = NOBODY;
}
