/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restart: a program that is asked must not notice. SA_RESTART makes the kernel repeat
 * most calls that a signal interrupts, but not poll, select, epoll_wait, sleeps, and
 * waits with a time limit. Those are repeated here, by setting the interrupted thread
 * back to its system call instruction.
 *
 * The call is known from the code: "mov $NUMBER,%eax; syscall", or what libc has instead.
 * Other code is left alone and sees EINTR. Where the kernel has stored the time
 * that was left, the call goes on with it; poll and epoll_wait take theirs anew.
 *
 * A signal of the program's that is pending by now must end the call: then EINTR stays,
 * or the part of the bytes that the call has moved (see finish.h).
 */
#include <errno.h>
#include <string.h>

#include "preload/base/os.h"
#include "profiler/stack/cfi.h"
#include "profiler/stack/finish.h"
#include "profiler/stack/module.h"
#include "profiler/stack/restart.h"

#define CODE_BYTES 7	/* b8 imm32; 0f 05 */
#define SHORT_CODE 64	/* bytes of glibc's piece of assembler, at most */
#define NUMBER_MAX 1023 /* of system calls */

static bool can_repeat(uint32_t nr)
{
	static const uint16_t calls[] = {
		SYS_poll,     SYS_ppoll,	   SYS_select,
		SYS_pselect6, SYS_epoll_wait,	   SYS_epoll_pwait,
		441,	      SYS_nanosleep,	   SYS_clock_nanosleep,
		SYS_futex,    SYS_rt_sigtimedwait, SYS_rt_sigsuspend,
		SYS_pause,    SYS_semop,	   SYS_semtimedop,
		SYS_msgrcv,   SYS_msgsnd,	   SYS_recvfrom,
		SYS_recvmsg,  SYS_recvmmsg,	   SYS_accept,
		SYS_accept4,  SYS_sendto,	   SYS_sendmsg,
		SYS_read,     SYS_readv,	   SYS_write,
		SYS_writev,   SYS_io_getevents,
	};

	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		if (nr == calls[i])
			return true;
	return false;
}

static uintptr_t word_at(uintptr_t at)
{
	uintptr_t word;

	memcpy(&word, (const void *)at, sizeof(word));
	return word;
}

static bool is_syscall(const uint8_t *at)
{
	return at[0] == 0x0f && at[1] == 0x05;
}

/* Is ret behind a "call" of the code that ends a little before pc? */
static bool is_called_from(uintptr_t pc, uintptr_t ret)
{
	const uint8_t *call = (const uint8_t *)ret - 5;
	int32_t offset;

	if (!module_find_code(ret - 5) || !module_find_code(ret) || call[0] != 0xe8)
		return false;
	memcpy(&offset, call + 1, sizeof(offset));
	return pc - (ret + (uintptr_t)(intptr_t)offset) < SHORT_CODE;
}

/*
 * glibc from 2.41 on has two places for all calls that can be cancelled. One is written
 * in assembler, and called from the other, which has the number as its seventh argument:
 * above its return address, where its frame begins. There is none else in the process.
 */
static int number_from_frame(uintptr_t pc, uintptr_t sp, uintptr_t bp)
{
	const uintptr_t ret = word_at(sp);
	struct cfi_row row;

	if (!is_called_from(pc, ret))
		return -1;
	row = cfi_find_row(ret - 1);
	if (row.kind != CFI_RSP && row.kind != CFI_RBP)
		return -1;
	return (int)word_at((row.kind == CFI_RSP ? sp + sizeof(ret) : bp) +
			    (uintptr_t)(intptr_t)row.cfa_offset);
}

static int number_at(uintptr_t pc, uintptr_t sp, uintptr_t bp)
{
	static const uint8_t from_stack[] = { 0x48, 0x8b, 0x44,
					      0x24 }; /* mov d(%rsp),%rax */
	static const uint8_t assembler[] = { 0x4c, 0x89, 0x5c, 0x24, 0x08 };
	const uint8_t *code = (const uint8_t *)pc;
	int nr;

	if (code[-7] == 0xb8) { /* mov $number,%eax */
		memcpy(&nr, code - 6, sizeof(nr));
		return nr;
	}
	if (memcmp(code - 7, from_stack, sizeof(from_stack)) == 0)
		return (int)word_at(sp + code[-3]);
	if (memcmp(code - 7, assembler, sizeof(assembler)) == 0)
		return number_from_frame(pc, sp, bp);
	return -1;
}

int restart_number(uintptr_t pc, uintptr_t sp, uintptr_t bp)
{
	int nr = finish_call_at(pc, sp);

	if (nr >= 0)
		return nr;
	if (!module_find_code(pc - CODE_BYTES) || !module_find_code(pc) ||
	    !is_syscall((const uint8_t *)pc - 2))
		return -1;
	nr = number_at(pc, sp, bp);
	return nr >= 0 && nr <= NUMBER_MAX ? nr : -1;
}

/* The handler runs with all signals blocked: has one come that the program would take? */
static bool other_signal(const ucontext_t *uc)
{
	uint64_t pending = 0, blocked;

	memcpy(&blocked, &uc->uc_sigmask, sizeof(blocked));
	os_call(SYS_rt_sigpending, (long)&pending, sizeof(pending), 0, 0, 0, 0);
	return (pending & ~blocked) != 0;
}

static bool read_memory(uintptr_t from, void *to, size_t bytes, void *arg)
{
	(void)arg;
	memcpy(to, (const void *)from, bytes);
	return true;
}

/* A part of the bytes has been moved. */
static void go_on(greg_t *g, int nr)
{
	static const struct finish_access access = { .read = read_memory };
	struct finish_regs r = { .rax = (uintptr_t)g[REG_RAX],
				 .rdx = (uintptr_t)g[REG_RDX],
				 .rsi = (uintptr_t)g[REG_RSI],
				 .rdi = (uintptr_t)g[REG_RDI],
				 .r10 = (uintptr_t)g[REG_R10],
				 .rip = (uintptr_t)g[REG_RIP] };

	if (!finish_call(nr, &r, &access))
		return;
	g[REG_RCX] = (greg_t)r.rcx;
	g[REG_R11] = (greg_t)r.r11;
	g[REG_RIP] = (greg_t)r.rip;
}

void restart_call(ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;
	int nr;

	if (g[REG_RAX] != -EINTR && g[REG_RAX] <= 0)
		return;
	nr = restart_number((uintptr_t)g[REG_RIP], (uintptr_t)g[REG_RSP],
			    (uintptr_t)g[REG_RBP]);
	if (nr < 0 || other_signal(uc))
		return;
	if (g[REG_RAX] > 0) {
		go_on(g, nr);
		return;
	}
	if (!can_repeat((uint32_t)nr))
		return;
	if (nr == SYS_nanosleep && g[REG_RSI])
		g[REG_RDI] = g[REG_RSI];
	if (nr == SYS_clock_nanosleep && g[REG_RSI] == 0 && g[REG_R10])
		g[REG_RDX] = g[REG_R10];
	g[REG_RAX] = (greg_t)nr;
	g[REG_RIP] -= 2;
}
