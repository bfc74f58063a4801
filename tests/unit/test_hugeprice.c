/* SPDX-License-Identifier: Apache-2.0 */
/* hugeprice: after a dear huge page the heap must grow before the next is tried. */
#include "preload/heap/hugeprice.h"

#include "tests/unit/cm.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/base/os.h"

#define CHEAP_NS 300000 /* as measured where huge pages are cheap, and where not */
#define DEAR_NS	 3600000
#define START_NS 50000000 /* the program began just now, or a while ago */
#define LATER_NS 60000000000u

static void test_price(void **state)
{
	(void)state;
	assert_true(hugeprice_is_fair(8 * MIB, START_NS));
	hugeprice_note(CHEAP_NS, 8 * MIB);
	assert_true(hugeprice_is_fair(8 * MIB, START_NS));
	hugeprice_note(DEAR_NS, 8 * MIB);
	assert_false(hugeprice_is_fair(8 * MIB, START_NS));
	assert_false(hugeprice_is_fair(31 * MIB, START_NS));
	assert_true(hugeprice_is_fair(31 * MIB, LATER_NS));
	assert_true(hugeprice_is_fair(32 * MIB, START_NS));
	hugeprice_note(CHEAP_NS, 32 * MIB);
	assert_true(hugeprice_is_fair(33 * MIB, START_NS));
	hugeprice_note(DEAR_NS, 64 * MIB);
	assert_false(hugeprice_is_fair(127 * MIB, START_NS));
	assert_true(hugeprice_is_fair(128 * MIB, START_NS));
}

/* Is the OS page at addr resident? */
static bool is_touched(uintptr_t addr)
{
	unsigned char in = 0;

	assert_int_equal(mincore((void *)addr, OS_PAGE, &in), 0);
	return in & 1;
}

static void test_advice(void **state)
{
	void *raw = mmap(NULL, 4 * HUGE_PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t lo;

	(void)state;
	assert_ptr_not_equal(raw, MAP_FAILED);
	lo = align_up((uintptr_t)raw, HUGE_PAGE);
	hugeprice_note(DEAR_NS, 24 * MIB);
	hugeprice_advise(lo, lo + 2 * HUGE_PAGE, 48 * MIB);
	assert_false(is_touched(lo));
	hugeprice_advise(lo, lo, 96 * MIB);
	assert_false(is_touched(lo));
	hugeprice_advise(lo, lo + 2 * HUGE_PAGE, 96 * MIB);
	assert_true(is_touched(lo));
	assert_int_equal(*(char *)lo, 0);
	assert_false(is_touched(lo + HUGE_PAGE)); /* left to the program */
	munmap(raw, 4 * HUGE_PAGE);
}

/* Of a long growth the first half is tried, page by page, until one is dear. */
static void test_several(void **state)
{
	void *raw = mmap(NULL, 6 * HUGE_PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t lo;

	(void)state;
	if (!hugeprice_is_fair(96 * MIB, START_NS))
		skip(); /* one was dear just now */
	assert_ptr_not_equal(raw, MAP_FAILED);
	lo = align_up((uintptr_t)raw, HUGE_PAGE);
	hugeprice_advise(lo, lo + 5 * HUGE_PAGE, 96 * MIB);
	assert_true(is_touched(lo));
	if (hugeprice_is_fair(96 * MIB, START_NS)) { /* all were cheap */
		assert_true(is_touched(lo + HUGE_PAGE));
		assert_true(is_touched(lo + 2 * HUGE_PAGE));
	}
	assert_false(is_touched(lo + 3 * HUGE_PAGE));
	munmap(raw, 6 * HUGE_PAGE);
}

/* As a sandbox does it that knows no such clock. */
static void refuse_clocks(void)
{
	struct sock_filter list[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog filter = { .len = ARRAY_LEN(list), .filter = list };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
		_exit(2); /* not permitted here */
}

/* A malloc that succeeds leaves errno alone. */
static void test_refused_clock(void **state)
{
	int status = -1;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		refuse_clocks();
		errno = 0;
		_exit(os_thread_ns() == 0 && os_process_ns() == 0 && errno == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WEXITSTATUS(status) == 2)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_price),
		cmocka_unit_test(test_advice),
		cmocka_unit_test(test_several),
		cmocka_unit_test(test_refused_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
