/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: how Seep dies, see check.h.
 */
#include "preload/base/check.h"

#include <stdlib.h>

#include "preload/base/fmt.h"

void fatal(const char *format, ...)
{
	char text[512];
	struct out o;
	va_list ap;

	out_init(&o, text, sizeof(text) - 1, NULL, NULL);
	va_start(ap, format);
	out_vformat(&o, format, ap);
	va_end(ap);
	text[o.used] = '\0';
	log_line("%s", text);
	abort();
}
