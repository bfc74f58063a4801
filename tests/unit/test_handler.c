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

/* A byte that is no instruction; a jump to where there is no code. */
static PROGRAM void unreadable(int sig)
{
	if (sig == 77)
		__asm__ volatile(".byte 0x06");
	flag = sig;
}

static PROGRAM void leads_out(int sig)
{
	if (sig == 77)
		__asm__ volatile(".byte 0xe9, 0x00, 0x00, 0xf0, 0x7f");
	flag = sig;
}

#define TEN(of) of(0) of(1) of(2) of(3) of(4) of(5) of(6) of(7) of(8) of(9)
#define FUNCTION(a, b)                      \
	static PROGRAM void set##a##b(void) \
	{                                   \
		flag = (a)*10 + (b);        \
	}
#define CALL(a, b) set##a##b();
#define ROW(what, a)                                                                 \
	what(a, 0) what(a, 1) what(a, 2) what(a, 3) what(a, 4) what(a, 5) what(a, 6) \
		what(a, 7) what(a, 8) what(a, 9)
#define FUNCTIONS(a) ROW(FUNCTION, a)
#define CALLS(a)     ROW(CALL, a)
TEN(FUNCTIONS)

/* More functions than are followed. */
static PROGRAM void calls_hundred(int sig)
{
	TEN(CALLS)
	flag = sig;
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
	assert_true(may_leave(unreadable));
	assert_true(may_leave(leads_out));
	assert_true(may_leave(calls_hundred));
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
	CHECK_CODE("\x62\xf1\xfd\x48\x6f\x80\x00\x01\x00\x00", INSN_PLAIN, 0);
	CHECK_CODE("\xc4\xe3\x7d\x39\xc1\x01", INSN_PLAIN, 0); /* vextracti128 */
	CHECK_CODE("\xc5\xf8\x77", INSN_PLAIN, 0);	       /* vzeroupper */
	CHECK_CODE("\x66\xf7\xc0\x34\x12", INSN_PLAIN, 0);     /* test, two bytes */
	CHECK_CODE("\xf7\xc0\x78\x56\x34\x12", INSN_PLAIN, 0);
	CHECK_CODE("\xf6\xc0\x01", INSN_PLAIN, 0);
	CHECK_CODE("\xa1\x01\x02\x03\x04\x05\x06\x07\x08", INSN_PLAIN, 0);
	CHECK_CODE("\x67\xa1\x01\x02\x03\x04", INSN_PLAIN, 0);
	CHECK_CODE("\xc8\x10\x00\x01", INSN_PLAIN, 0);		   /* enter */
	CHECK_CODE("\xe3\x05", INSN_BRANCH, 5);			   /* jrcxz */
	CHECK_CODE("\xff\x1d\x20\x00\x00\x00", INSN_ELSEWHERE, 0); /* far */
	CHECK_CODE("\xff\x2d\x20\x00\x00\x00", INSN_ELSEWHERE, 0);
	CHECK_CODE("\xff\x35\x20\x00\x00\x00", INSN_NAMES, 32); /* push */
}

/* Of another length on processors of another maker; nothing at all in 64-bit code. */
static void test_no_instructions(void **state)
{
	static const char codes[][8] = { "\x66\xe8\0\0\0", "\x66\x0f\x84\0\0\0",
					 "\x66\xeb\0",	   "\x06",
					 "\x0f\x04",	   "\x9a" };
	struct insn in;

	(void)state;
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		assert_false(insn_decode((const uint8_t *)codes[i],
					 (const uint8_t *)codes[i] + sizeof(codes[i]),
					 &in));
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
		cmocka_unit_test(test_no_instructions),
		cmocka_unit_test(test_whole_functions),
	};

	module_refresh();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
