/* SPDX-License-Identifier: Apache-2.0 */
/* The process that looks beside a program: how it ends, and whose turn it takes. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "preload/base/os.h"
#include "profiler/leak/look.h"
#include "tests/unit/child.h"
#include "tests/unit/cm.h"

#define PLENTY 60000000000u
#define SOME   20000000u /* several ticks of the kernel's clock */

static char *stack;

static int setup(void **state)
{
	(void)state;
	stack = mmap(NULL, LOOK_STACK, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return stack == MAP_FAILED;
}

/* The C library's may not be used there. */
static int nice_now(void)
{
	return 20 - (int)os_call(SYS_getpriority, PRIO_PROCESS, 0, 0, 0, 0, 0);
}

static uint64_t cpu_ns(void)
{
	struct timespec t = { 0, 0 };

	os_call(SYS_clock_gettime, CLOCK_PROCESS_CPUTIME_ID, (long)&t, 0, 0, 0, 0);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct seen {
	int first, last;
	uint64_t most_ns; /* of processor time */
};

static void see(void *arg)
{
	struct seen *s = arg;

	s->first = s->last = nice_now();
	while (s->last == s->first && cpu_ns() < s->most_ns)
		s->last = nice_now();
}

static void test_steps_back_when_its_time_is_used_up(void **state)
{
	struct seen s = { .most_ns = PLENTY };
	uint64_t ns = SOME;

	(void)state;
	if (nice_now() == 19)
		skip();
	assert_int_equal(look_run(see, &s, stack, &ns, NULL), LOOK_DONE);
	assert_int_equal(s.first, nice_now());
	assert_int_equal(s.last, s.first + 10 < 19 ? s.first + 10 : 19);
	assert_in_range(ns, 0, SOME - 1); /* the kernel's two clocks are not the same */
}

static void test_has_no_time(void **state)
{
	struct seen s = { .most_ns = 0 };
	uint64_t ns = 0;

	(void)state;
	assert_int_equal(look_run(see, &s, stack, &ns, NULL), LOOK_DONE);
	assert_int_equal(s.first, nice_now() + 10 < 19 ? nice_now() + 10 : 19);
	assert_int_equal(ns, 0);
}

static void test_its_time_is_subtracted(void **state)
{
	struct seen s = { .most_ns = SOME };
	uint64_t ns = PLENTY;

	(void)state;
	assert_int_equal(look_run(see, &s, stack, &ns, NULL), LOOK_DONE);
	assert_int_equal(s.last, nice_now());
	assert_in_range(ns, 1, PLENTY - SOME / 2);
}

/* A program that is modest itself is not overtaken, even where root might. */
static void be_modest(void)
{
	struct seen s = { .most_ns = PLENTY };
	uint64_t ns = SOME;

	require(setpriority(PRIO_PROCESS, 0, 15) == 0 || nice_now() > 15);
	require(look_run(see, &s, stack, &ns, NULL) == LOOK_DONE);
	require(s.first >= 15 && s.last == 19);
}

static void test_beside_a_modest_program(void **state)
{
	(void)state;
	if (nice_now() < 19)
		assert_int_equal(in_child(be_modest), 0);
}

static __attribute__((no_sanitize("address", "undefined"))) void fault(void *arg)
{
	*(volatile int *)arg = 1;
}

static void end(void *arg)
{
	os_call(SYS_kill, os_getpid(), *(int *)arg, 0, 0, 0, 0);
}

static void test_ends(void **state)
{
	uint64_t ns = PLENTY;
	int sig = SIGKILL;
	const size_t page = (size_t)getpagesize();
	void *gone = mmap(NULL, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_int_equal(munmap(gone, page), 0);
	assert_int_equal(look_run(fault, gone, stack, &ns, NULL), LOOK_FAULT);
	assert_int_equal(look_run(end, &sig, stack, &ns, NULL), LOOK_KILLED);
	sig = SIGTERM;
	assert_int_equal(look_run(end, &sig, stack, &ns, NULL), LOOK_DONE);
	sig = SIGPROF;
	assert_int_equal(look_run(end, &sig, stack, &ns, NULL), LOOK_DONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_steps_back_when_its_time_is_used_up),
		cmocka_unit_test(test_has_no_time),
		cmocka_unit_test(test_its_time_is_subtracted),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_beside_a_modest_program),
	};

	return cmocka_run_group_tests_name("look", tests, setup, NULL);
}
