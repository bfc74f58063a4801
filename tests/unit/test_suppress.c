/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns of suppressions, and parsing of wild input. */
#include "tests/unit/cm.h"

#include <stdlib.h>
#include <string.h>

#include "preload/base/pattern.h"
#include "profiler/leak/annotate.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/suppress.h"
#include "profiler/pprof/symbol.h"

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
		{ "c$", "abcabc", 1 },	  { "^a*bc$", "abxbc", 1 },
		{ "^a*bc", "abxbcx", 1 }, { "^a*bc$", "abcbcbc", 1 },
		{ "^a*bc$", "abcb", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (pattern_find(cases[i].pattern, cases[i].text) != cases[i].match)
			fail_msg("%s on %s", cases[i].pattern, cases[i].text);
}

static void count_plain(const struct suppress_entry *e, void *arg)
{
	*(uint64_t *)arg += strcmp(e->name, "from_a_file_of_dos") == 0;
}

static void test_parse(void **state)
{
	static char good[] = "# comment\n\nleak:abc\n  leak:x*y  \r\n";
	static char bad[] = "leak:a\nrace:b\nleak:\n";
	static char crlf[] = "# x\r\n\r\nleak:from_a_file_of_dos\r\n";
	static char noise[4096];
	unsigned seed = 7;
	uint64_t found = 0;

	(void)state;
	assert_int_equal(suppress_parse(good), 0);
	assert_int_equal(suppress_parse(bad), 2);
	assert_int_equal(suppress_parse(crlf), 0);
	suppress_each(count_plain, &found);
	assert_int_equal(found, 1);
	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i + 1 < sizeof(noise); i++) {
			seed = seed * 1664525u + 1013904223u;
			noise[i] = "leak:*\n\t #^$x{}."[(seed >> 20) % 16];
		}
		suppress_parse(noise);
	}
}

/* ---- memcheck's blocks ---- */

static void count_kept(const struct suppress_entry *e, void *arg)
{
	assert_string_not_equal(e->name, "dropped");
	*(unsigned *)arg += strcmp(e->name, "kept") == 0;
}

/* What is left of a block that makes no sense is no suppression. */
static void test_bad_blocks(void **state)
{
	static struct {
		char text[100];
		unsigned bad;
	} cases[] = {
		{ "{\ndropped\nMemcheck:Leak\n...\n}\n", 5 },
		{ "{\ndropped\nMemcheck:Leak\n}\n", 4 },
		{ "{\ndropped\nMemcheck:Leak\nfunc:malloc\nfun:x\n}\n", 4 },
		{ "{\ndropped\nMemcheck:Leak\nmatch-leak-kinds: some\nfun:x\n}\n", 4 },
		{ "{\ndropped\nnonsense\nfun:malloc\nfun:x\n}\n", 3 },
		{ "{\ndropped\nMemcheck:Leak\nfun:y\n", 5 },
		{ "{\ndropped\nMemcheck:Leak\nfun:y\n{\nkept\nMemcheck:Leak\nfun:x\n}\n",
		  5 },
		{ "leak:lo\1se\n", 1 },
		{ "{\nkept\nMemcheck:Leak\nmatch-leak-kinds: "
		  "definite,possible\nfun:x\n}\n",
		  0 },
	};
	unsigned kept = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(suppress_parse(cases[i].text), cases[i].bad);
	suppress_each(count_kept, &kept);
	assert_int_equal(kept, 2);
}

static void test_blocks(void **state)
{
	static char good[] =
		"{\n  a name\n  Memcheck:Leak\n  match-leak-kinds: definite\n"
		"  fun:malloc\n  fun:make_*\n  ...\n}\nleak:abc\n"
		"{\n  other\n  Memcheck:Param\n  write(buf)\n  fun:x\n}\n";
	static char no_kind[] = "{\nname\nnonsense\nfun:x\n}\n";
	static char bad_frame[] = "{\nname\nMemcheck:Leak\nfunction x\n}\n";
	static char unclosed[] = "{\nname\nMemcheck:Leak\nfun:x\n";

	(void)state;
	assert_int_equal(suppress_parse(good), 0);
	assert_int_equal(suppress_parse(no_kind), 3);
	assert_int_equal(suppress_parse(bad_frame), 4);
	assert_int_not_equal(suppress_parse(unclosed), 0);
}

static void test_block_frames(void **state)
{
	static const struct symbol stack[] = {
		{ .function = "make_node" }, { .function = "grow" },
		{ .function = "grow" },	     { .function = NULL },
		{ .function = "main" },
	};
	static const struct {
		const char *lines[4];
		uint32_t count;
		int match;
	} cases[] = {
		{ { "fun:make_node" }, 1, 1 },
		{ { "fun:make_*", "fun:grow" }, 2, 1 },
		{ { "fun:malloc", "fun:make_node" }, 2, 1 },
		{ { "fun:_ZnwmSt11align_val_t", "fun:make_node" }, 2, 1 },
		{ { "fun:_ZnamSt11align_val_tRKSt9nothrow_t", "fun:make_node" }, 2, 1 },
		{ { "fun:_ZnwX", "fun:make_node" }, 2, 0 },
		{ { "fun:make_nod?", "fun:grow" }, 2, 1 },
		{ { "fun:make" }, 1, 0 },
		{ { "fun:grow" }, 1, 0 },
		{ { "...", "fun:grow" }, 2, 1 },
		{ { "...", "fun:grow", "fun:main" }, 3, 0 },
		{ { "...", "fun:grow", "...", "fun:main" }, 4, 1 },
		{ { "fun:make_node", "...", "fun:main" }, 3, 1 },
		{ { "fun:make_node", "...", "fun:exit" }, 3, 0 },
		{ { "...", "fun:main", "fun:_start" }, 3, 0 },
		{ { "obj:*" }, 1, 0 },
		{ { "src:file.c" }, 1, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (suppress_frames_match(cases[i].lines, cases[i].count, stack, 5) !=
		    cases[i].match)
			fail_msg("case %zu", i);
	assert_true(pattern_whole("a*b?d", "axxbcd"));
	assert_false(pattern_whole("a*b", "abc"));
	assert_true(pattern_whole("*", ""));
	assert_false(pattern_whole("?", ""));
}

/* LeakSanitizer's options, also such as it would not read. */
static void test_options(void **state)
{
	static char good[] = "verbosity=1 exitcode='7':x,max_leaks=3\n";
	static char odd[] = "exitcode=256:max_leaks=:=:detect_leaks=maybe:exitcode=\"9";
	static char noise[512];
	static const char letters[] = "exitcode=max_leaks:,'\"1 \n";
	unsigned seed = 11;

	(void)state;
	assert_int_equal(leak_exitcode(), 23);
	assert_int_equal(annotate_max_leaks(), 0);
	annotate_parse(good);
	assert_int_equal(leak_exitcode(), 7);
	assert_int_equal(annotate_max_leaks(), 3);
	annotate_parse(odd);
	assert_int_equal(leak_exitcode(), 9);
	assert_int_equal(annotate_max_leaks(), 3);
	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i + 1 < sizeof(noise); i++) {
			seed = seed * 1664525u + 1013904223u;
			noise[i] = letters[(seed >> 16) % (sizeof(letters) - 1)];
		}
		annotate_parse(noise);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_glob),	     cmocka_unit_test(test_parse),
		cmocka_unit_test(test_blocks),	     cmocka_unit_test(test_bad_blocks),
		cmocka_unit_test(test_block_frames), cmocka_unit_test(test_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
