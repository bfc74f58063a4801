/* SPDX-License-Identifier: Apache-2.0 */
/* hugeprice: after a dear huge page the heap must grow before the next is tried. */
#include "preload/heap/hugeprice.h"

#include "tests/unit/cm.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/base/meta.h"
#include "preload/base/os.h"

#define CHEAP_NS 300000 /* as measured where huge pages are cheap, and where not */
#define DEAR_NS	 3600000
#define START_NS 50000000 /* the program began just now, or a while ago */
#define SECOND	 1000000000ul
#define LATER_NS (60 * SECOND)

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
	hugeprice_note(DEAR_NS, 400 * MIB);
	assert_false(hugeprice_is_fair(511 * MIB, START_NS));
	assert_true(hugeprice_is_fair(512 * MIB, START_NS));
	/* For a larger heap they cost more, and save no more of the time. */
	assert_true(hugeprice_is_fair(64 * MIB, 2 * SECOND));
	assert_false(hugeprice_is_fair(64 * MIB, 2 * SECOND - 1));
	assert_true(hugeprice_is_fair(400 * MIB, 10 * SECOND));
	assert_false(hugeprice_is_fair(400 * MIB, 10 * SECOND - 1));
}

/* Is the OS page at addr resident? */
static bool is_touched(uintptr_t addr)
{
	unsigned char in = 0;

	assert_int_equal(mincore((void *)addr, OS_PAGE, &in), 0);
	return in & 1;
}

#define PAGES 6 /* huge ones */

/* Of fresh memory; 0: the kernel has none, or does not show them. */
static uintptr_t fresh_pages(int protection)
{
	void *raw = mmap(NULL, (PAGES + 1) * HUGE_PAGE, protection,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t lo;

	assert_ptr_not_equal(raw, MAP_FAILED);
	lo = align_up((uintptr_t)raw, HUGE_PAGE);
	if (madvise((void *)lo, HUGE_PAGE, MADV_HUGEPAGE) != 0 ||
	    madvise((void *)lo, HUGE_PAGE, MADV_NOHUGEPAGE) != 0)
		return 0;
	return access("/proc/self/smaps", R_OK) == 0 ? lo : 0;
}

/* Has the kernel been asked for a huge page at addr? */
static bool is_advised(uintptr_t addr)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	bool inside = false, advised = false;
	unsigned long from, to;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = addr - from < to - from;
		else if (inside && strncmp(line, "VmFlags:", 8) == 0)
			advised = strstr(line, " hg") != NULL;
	}
	fclose(f);
	return advised;
}

static void test_advice(void **state)
{
	uintptr_t lo = fresh_pages(PROT_READ | PROT_WRITE);

	(void)state;
	if (lo == 0)
		skip();
	hugeprice_note(DEAR_NS, 24 * MIB);
	hugeprice_advise(lo, lo + 2 * HUGE_PAGE, 48 * MIB);
	assert_false(is_touched(lo));
	hugeprice_advise(lo, lo, 96 * MIB);
	assert_false(is_touched(lo));
	hugeprice_advise(lo, lo + 2 * HUGE_PAGE, 96 * MIB);
	assert_true(is_touched(lo));
	assert_int_equal(*(char *)lo, 0);
	assert_false(is_touched(lo + HUGE_PAGE)); /* left to the program */
	/* A large heap's are asked for, whatever they cost. */
	assert_false(is_advised(lo + 2 * HUGE_PAGE));
	hugeprice_advise(lo + 2 * HUGE_PAGE, lo + 4 * HUGE_PAGE, 512 * MIB);
	assert_true(is_advised(lo + 2 * HUGE_PAGE) && is_advised(lo + 3 * HUGE_PAGE));
	assert_false(is_touched(lo + 2 * HUGE_PAGE));
}

static uintptr_t dear_page;

/* It costs the thread as much as where the host has to find it. */
static void make_page_dear(int sig, siginfo_t *info, void *context)
{
	uint64_t start = os_thread_ns();

	(void)sig;
	(void)context;
	if ((uintptr_t)info->si_addr != dear_page)
		abort();
	while (os_thread_ns() - start < DEAR_NS) {
	}
	mprotect((void *)dear_page, PAGES * HUGE_PAGE, PROT_READ | PROT_WRITE);
}

/* The first page is timed: when it was dear, the others are not asked for, nor are those
 * of the next growth. */
static void test_dear(void **state)
{
	struct sigaction act = { .sa_sigaction = make_page_dear, .sa_flags = SA_SIGINFO },
			 old;
	uintptr_t lo = fresh_pages(PROT_READ), next;

	(void)state;
	if (lo == 0)
		skip();
	dear_page = lo;
	hugeprice_note(DEAR_NS, MIB); /* long ago */
	sigaction(SIGSEGV, &act, &old);
	hugeprice_advise(lo, lo + 2 * HUGE_PAGE, 127 * MIB);
	sigaction(SIGSEGV, &old, NULL);
	assert_true(is_advised(lo));
	assert_false(is_advised(lo + HUGE_PAGE));
	next = fresh_pages(PROT_READ | PROT_WRITE);
	hugeprice_advise(next, next + 2 * HUGE_PAGE, 127 * MIB);
	assert_false(is_advised(next));
	assert_false(is_touched(next));
}

/* Of a long growth the first half is tried, page by page, until one is dear. */
static void test_several(void **state)
{
	uintptr_t lo = fresh_pages(PROT_READ | PROT_WRITE);

	(void)state;
	if (lo == 0)
		skip();
	hugeprice_note(DEAR_NS, MIB); /* long ago */
	hugeprice_advise(lo, lo + 5 * HUGE_PAGE, 96 * MIB);
	assert_true(is_touched(lo));
	if (hugeprice_is_fair(96 * MIB, START_NS)) { /* all were cheap */
		assert_true(is_touched(lo + HUGE_PAGE));
		assert_true(is_touched(lo + 2 * HUGE_PAGE));
		assert_true(is_advised(lo + 4 * HUGE_PAGE));
	}
	assert_false(is_touched(lo + 3 * HUGE_PAGE));
}

/* What the allocator itself has taken last, of so much that it comes in huge pages. */
static uintptr_t own_memory(void)
{
	void *p = NULL;

	for (size_t i = 0; i < 12 * MIB / (16 * KIB); i++)
		p = meta_alloc(16 * KIB, OS_PAGE, META_SPAN);
	assert_non_null(p);
	return (uintptr_t)p;
}

/* The price holds for the allocator's own memory as well. */
static void test_own_memory(void **state)
{
	(void)state;
	if (fresh_pages(PROT_READ) == 0)
		skip();
	hugeprice_note(CHEAP_NS, 24 * MIB);
	assert_true(is_advised(own_memory()));
	hugeprice_note(DEAR_NS, 24 * MIB);
	assert_false(is_advised(own_memory()));
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
		cmocka_unit_test(test_price),	   cmocka_unit_test(test_advice),
		cmocka_unit_test(test_dear),	   cmocka_unit_test(test_several),
		cmocka_unit_test(test_own_memory), cmocka_unit_test(test_refused_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
