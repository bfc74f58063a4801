/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leaver: signal handlers that leave malloc and free for good, or for a while.
 *
 * Steps through a call instruction by instruction, by the processor's trap flag, which no
 * other thread or load can disturb. The first handler leaves at the call's first
 * instruction, the next one further on, and so on to the end of the call; each time a
 * function of its own allocates, which the profile must show as often.
 *
 *   leaver malloc|free leave    the handler jumps out by siglongjmp
 *   leaver malloc|free return   a second thread of the program's own, on a stack of its
 *                               own, allocates while the call waits in the handler
 *
 * Prints how often it was left.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define TRAP_FLAG 0x100
#define WARM	  64
#define LEAVES	  300 /* about so many */

static volatile long steps, leave_at, left;
static volatile bool stepping;
static sigjmp_buf out, in_handler, in_other;
static ucontext_t begin, other;
static bool returns, frees;
static void *volatile sink;

__attribute__((noinline)) void *allocate_after(void)
{
	sink = malloc(48);
	return sink;
}

static void allocate_meanwhile(void)
{
	if (sigsetjmp(in_other, 1) == 0)
		swapcontext(&other, &begin);
	free(allocate_after());
	siglongjmp(in_handler, 1);
}

static void on_step(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	if (!stepping) {
		uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
		return;
	}
	if (steps++ != leave_at)
		return;
	left = left + 1;
	uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
	if (!returns)
		siglongjmp(out, 1);
	stepping = false;
	if (sigsetjmp(in_handler, 1) == 0)
		siglongjmp(in_other, 1);
}

static void set_trap_flag(void)
{
	__asm__ volatile("sub $128, %%rsp\n\tpushfq\n\torq %0, (%%rsp)\n\tpopfq\n\tadd "
			 "$128, %%rsp"
			 :
			 : "i"(TRAP_FLAG)
			 : "cc", "memory");
}

__attribute__((noinline)) static void *one_call(void *p, bool step)
{
	stepping = step;
	if (step)
		set_trap_flag();
	if (frees)
		free(p);
	else
		p = malloc(48);
	stepping = false;
	return p;
}

static void *block_to_free(void)
{
	return frees ? malloc(48) : NULL;
}

/* Slots, so that the call takes no lock, which a handler must not leave. */
static void warm_up(void)
{
	void *warm[WARM];

	for (int i = 0; i < WARM; i++)
		warm[i] = malloc(48);
	for (int i = 0; i < WARM; i++)
		free(warm[i]);
}

static void step_through(void)
{
	warm_up();
	/* The first time, the call learns what the second one needs to know. */
	for (volatile int step = 0; step < 2; step++) {
		void *p = block_to_free();

		steps = 0;
		if (sigsetjmp(out, 1) == 0) {
			sink = one_call(p, step == 1);
			if (!frees)
				free(sink);
		}
	}
	stepping = false;
}

int main(int argc, char **argv)
{
	long stride;
	struct sigaction act = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };

	if (argc < 3)
		return 2;
	frees = strcmp(argv[1], "free") == 0;
	returns = strcmp(argv[2], "return") == 0;
	sigaction(SIGTRAP, &act, NULL);
	if (returns) {
		getcontext(&other);
		other.uc_stack.ss_size = 1 << 18;
		other.uc_stack.ss_sp = malloc(1 << 18);
		other.uc_link = NULL;
		makecontext(&other, allocate_meanwhile, 0);
		swapcontext(&begin, &other);
	}
	leave_at = -1;
	step_through();
	stride = steps / LEAVES + 1;
	for (leave_at = 0; left * stride == leave_at; leave_at += stride) {
		step_through();
		if (!returns)
			free(allocate_after());
	}
	printf("left %ld times\n", left);
	return 0;
}
