/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: how Seep dies, see check.h.
 */
#include "preload/base/check.h"

#include <stdlib.h>

#include "preload/base/fmt.h"

void fatal_line(const char *format, va_list ap)
{
	char text[512];
	struct out o;

	out_init(&o, text, sizeof(text) - 1, NULL, NULL);
	out_vformat(&o, format, ap);
	text[o.used] = '\0';
	log_line("%s", text);
}

void fatal(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fatal_line(format, ap);
	va_end(ap);
	abort();
}
