/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restart: a program that is asked must not notice. SA_RESTART makes the kernel repeat
 * most calls that a signal interrupts, but not poll, select, epoll_wait, sleeps, and
 * waits with a time limit. Those are repeated here, by setting the interrupted thread
 * back to its system call instruction.
 *
 * The call is known from the code: "mov $NUMBER,%eax; syscall", as libc makes all of
 * them. Other code is left alone and sees EINTR. Where the kernel has stored the time
 * that was left, the call goes on with it; poll and epoll_wait take theirs anew.
 *
 * A signal of the program's that is pending by now must end the call: then EINTR stays,
 * or the part of the bytes that the call has moved (see finish.h).
 */
#include <errno.h>
#include <string.h>

#include "preload/base/os.h"
#include "profiler/stack/finish.h"
#include "profiler/stack/module.h"
#include "profiler/stack/restart.h"

#define CODE_BYTES 7 /* b8 imm32; 0f 05 */

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

/* The number of the call that ends at pc, which the thread with that stack pointer has
 * made; -1: not made in libc's way. */
static int call_before(const uint8_t *pc, uintptr_t sp)
{
	int nr = finish_call_at((uintptr_t)pc, sp);

	if (nr >= 0)
		return nr;
	if (!module_find_code((uintptr_t)pc - CODE_BYTES) ||
	    !module_find_code((uintptr_t)pc - 1))
		return -1;
	memcpy(&nr, pc - 6, sizeof(nr));
	return pc[-7] == 0xb8 && pc[-2] == 0x0f && pc[-1] == 0x05 ? nr : -1;
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
	nr = call_before((const uint8_t *)(uintptr_t)g[REG_RIP], (uintptr_t)g[REG_RSP]);
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
