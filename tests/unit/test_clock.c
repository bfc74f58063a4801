/* SPDX-License-Identifier: Apache-2.0 */
/* The clocks: the kernel's own function, what it cannot tell, and a program that forbids
 * the time stamp counter. */
#include "tests/unit/cm.h"

#include <sys/auxv.h>

#include "preload/base/os.h"
#include "profiler/stack/dynsym.h"

static int ncalls, answer;

static int fake(clockid_t id, struct timespec *out)
{
	ncalls++;
	*out = (struct timespec){ .tv_sec = 7, .tv_nsec = id };
	return answer;
}

static uint64_t libc_ns(clockid_t id)
{
	struct timespec t;

	assert_int_equal(clock_gettime(id, &t), 0);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Both clocks tell what libc's do. */
static void check_time(void)
{
	uint64_t before = libc_ns(CLOCK_MONOTONIC), now = os_now_ns();
	uint64_t coarse_before = libc_ns(CLOCK_MONOTONIC_COARSE), coarse = os_coarse_ns();

	assert_true(now >= before && now <= libc_ns(CLOCK_MONOTONIC));
	assert_true(coarse >= coarse_before && coarse <= libc_ns(CLOCK_MONOTONIC_COARSE));
}

static void test_vdso(void **state)
{
	int (*clock)(clockid_t, struct timespec *) = (int (*)(
		clockid_t, struct timespec *))dynsym_find_in_vdso("__vdso_clock_gettime");

	(void)state;
	assert_int_equal(dynsym_find_in_vdso("no such function"), 0);
	if (!getauxval(AT_SYSINFO_EHDR)) /* not in valgrind */
		skip();
	assert_non_null(clock);
	os_set_clock(clock);
	check_time();
}

static void test_none(void **state)
{
	(void)state;
	os_set_clock(NULL);
	check_time();
}

static void test_failure(void **state)
{
	(void)state;
	os_set_clock(fake);
	ncalls = 0;
	assert_true(os_coarse_ns() == 7000000000u + CLOCK_MONOTONIC_COARSE);
	answer = -1;
	check_time();
	assert_int_equal(ncalls, 3);
	answer = 0;
}

static void test_avoided(void **state)
{
	(void)state;
	os_set_clock(fake);
	ncalls = 0;
	os_avoid_counter(); /* for good */
	check_time();
	assert_int_equal(ncalls, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vdso),
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_failure),
		cmocka_unit_test(test_avoided),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
