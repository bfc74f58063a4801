/* SPDX-License-Identifier: Apache-2.0 */
/*
 * annotate: see annotate.h. The functions are looked for where the program was linked,
 * not among what it exports: LeakSanitizer's callers have them in the same file.
 *
 * Concurrency: whoever comes first asks; a second check that runs meanwhile does without.
 */
#include "profiler/leak/annotate.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/suppress.h"
#include "profiler/pprof/symbol.h"

typedef const char *(*text_function)(void);
typedef int (*flag_function)(void);

static struct {
	uint32_t asked; /* atomic */
	/* What the program's options say. */
	bool off;
	bool has_exitcode;
	uint32_t exitcode, max_leaks;
} annotate;

/* What the function returns, in memory of our own; NULL: nothing. */
static char *text_of(const char *function)
{
	text_function fn = (text_function)symbol_find(function);
	const char *text = fn ? fn() : NULL;
	size_t size = text ? strlen(text) + 1 : 0;
	char *copy = text ? meta_map(size, META_LEAK) : NULL;

	if (copy)
		memcpy(copy, text, size);
	return copy;
}

/* ---- options ---- */

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ':' || c == ',';
}

static bool set_number(const char *value, uint32_t max, uint32_t *out)
{
	uint32_t n = 0;

	for (const char *p = value; *p; p++) {
		if (*p < '0' || *p > '9' || n > max)
			return false;
		n = n * 10 + (uint32_t)(*p - '0');
	}
	if (*value == '\0' || n > max)
		return false;
	*out = n;
	return true;
}

static bool set_off(const char *value)
{
	static const char *const words[] = { "0", "no", "false", "1", "yes", "true" };

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strcmp(value, words[i]) == 0) {
			annotate.off = i < 3;
			return true;
		}
	return false;
}

/* False: the value makes no sense. */
static bool apply(const char *key, const char *value)
{
	if (strcmp(key, "detect_leaks") == 0)
		return set_off(value);
	if (strcmp(key, "max_leaks") == 0)
		return set_number(value, UINT32_MAX / 16, &annotate.max_leaks);
	if (strcmp(key, "exitcode") == 0) {
		if (!set_number(value, 255, &annotate.exitcode))
			return false;
		annotate.has_exitcode = true;
	} else if (strcmp(key, "suppressions") == 0) {
		suppress_load_late(value);
	}
	return true; /* all others have no meaning here */
}

/* Where the value ends that begins at p: at its quote, or at what stands between options.
 */
static char *end_of(char **p)
{
	const char quote = **p;
	char *end;

	if (quote == '"' || quote == '\'') {
		end = strchr(++*p, quote);
		return end ? end : *p + strlen(*p);
	}
	for (end = *p; *end && !is_space(*end);)
		end++;
	return end;
}

void annotate_parse(char *text)
{
	while (*text) {
		char *key = text, *value, *end;
		bool last;

		if (is_space(*text)) {
			text++;
			continue;
		}
		while (*text && *text != '=' && !is_space(*text))
			text++;
		if (*text != '=')
			continue; /* no option at all */
		*text = '\0';
		value = text + 1;
		end = end_of(&value);
		last = *end == '\0';
		*end = '\0';
		if (!apply(key, value))
			log_line("__lsan_default_options(): %.40s=%.40s is not "
				 "understood; ignored",
				 key, value);
		text = last ? end : end + 1;
	}
}

static void add_options(void)
{
	char *text = text_of("__lsan_default_options");

	if (text)
		annotate_parse(text);
}

int leak_exitcode(void)
{
	if (annotate.has_exitcode && !opt_get()->has_exitcode)
		return (int)annotate.exitcode;
	return opt_get()->exitcode;
}

uint32_t annotate_max_leaks(void)
{
	return annotate.max_leaks;
}

/* ---- suppressions ---- */

static void add_suppressions(void)
{
	char *text = text_of("__lsan_default_suppressions");
	unsigned bad = text ? suppress_parse(text) : 0;

	if (bad)
		log_line("__lsan_default_suppressions(), line %u: not a suppression; "
			 "ignored",
			 bad);
}

bool annotate_ask(void)
{
	flag_function off;

	if (atomic_exchange_acq_rel(&annotate.asked, (uint32_t)1) == 0) {
		add_options();
		add_suppressions();
	}
	off = (flag_function)symbol_find("__lsan_is_turned_off");
	return annotate.off || (off && off() != 0);
}
