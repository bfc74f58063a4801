/* SPDX-License-Identifier: Apache-2.0 */
/*
 * say: the tool's own messages: on stderr, each line with "seep: " in front, in colour
 * only on a terminal that can, and without NO_COLOR.
 */
#ifndef TOOLS_LIB_SAY_H
#define TOOLS_LIB_SAY_H

#include <stddef.h>
#include <stdint.h>

#define EXIT_USAGE	25
#define EXIT_INCOMPLETE 24
#define EXIT_LEAK	23

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same, bold or red. */
void say_title(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_bad(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints the message and exits with status. */
void die(int status, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));
/* From now on a death by EXIT_INCOMPLETE is the verdict of a check. */
void say_verdict_when_incomplete(void);
/* What getopt did not take, with the command whose help tells more. */
void die_option(const char *option, const char *command) __attribute__((noreturn));
/* The number that an option's value says; dies when it is none from min to max. */
long parse_number(const char *option, const char *value, long min, long max);
/* "12.3 MiB" into buf; returns buf. */
const char *say_bytes(uint64_t bytes, char *buf, size_t size);
/* Allocation that dies when memory is out. */
char *format_string(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *allocate(size_t size); /* zeroed */
/* A list of *size elements with room for one at index count: list, or a larger one. */
void *grown(void *list, size_t count, size_t *size, size_t element);

#endif
