/* SPDX-License-Identifier: Apache-2.0 */
/* Our walker against libgcc's, on the shapes of stack that programs have; and on garbage.
 */
#include "tests/unit/cm.h"

#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unwind.h>

#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define MAX	    2000
#define NOINLINE_FN __attribute__((noinline))

static struct frame ours[MAX];
static uintptr_t theirs[MAX];
static int ncompared, nsignals;
static volatile int sink;

struct oracle {
	int n;
};

static _Unwind_Reason_Code collect(struct _Unwind_Context *c, void *arg)
{
	struct oracle *o = arg;

	if (o->n == MAX || _Unwind_GetIP(c) == 0)
		return _URC_END_OF_STACK;
	theirs[o->n++] = _Unwind_GetIP(c);
	return _URC_NO_REASON;
}

/* Both walk from here; the innermost pc differs (each has its own call site), the rest
 * must be the same. */
static NOINLINE_FN void compare(void)
{
	struct oracle o = { 0 };
	enum unwind_end end;
	int n = unwind_here(ours, MAX, &end);
	int k = 0;

	_Unwind_Backtrace(collect, &o);
	assert_int_equal(end, UNWIND_COMPLETE);
	/* theirs begins inside this function, ours with this function's caller or with it
	 */
	while (k < o.n && theirs[k] != ours[1].pc)
		k++;
	assert_int_equal(o.n - k, n - 1);
	for (int i = 1; i < n; i++, k++)
		if (ours[i].pc != theirs[k])
			fail_msg("frame %d: %#lx and %#lx", i, (long)ours[i].pc,
				 (long)theirs[k]);
	for (int i = 2; i < n; i++)
		if (ours[i].slot != 0)
			assert_int_equal(*(uintptr_t *)ours[i].slot, ours[i].pc);
	ncompared++;
}

static NOINLINE_FN void recurse(int depth)
{
	if (depth > 0)
		recurse(depth - 1);
	else
		compare();
	sink++;
}

static NOINLINE_FN void with_alloca(int n)
{
	char *p = alloca((size_t)n);

	memset(p, 1, (size_t)n);
	if (n > 64)
		with_alloca(n / 2);
	else
		compare();
	sink += p[0];
}

static NOINLINE_FN void realigned(int n)
{
	char block[128] __attribute__((aligned(128)));
	char *more = alloca((size_t)n);

	memset(block, n, sizeof(block));
	more[0] = block[3];
	compare();
	sink += more[0] + block[5];
}

static int by_value(const void *a, const void *b)
{
	if (ncompared < 60)
		compare();
	return *(const int *)a - *(const int *)b;
}

static void test_shapes(void **state)
{
	int values[] = { 5, 3, 9, 1, 7, 2, 8 };

	(void)state;
	compare();
	recurse(1);
	recurse(500);
	with_alloca(5000);
	realigned(100);
	qsort(values, 7, sizeof(int), by_value); /* through libc */
}

static void on_signal(int sig)
{
	(void)sig;
	compare();
	nsignals++;
}

static void test_signals(void **state)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	stack_t ss = { .ss_size = 65536 };

	(void)state;
	ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaltstack(&ss, NULL);
	sigaction(SIGUSR1, &act, NULL);
	raise(SIGUSR1);
	act.sa_flags = 0;
	sigaction(SIGUSR1, &act, NULL);
	raise(SIGUSR1);
	assert_int_equal(nsignals, 2);
}

/* Call fn() with the CFA in rbx, which fn's callees save and use; and with the CFA behind
 * an expression, as in assembly that realigns its frame. */
void odd_in_rbx(void (*fn)(void));
void odd_behind(void (*fn)(void));
__asm__(".text\nodd_in_rbx:\n\t.cfi_startproc\n"
	"\tpush %rbx\n\t.cfi_adjust_cfa_offset 8\n\t.cfi_rel_offset %rbx, 0\n"
	"\tmov %rsp, %rbx\n\t.cfi_def_cfa_register %rbx\n"
	"\tand $-64, %rsp\n\tcall *%rdi\n"
	"\tmov %rbx, %rsp\n\t.cfi_def_cfa_register %rsp\n"
	"\tpop %rbx\n\t.cfi_adjust_cfa_offset -8\n\t.cfi_restore %rbx\n"
	"\tret\n\t.cfi_endproc\n"
	"odd_behind:\n\t.cfi_startproc\n"
	"\tmov %rsp, %rax\n\t.cfi_def_cfa_register %rax\n"
	"\tsub $64, %rsp\n\tand $-64, %rsp\n\tmov %rax, 24(%rsp)\n"
	"\t.cfi_escape 0x0f, 5, 0x77, 24, 0x06, 0x23, 8\n" /* *(rsp + 24) + 8 */
	"\tcall *%rdi\n"
	"\tmov 24(%rsp), %rsp\n\t.cfi_def_cfa %rsp, 8\n"
	"\tret\n\t.cfi_endproc\n");

static NOINLINE_FN void use_rbx(void)
{
	register long busy __asm__("rbx") = ncompared;

	__asm__ volatile("" : "+r"(busy));
	recurse(5);
	__asm__ volatile("" : "+r"(busy));
	sink += (int)busy;
}

static NOINLINE_FN void through_both(void)
{
	odd_behind(use_rbx);
	sink++;
}

static NOINLINE_FN void raise_one(void)
{
	raise(SIGUSR1);
	sink++;
}

/* Frames that only whole call frame information describes. */
static void test_odd_frames(void **state)
{
	struct sigaction act = { .sa_handler = on_signal };
	int before = ncompared;

	(void)state;
	odd_in_rbx(use_rbx);
	odd_behind(use_rbx);
	odd_in_rbx(through_both);
	sigaction(SIGUSR1, &act, NULL);
	odd_in_rbx(raise_one);
	assert_int_equal(ncompared, before + 4);
}

static ucontext_t back, routine;

static void in_coroutine(void)
{
	recurse(20);
}

static void test_coroutine(void **state)
{
	(void)state;
	getcontext(&routine);
	routine.uc_stack.ss_size = 65536;
	routine.uc_stack.ss_sp = mmap(NULL, 65536, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	routine.uc_link = &back;
	makecontext(&routine, in_coroutine, 0);
	swapcontext(&back, &routine);
}

static void *in_thread(void *arg)
{
	thread_register(0, false);
	recurse(10);
	thread_finished();
	return arg;
}

static void test_small_thread(void **state)
{
	pthread_attr_t attr;
	pthread_t t;

	(void)state;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16384 * 4);
	assert_int_equal(pthread_create(&t, &attr, in_thread, NULL), 0);
	pthread_join(t, NULL);
}

static void test_truncated(void **state)
{
	enum unwind_end end;
	struct frame few[3];

	(void)state;
	assert_int_equal(unwind_here(few, 3, &end), 3);
	assert_int_equal(end, UNWIND_TRUNCATED);
	assert_int_equal(few[2].pc, FRAME_TRUNCATED_PC);
}

/* Registers that make no sense end the walk, and nothing else. */
static void test_garbage(void **state)
{
	static const uintptr_t wild[] = { 0,
					  1,
					  7,
					  8,
					  0xdeadbeef,
					  UINTPTR_MAX,
					  UINTPTR_MAX - 7,
					  (uintptr_t)1 << 47,
					  (uintptr_t)1 << 63,
					  4096 };
	struct frame frames[64];
	enum unwind_end end;
	uintptr_t here = (uintptr_t)frames;

	(void)state;
	for (size_t i = 0; i < 10; i++)
		for (size_t k = 0; k < 10; k++) {
			struct unwind_regs r = { .ip = (uintptr_t)&recurse + 20,
						 .sp = wild[i],
						 .bp = wild[k] };

			assert_in_range(unwind_regs(&r, 0, 0, frames, 64, &end), 1, 64);
			r.sp = here;
			unwind_regs(&r, 0, 0, frames, 64, &end);
			r.ip = wild[i];
			unwind_regs(&r, 0, 0, frames, 64, &end);
			assert_in_range(
				unwind_regs(&r, here, here + 64, frames, 64, &end), 1,
				64);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shapes),	   cmocka_unit_test(test_signals),
		cmocka_unit_test(test_coroutine),  cmocka_unit_test(test_small_thread),
		cmocka_unit_test(test_truncated),  cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_odd_frames),
	};

	module_refresh();
	thread_init();
	unwind_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
