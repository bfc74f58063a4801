/* SPDX-License-Identifier: Apache-2.0 */
/*
 * say: see say.h.
 */
#include "tools/lib/say.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_SIZE 256 /* elements of a list */

static bool is_check; /* its last line is a verdict */

static bool wants_colour(void)
{
	const char *no = getenv("NO_COLOR"), *terminal = getenv("TERM");

	return isatty(2) && !(no && *no) && terminal && strcmp(terminal, "dumb") != 0;
}

/* One line, whatever characters a file's name has: it could look like a verdict. */
static __attribute__((format(printf, 2, 0))) void print(const char *colour,
							const char *format, va_list ap)
{
	bool on = colour && wants_colour();
	char *text;

	if (vasprintf(&text, format, ap) < 0)
		return;
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == '\177')
			*p = '?';
	fprintf(stderr, "seep: %s%s%s\n", on ? colour : "", text, on ? "\033[0m" : "");
	free(text);
}

void say(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	print(NULL, format, ap);
	va_end(ap);
}

void say_title(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	print("\033[1m", format, ap);
	va_end(ap);
}

void say_bad(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	print("\033[31m", format, ap);
	va_end(ap);
}

void say_verdict_when_incomplete(void)
{
	is_check = true;
}

void die(int status, const char *format, ...)
{
	char *reason;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&reason, format, ap) < 0)
		_exit(status);
	va_end(ap);
	say_bad("%s%s", status == EXIT_INCOMPLETE && is_check ? "INCOMPLETE: " : "",
		reason);
	free(reason);
	exit(status);
}

/* After getopt_long() has returned '?' and set optopt. */
void die_option(const char *option, const char *command)
{
	const char *what = "unknown option, or its value is missing";

	if (strncmp(option, "--", 2) == 0)
		what = optopt == 0	     ? "unknown option"
		       : strchr(option, '=') ? "takes no value"
					     : "its value is missing";
	die(EXIT_USAGE, "%s: %s; see seep %s --help", option, what, command);
}

long parse_number(const char *option, const char *value, long min, long max)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(value, &end, 10);
	if (*value == '\0' || *end || errno == ERANGE)
		die(EXIT_USAGE, "%s %s: not a number", option, value);
	if (n < min || n > max) {
		if (max == LONG_MAX)
			die(EXIT_USAGE, "%s %s: must be at least %ld", option, value,
			    min);
		die(EXIT_USAGE, "%s %s: must be from %ld to %ld", option, value, min,
		    max);
	}
	return n;
}

const char *say_bytes(uint64_t bytes, char *buf, size_t size)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, size, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return buf;
}

void *allocate(size_t size)
{
	void *p = calloc(1, size);

	if (!p)
		die(EXIT_INCOMPLETE, "out of memory");
	return p;
}

void *grown(void *list, size_t count, size_t *size, size_t element)
{
	if (count < *size)
		return list;
	*size = count ? count * 2 : FIRST_SIZE;
	list = *size <= SIZE_MAX / element ? realloc(list, *size * element) : NULL;
	if (!list)
		die(EXIT_INCOMPLETE, "out of memory");
	return list;
}

char *format_string(const char *format, ...)
{
	char *text;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vasprintf(&text, format, ap);
	va_end(ap);
	if (n < 0)
		die(EXIT_INCOMPLETE, "out of memory");
	return text;
}
