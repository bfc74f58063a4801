/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What signal handlers can come to, read from their code; and the reader of instructions,
 * with code of the C library's.
 */
#include "profiler/thread/handler.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "profiler/stack/cfi_int.h"
#include "profiler/stack/module.h"
#include "profiler/thread/insn.h"

/* As a program's are: a sanitizer would call functions of its own in them. */
#define PROGRAM __attribute__((noinline, no_sanitize("address", "undefined", "thread")))

static volatile sig_atomic_t flag;
static sigjmp_buf place;
static void (*volatile any)(int);
static volatile double number;

static PROGRAM void sets(int sig)
{
	flag = sig;
}

static PROGRAM void writes(int sig)
{
	if (write(2, "interrupted\n", 12) != 12 && sig > 2)
		_exit(1);
	number = number * 1.5 + sig;
}

static PROGRAM void asks(int sig)
{
	writes(sig);
	if (flag == 3)
		sets(sig);
}

static PROGRAM void again(int sig)
{
	signal(sig, again);
}

static PROGRAM void ends(int sig)
{
	(void)sig;
	pthread_exit(NULL);
}

static PROGRAM void jumps(int sig)
{
	siglongjmp(place, sig);
}

static PROGRAM void may_end(int sig)
{
	writes(sig);
	if (flag == 7)
		ends(sig);
	flag = 1;
}

static PROGRAM void calls_any(int sig)
{
	any(sig);
}

static PROGRAM void hands_over(int sig)
{
	signal(sig, may_end);
}

static PROGRAM void unknown(int sig)
{
	(void)sig;
	flag = getenv("HOME") != NULL; /* not listed */
}

static PROGRAM void system_call(int sig)
{
	__asm__ volatile("syscall" : : "a"(60), "D"(sig) : "rcx", "r11", "memory");
}

static bool may_leave(void (*handler)(int))
{
	return handler_may_leave((uintptr_t)handler);
}

static void test_returns(void **state)
{
	(void)state;
	assert_false(may_leave(sets));
	assert_false(may_leave(writes));
	assert_false(may_leave(asks));
	assert_false(may_leave(again));
}

static void test_leaves(void **state)
{
	(void)state;
	assert_true(may_leave(ends));
	assert_true(may_leave(jumps));
	assert_true(may_leave(may_end));
	assert_true(may_leave(calls_any));
	assert_true(may_leave(hands_over));
	assert_true(may_leave(unknown));
	assert_true(may_leave(system_call));
	assert_true(handler_may_leave((uintptr_t)&flag));
}

static void check(const char *code, size_t n, enum insn_kind kind, ptrdiff_t target)
{
	struct insn in;

	assert_true(insn_decode((const uint8_t *)code, (const uint8_t *)code + n, &in));
	assert_int_equal(in.size, n);
	assert_int_equal(in.kind, kind);
	if (kind != INSN_PLAIN && kind != INSN_ELSEWHERE)
		assert_int_equal(in.target - (uintptr_t)code - n, target);
	/* Cut off anywhere it is none. */
	for (size_t k = 0; k < n; k++)
		assert_false(insn_decode((const uint8_t *)code, (const uint8_t *)code + k,
					 &in));
}

#define CHECK_CODE(code, kind, target) check(code, sizeof(code) - 1, kind, target)

static void test_instructions(void **state)
{
	(void)state;
	CHECK_CODE("\xe8\x10\x00\x00\x00", INSN_BRANCH, 16);
	CHECK_CODE("\x0f\x84\xf0\xff\xff\xff", INSN_BRANCH, -16);
	CHECK_CODE("\x75\xfe", INSN_BRANCH, -2);
	CHECK_CODE("\xff\x25\x20\x00\x00\x00", INSN_THROUGH, 32);
	CHECK_CODE("\xf2\xff\x25\x20\x00\x00\x00", INSN_THROUGH, 32);
	CHECK_CODE("\x48\x8d\x3d\x08\x00\x00\x00", INSN_NAMES, 8);
	CHECK_CODE("\xff\xd0", INSN_ELSEWHERE, 0);
	CHECK_CODE("\xff\x60\x08", INSN_ELSEWHERE, 0);
	CHECK_CODE("\x0f\x05", INSN_ELSEWHERE, 0);
	CHECK_CODE("\xf3\x0f\x1e\xfa", INSN_PLAIN, 0);
	CHECK_CODE("\x64\x48\x8b\x04\x25\x28\x00\x00\x00", INSN_PLAIN, 0);
	CHECK_CODE("\x62\xf1\xfd\x48\x6f\x06", INSN_PLAIN, 0); /* vmovdqa64 */
	CHECK_CODE("\xc4\xe3\x7d\x39\xc1\x01", INSN_PLAIN, 0); /* vextracti128 */
	CHECK_CODE("\xc5\xf8\x77", INSN_PLAIN, 0);	       /* vzeroupper */
}

/* In functions of libc's the last instruction ends where the function does. */
static void test_whole_functions(void **state)
{
	const struct module *libc = module_find_code((uintptr_t)&strtod);
	uintptr_t at = (uintptr_t)&strtod;
	struct cfi_fde fde;
	size_t n = 0;

	(void)state;
	assert_non_null(libc);
	for (; n < 50000 && module_find_code(at) == libc; at = fde.end) {
		if (!cfi_find_fde(at, &fde)) { /* between functions */
			fde.end = at + 1;
			continue;
		}
		for (uintptr_t p = fde.start; p < fde.end; n++) {
			struct insn in;

			assert_true(insn_decode((const uint8_t *)p,
						(const uint8_t *)fde.end, &in));
			p += in.size;
		}
	}
	assert_true(n > 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_returns),
		cmocka_unit_test(test_leaves),
		cmocka_unit_test(test_instructions),
		cmocka_unit_test(test_whole_functions),
	};

	module_refresh();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
