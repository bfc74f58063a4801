/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fmt: text without stdio. A struct out collects bytes in a caller's buffer and hands
 * full buffers to a sink; formatting knows a small, documented part of printf.
 */
#ifndef PRELOAD_BASE_FMT_H
#define PRELOAD_BASE_FMT_H

#include "preload/base/base.h"
#include <stdarg.h>

/* Receives bytes; false: the sink failed and the rest is dropped. */
typedef bool (*out_sink)(void *arg, const char *bytes, size_t size);

struct out {
	char *buf;
	size_t size; /* of buf */
	size_t used;
	out_sink sink; /* NULL: the text ends where the buffer does, see lost */
	void *arg;
	size_t lost; /* bytes that did not fit or that the sink refused */
};

/* SIGNAL. Text into buf alone. */
void out_init(struct out *o, char *buf, size_t size, out_sink sink, void *arg);
void out_bytes(struct out *o, const char *bytes, size_t size);
void out_str(struct out *o, const char *text);
/* A JSON string with its quotes; bytes that are no UTF-8 become U+FFFD. */
void out_json(struct out *o, const char *text);
/* Knows %s %.*s %c %d %i %u %x %p %% with width, 0 and -, and the lengths l ll z j. */
void out_format(struct out *o, const char *format, ...) PRINTF(2, 3);
void out_vformat(struct out *o, const char *format, va_list ap) PRINTF(2, 0);
bool out_flush(struct out *o); /* false: something was lost */

/* SIGNAL. Like snprintf: always terminates, returns the length it wanted. */
size_t fmt_string(char *buf, size_t size, const char *format, ...) PRINTF(3, 4);

/*
 * One line "seep: TEXT\n" to standard error in a single write, at most 640 bytes. SIGNAL.
 * Nothing is written when descriptor 2 is no longer the file it was at start
 * (log_remember_stderr()), so that a program's data file never receives our text.
 */
void log_line(const char *format, ...) PRINTF(1, 2);
void log_remember_stderr(void); /* INIT */
bool log_stderr_is_ours(void);	/* false: closed, or another file than at start */

#endif
