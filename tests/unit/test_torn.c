/* SPDX-License-Identifier: Apache-2.0 */
/* What a signal handler counts is not lost, at whatever instruction it interrupts the
 * only thread while that counts: the processor stops after each in turn. */
#include "tests/unit/cm.h"

#include <signal.h>
#include <ucontext.h>

#include "profiler/sample/count.h"
#include "profiler/sample/sample_int.h"

#define TRAP_FLAG   0x100 /* of the processor: a SIGTRAP after each instruction */
#define MOST	    500 /* instructions from one to the other end, far more than needed */
#define OWN_BYTES   1000
#define OTHER_BYTES 7
#define ONE	    ((uint64_t)1 << SITE_SHIFT)

static struct site_counters own, other;
static uint64_t pair[2];
static volatile int left; /* instructions until the handler counts */
static volatile int counted;

static void on_start(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	uc->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_instruction(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	if (--left > 0)
		return;
	uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
	count_alloc_alone(&other, ONE, OTHER_BYTES);
	thread_add_two(&pair[0], 1, &pair[1], OTHER_BYTES);
	counted++;
}

static void handle(int sig, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction act = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	sigemptyset(&act.sa_mask);
	assert_int_equal(sigaction(sig, &act, NULL), 0);
}

static void check(uint64_t n)
{
	assert_int_equal(peak_totals.live, n * OTHER_BYTES);
	assert_int_equal(sampler.samples, 2 * n);
	assert_int_equal(own.alloc_objects, n * ONE);
	assert_int_equal(own.alloc_bytes, n * OWN_BYTES);
	assert_int_equal(own.free_objects, n * ONE);
	assert_int_equal(own.free_bytes, n * OWN_BYTES);
	assert_int_equal(pair[0], 2 * n);
	assert_int_equal(pair[1], n * (OWN_BYTES + OTHER_BYTES));
	assert_int_equal(other.alloc_bytes, n * OTHER_BYTES);
}

static void test_each_instruction(void **state)
{
	(void)state;
	handle(SIGUSR1, on_start);
	handle(SIGTRAP, on_instruction);
	for (int n = 1; n <= MOST; n++) {
		left = n;
		raise(SIGUSR1);
		count_alloc_alone(&own, ONE, OWN_BYTES);
		thread_add_two(&pair[0], 1, &pair[1], OWN_BYTES);
		count_free_alone(&own, ONE, OWN_BYTES);
		while (counted < n)
			;
	}
	check(MOST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_instruction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
