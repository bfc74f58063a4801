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
 * A signal of the program's that is pending by now must end the call: then EINTR stays.
 */
#include <errno.h>
#include <string.h>

#include "preload/base/os.h"
#include "profiler/control/agent_int.h"
#include "profiler/stack/module.h"

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

/* The number of the call that ends at pc; false: not made in libc's way. */
static bool call_before(const uint8_t *pc, uint32_t *out_nr)
{
	if (!module_find_code((uintptr_t)pc - CODE_BYTES) ||
	    !module_find_code((uintptr_t)pc - 1))
		return false;
	memcpy(out_nr, pc - 6, sizeof(*out_nr));
	return pc[-7] == 0xb8 && pc[-2] == 0x0f && pc[-1] == 0x05;
}

/* The handler runs with all signals blocked: has one come that the program would take? */
static bool other_signal(const ucontext_t *uc)
{
	uint64_t pending = 0, blocked;

	memcpy(&blocked, &uc->uc_sigmask, sizeof(blocked));
	os_call(SYS_rt_sigpending, (long)&pending, sizeof(pending), 0, 0, 0, 0);
	return (pending & ~blocked) != 0;
}

void restart_call(ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;
	uint32_t nr;

	if (g[REG_RAX] != -EINTR ||
	    !call_before((const uint8_t *)(uintptr_t)g[REG_RIP], &nr) ||
	    !can_repeat(nr) || other_signal(uc))
		return;
	if (nr == SYS_nanosleep && g[REG_RSI])
		g[REG_RDI] = g[REG_RSI];
	if (nr == SYS_clock_nanosleep && g[REG_RSI] == 0 && g[REG_R10])
		g[REG_RDX] = g[REG_R10];
	g[REG_RAX] = (greg_t)nr;
	g[REG_RIP] -= 2;
}
