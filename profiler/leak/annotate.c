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
#include "preload/base/os.h"
#include "profiler/leak/suppress.h"
#include "profiler/pprof/symbol.h"

typedef const char *(*text_function)(void);
typedef int (*flag_function)(void);

static struct {
	uint32_t asked; /* atomic */
} annotate;

static void add_suppressions(void)
{
	text_function fn = (text_function)symbol_find("__lsan_default_suppressions");
	const char *text = fn ? fn() : NULL;
	size_t size = text ? strlen(text) + 1 : 0;
	char *copy = text ? meta_map(size, META_LEAK) : NULL;
	unsigned bad;

	if (!copy)
		return;
	memcpy(copy, text, size);
	bad = suppress_parse(copy);
	if (bad)
		log_line("__lsan_default_suppressions(), line %u: not a suppression; "
			 "ignored",
			 bad);
}

bool annotate_ask(void)
{
	flag_function off;

	if (atomic_exchange_acq_rel(&annotate.asked, (uint32_t)1) == 0)
		add_suppressions();
	off = (flag_function)symbol_find("__lsan_is_turned_off");
	return off && off() != 0;
}
