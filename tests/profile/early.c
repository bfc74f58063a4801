/* SPDX-License-Identifier: Apache-2.0 */
/*
 * early: killed while the loader relocates it, before anybody's constructor.
 */
#include <signal.h>
#include <sys/syscall.h>

static long call(long number, long a, long b)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b)
			 : "rcx", "r11", "memory");
	return result;
}

static void nothing(void)
{
}

static __attribute__((used)) void (*resolve_work(void))(void)
{
	call(SYS_kill, call(SYS_getpid, 0, 0), SIGKILL);
	return nothing;
}

void work(void) __attribute__((ifunc("resolve_work")));

int main(void)
{
	work();
	return 0;
}
