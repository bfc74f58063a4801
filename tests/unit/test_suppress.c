/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns of suppressions, and parsing of wild input. */
#include "tests/unit/cm.h"

#include <stdlib.h>
#include <string.h>

#include "profiler/leak/suppress.h"

static void test_glob(void **state)
{
	static const struct {
		const char *pattern, *text;
		int match;
	} cases[] = {
		{ "abc", "xabcx", 1 },	  { "abc", "abd", 0 },
		{ "a*c", "xxaBBBcx", 1 }, { "^abc", "abcdef", 1 },
		{ "^abc", "xabc", 0 },	  { "abc$", "xabc", 1 },
		{ "abc$", "abcx", 0 },	  { "^a*c$", "abbc", 1 },
		{ "^a*c$", "abbcd", 0 },  { "*", "", 1 },
		{ "", "x", 1 },		  { "a*b*c", "a1b2b3c", 1 },
		{ "^abc$", "abc", 1 },	  { "^abc$", "abcabc", 0 },
		{ "a**b", "ab", 1 },	  { "x*$", "abx", 1 },
		{ "c$", "abcabc", 1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (suppress_glob(cases[i].pattern, cases[i].text) != cases[i].match)
			fail_msg("%s on %s", cases[i].pattern, cases[i].text);
}

static void test_parse(void **state)
{
	static char good[] = "# comment\n\nleak:abc\n  leak:x*y  \r\n";
	static char bad[] = "leak:a\nrace:b\nleak:\n";
	static char noise[4096];
	unsigned seed = 7;

	(void)state;
	assert_int_equal(suppress_parse(good), 0);
	assert_int_equal(suppress_parse(bad), 2);
	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i + 1 < sizeof(noise); i++) {
			seed = seed * 1664525u + 1013904223u;
			noise[i] = "leak:*\n\t #^$x"[(seed >> 20) % 13];
		}
		suppress_parse(noise);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_glob),
		cmocka_unit_test(test_parse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
