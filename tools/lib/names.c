/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names: see names.h.
 */
#include "tools/lib/names.h"

#include <libiberty/demangle.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/say.h"

bool names_style_of(const char *word, enum names_style *out_style)
{
	static const char *const words[] = { "none", "simple", "templates", "full" };

	for (int i = 0; i < 4; i++)
		if (strcmp(word, words[i]) == 0) {
			*out_style = (enum names_style)i;
			return true;
		}
	return false;
}

bool names_is_place(const char *name)
{
	const char *plus = strstr(name, "+0x");

	return plus && plus[3] &&
	       strspn(plus + 3, "0123456789abcdef") == strlen(plus + 3);
}

/* "operator<", "operator<<=", "operator->" ... at s: its length, else 0. Their angles
 * open and close nothing. */
static size_t operator_at(const char *text, const char *s)
{
	size_t n = strlen("operator");

	if (strncmp(s, "operator", n) != 0 ||
	    (s > text && (s[-1] == '_' || (s[-1] >= '0' && s[-1] <= '9') ||
			  ((s[-1] | 32) >= 'a' && (s[-1] | 32) <= 'z'))))
		return 0;
	if (s[n] == '-' && s[n + 1] == '>')
		return n + 2 + (s[n + 2] == '*');
	if (s[n] != '<' && s[n] != '>')
		return 0;
	if (s[n] == '<' && s[n + 1] == '=' && s[n + 2] == '>')
		return n + 3;
	return n + 1 + strspn(s + n + 1, s[n] == '<' ? "<=" : ">=");
}

/* Takes template arguments out, in place. The demangler writes operator< <int>, so an
 * operator's angles are never taken for them. */
static void drop_templates(char *text)
{
	char *to = text;
	int depth = 0;

	for (char *s = text; *s;) {
		size_t n = operator_at(text, s);

		if (n) {
			if (depth == 0) {
				memmove(to, s, n);
				to += n;
			}
			s += n;
			continue;
		}
		if (*s == '<')
			depth++;
		if (depth == 0)
			*to++ = *s;
		if (*s == '>' && depth > 0)
			depth--;
		s++;
	}
	*to = '\0';
	while (to > text && to[-1] == ' ')
		*--to = '\0';
}

/* " [clone .part.0]" and the like. */
static void drop_clones(char *text)
{
	char *clone = strstr(text, " [clone ");

	if (clone)
		*clone = '\0';
}

/* A C++ name put together from debug information: ns::function<int>. Not Rust's
 * <T as Trait>::method, nor main()::<lambda()>. */
static bool is_template(const char *name)
{
	return strstr(name, "::") && strchr(name, '<') && name[0] != '<' &&
	       !strstr(name, "::<");
}

char *names_human(const char *linkage, enum names_style style)
{
	char *text = NULL;
	int flags = DMGL_ANSI | DMGL_AUTO;

	if (style == NAMES_NONE)
		return format_string("%s", linkage);
	if (linkage[0] != '_' || (linkage[1] != 'Z' && linkage[1] != 'R')) {
		text = format_string("%s", linkage);
		if (style == NAMES_SIMPLE && is_template(text))
			drop_templates(text);
		return text;
	}
	text = rust_demangle(linkage, 0);
	if (text)
		return text;
	if (style == NAMES_FULL)
		flags |= DMGL_PARAMS;
	text = cplus_demangle(linkage, flags);
	if (!text)
		return format_string("%s", linkage);
	if (style != NAMES_FULL)
		drop_clones(text);
	if (style == NAMES_SIMPLE)
		drop_templates(text);
	return text;
}
