/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pattern: see pattern.h.
 */
#include "preload/base/pattern.h"

#include <string.h>

/* Matches pattern[0..end) against text from its beginning; whole: to its end as well. */
static bool match_from(const char *p, const char *end, const char *text, bool whole)
{
	const char *star = NULL, *retry = NULL;

	for (;;) {
		if (p < end && *p == '*') {
			star = ++p;
			retry = text;
		} else if (p == end) {
			if (!whole || *text == '\0')
				return true;
			if (!star)
				return false;
			p = star;
			text = ++retry;
		} else if (*text && *p == *text) {
			p++;
			text++;
		} else if (star && *retry) {
			p = star;
			text = ++retry;
		} else {
			return false;
		}
	}
}

bool pattern_find(const char *pattern, const char *text)
{
	const char *end = pattern + strlen(pattern);
	bool whole = end > pattern && end[-1] == '$';

	if (whole)
		end--;
	if (*pattern == '^')
		return match_from(pattern + 1, end, text, whole);
	for (;; text++) {
		if (match_from(pattern, end, text, whole))
			return true;
		if (*text == '\0')
			return false;
	}
}

bool pattern_whole(const char *p, const char *text)
{
	const char *star = NULL, *retry = NULL;

	while (*text) {
		if (*p == '*') {
			star = ++p;
			retry = text;
		} else if (*p && (*p == '?' || *p == *text)) {
			p++;
			text++;
		} else if (star) {
			p = star;
			text = ++retry;
		} else {
			return false;
		}
	}
	while (*p == '*')
		p++;
	return *p == '\0';
}

static bool names_allocator(const char *line)
{
	static const char *const names[] = { "malloc",
					     "calloc",
					     "realloc",
					     "reallocarray",
					     "memalign",
					     "valloc",
					     "aligned_alloc",
					     "posix_memalign",
					     "_Znwm",
					     "_Znam",
					     "_ZnwmRKSt9nothrow_t",
					     "_ZnamRKSt9nothrow_t",
					     "_ZnwmSt11align_val_t",
					     "_ZnamSt11align_val_t",
					     "_ZnwmSt11align_val_tRKSt9nothrow_t",
					     "_ZnamSt11align_val_tRKSt9nothrow_t" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strncmp(line, "fun:", 4) == 0 && pattern_whole(line + 4, names[i]))
			return true;
	return strncmp(line, "obj:", 4) == 0 && strstr(line, "vgpreload");
}

static bool match_lines(const char *const *lines, uint32_t nlines, uint32_t nframes,
			bool (*matches)(const char *line, uint32_t frame, void *arg),
			void *arg)
{
	uint32_t l = 0, f = 0, after_gap = 0, retry = 0;
	bool gap = false;

	while (l < nlines) {
		if (strcmp(lines[l], "...") == 0) {
			gap = true;
			after_gap = ++l;
			retry = f;
		} else if (f < nframes && matches(lines[l], f, arg)) {
			l++;
			f++;
		} else if (gap && retry < nframes) {
			l = after_gap;
			f = ++retry;
		} else {
			return false;
		}
	}
	return true;
}

bool pattern_stack(const char *const *lines, uint32_t nlines, uint32_t nframes,
		   bool (*matches)(const char *line, uint32_t frame, void *arg),
		   void *arg)
{
	return match_lines(lines, nlines, nframes, matches, arg) ||
	       (nlines > 1 && names_allocator(lines[0]) &&
		match_lines(lines + 1, nlines - 1, nframes, matches, arg));
}
