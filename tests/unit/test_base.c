/* SPDX-License-Identifier: Apache-2.0 */
/* Formatting, options and metadata. */
#include "tests/unit/cm.h"

#include <stdio.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"

static void test_format(void **state)
{
	char ours[200], libc[200];

	(void)state;
#define SAME(...)                                            \
	do {                                                 \
		fmt_string(ours, sizeof(ours), __VA_ARGS__); \
		snprintf(libc, sizeof(libc), __VA_ARGS__);   \
		assert_string_equal(ours, libc);             \
	} while (0)
	SAME("plain %% text");
	SAME("%d %i %u", -5, 7, 4000000000u);
	SAME("%ld %lu %zu", -5000000000l, 18446744073709551615ul, (size_t)12);
	SAME("%x %#x %08x|%-8x|%8d|%-8d|", 255u, 255u, 255u, 255u, -42, -42);
	SAME("%s|%10s|%-10s|%.3s|%.*s|", "abc", "abc", "abc", "abcdef", 2, "xyz");
	SAME("%c%c", 'a', 'b');
	SAME("%d %d", INT32_MIN, INT32_MAX);
	SAME("%ld", INT64_MIN);
	SAME("%p", (void *)0x1234);
	assert_int_equal(fmt_string(ours, 5, "%s", "longer"), 6);
	assert_string_equal(ours, "long");
}

static void json(const char *in, const char *want)
{
	char buf[200];
	struct out o;

	out_init(&o, buf, sizeof(buf) - 1, NULL, NULL);
	out_json(&o, in);
	buf[o.used] = '\0';
	assert_string_equal(buf, want);
}

static void test_json(void **state)
{
	(void)state;
	json("plain", "\"plain\"");
	json("a\"b\\c\n\t\x01", "\"a\\\"b\\\\c\\u000a\\u0009\\u0001\"");
	json("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
	     "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"");
	json("\xff\xc3(\xed\xa0\x80",
	     "\"\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd"
	     "\xef\xbf\xbd\"");
}

static int ncomplaints;
static char complaint[256];

static void complain(const char *pair, const char *reason)
{
	ncomplaints++;
	snprintf(complaint, sizeof(complaint), "%s %s", pair, reason);
}

static struct options parse(const char *text, int want_complaints)
{
	struct options o;

	ncomplaints = 0;
	opt_defaults(&o);
	opt_parse(&o, text, "/work dir", complain);
	assert_int_equal(ncomplaints, want_complaints);
	return o;
}

static void test_options(void **state)
{
	struct options o = parse(NULL, 0);

	(void)state;
	assert_int_equal(o.mode, OPT_MODE_SAMPLED);
	assert_int_equal(o.sample, 512 * KIB);
	assert_int_equal(o.exitcode, 23);
	assert_true(o.follow);
	o = parse("mode=exact:sample=64K:seed=7:leak=exit:escape=bound:threads=on:follow="
		  "off:"
		  "stack=100:exitcode=5:deepbind=on:hugepage=off",
		  0);
	assert_int_equal(o.mode, OPT_MODE_EXACT);
	assert_int_equal(o.sample, 65536);
	assert_int_equal(o.seed, 7);
	assert_int_equal(o.leak, OPT_LEAK_EXIT);
	assert_int_equal(o.escape, OPT_ESCAPE_BOUND);
	assert_true(o.threads && !o.follow && o.deepbind);
	assert_int_equal(o.stack, 100);
	assert_int_equal(o.exitcode, 5);
	assert_int_equal(o.hugepage, OPT_HUGE_OFF);
	o = parse("out=a\\:b\\\\c:mode=off:mode=exact", 0);
	assert_string_equal(o.out, "/work dir/a:b\\c");
	assert_int_equal(o.mode, OPT_MODE_EXACT);
	o = parse("out=/abs/%e", 0);
	assert_string_equal(o.out, "/abs/%e");
	opt_parse(&o, "out=x%e:suppressions=a%e", "/100%p", complain);
	assert_string_equal(o.out, "/100%%p/x%e");
	assert_string_equal(o.suppressions, "/100%p/a%e");
	o = parse("", 0);
	o = parse("::mode=exact:", 0);
	o = parse("mode=wrong:sample=0:sample=1X:sample=99999999999999999999:stack=0:"
		  "exitcode=256:nothing:=x:unknown=1",
		  9);
	assert_int_equal(o.mode, OPT_MODE_SAMPLED);
	assert_int_equal(o.sample, 512 * KIB);
}

static void test_expand(void **state)
{
	char buf[64];

	(void)state;
	assert_true(opt_expand("/d/%e.%p", "prog", 42, buf, sizeof(buf)));
	assert_string_equal(buf, "/d/prog.42");
	assert_true(opt_expand("/d/x%%%z", "prog", 42, buf, sizeof(buf)));
	assert_string_equal(buf, "/d/x%%z.42");
	assert_false(opt_expand("/d/%e%e%e%e%e%e%e%e", "long-program-name", 1, buf, 64));
}

static void test_meta(void **state)
{
	struct fixalloc f = FIXALLOC_INIT(48, META_OTHER);
	void *p[1000], *big = meta_map(100000, META_OTHER);

	(void)state;
	assert_true(meta_is_ours((uintptr_t)big) && !meta_is_ours((uintptr_t)&f));
	memset(big, 1, 100000);
	big = meta_remap(big, 100000, 5000000, META_OTHER);
	assert_int_equal(((char *)big)[99999], 1);
	assert_int_equal(((char *)big)[4999999], 0);
	meta_unmap(big, 5000000, META_OTHER);
	assert_false(meta_is_ours((uintptr_t)big));
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 1000; i++) {
			p[i] = fixalloc_get(&f);
			for (int k = 0; k < 48; k++)
				assert_int_equal(((char *)p[i])[k], 0);
			memset(p[i], 0xff, 48);
		}
		for (int i = 0; i < 1000; i++)
			fixalloc_put(&f, p[i]);
	}
	assert_int_equal(f.inuse, 0);
	assert_true((uintptr_t)meta_alloc(100, 64, META_OTHER) % 64 == 0);
}

#define TRIMMED	     3000
#define TRIMMED_SIZE 208 /* pages hold parts of objects */

/* In no order, so that runs are found; every hundredth object stays, or a part of them
 * all.
 */
static void trim_round(struct fixalloc *f, char **p, int stays)
{
	for (int i = 0; i < TRIMMED; i++) {
		int at = i * 7 % TRIMMED; /* once each */

		if (at < stays || (stays == 1 && at % 100 == 0))
			continue;
		fixalloc_put(f, p[at]);
		p[at] = NULL;
	}
	for (int k = 0; k < 2; k++) {
		size_t bytes = fixalloc_trim(f);

		assert_true(stays == TRIMMED || bytes <= TRIMMED * TRIMMED_SIZE);
		assert_true(stays > 1 || bytes > 0);
	}
	for (int i = 0; i < TRIMMED; i++) {
		if (p[i])
			continue;
		p[i] = fixalloc_get(f);
		for (int k = 0; k < TRIMMED_SIZE; k++)
			assert_int_equal(p[i][k], 0);
		memset(p[i], 0xff, TRIMMED_SIZE);
		*(int *)(void *)p[i] = i;
	}
	for (int i = 0; i < TRIMMED; i++)
		assert_int_equal(*(int *)(void *)p[i], i); /* no two in one place */
}

static void test_fixalloc_trim(void **state)
{
	static char *p[TRIMMED];
	struct fixalloc f = FIXALLOC_INIT(TRIMMED_SIZE, META_OTHER);

	(void)state;
	assert_int_equal(fixalloc_trim(&f), 0);
	trim_round(&f, p, TRIMMED); /* all are made */
	trim_round(&f, p, 1);
	trim_round(&f, p, 0);
	trim_round(&f, p, TRIMMED / 2);
	trim_round(&f, p, 0);
	assert_int_equal(f.inuse, TRIMMED);
}

/* Ranges that lie side by side come and go one by one. */
static void test_ranges(void **state)
{
	void *p[64];

	(void)state;
	for (int i = 0; i < 64; i++)
		p[i] = meta_map(i % 2 ? MIB : 256 * KIB, META_OTHER);
	for (int i = 0; i < 64; i += 3) {
		meta_unmap(p[i], i % 2 ? MIB : 256 * KIB, META_OTHER);
		p[i] = NULL;
	}
	for (int i = 0; i < 64; i++)
		if (p[i]) {
			assert_true(meta_is_ours((uintptr_t)p[i]));
			assert_true(meta_is_ours((uintptr_t)p[i] + 256 * KIB - 1));
		}
	for (int i = 0; i < 64; i++)
		meta_unmap(p[i], i % 2 ? MIB : 256 * KIB, META_OTHER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_format),	cmocka_unit_test(test_json),
		cmocka_unit_test(test_options), cmocka_unit_test(test_expand),
		cmocka_unit_test(test_meta),	cmocka_unit_test(test_fixalloc_trim),
		cmocka_unit_test(test_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
