/* SPDX-License-Identifier: Apache-2.0 */
/*
 * annotate: what the program itself says of its leaks, by functions that it defines for
 * LeakSanitizer: __lsan_default_options(), __lsan_default_suppressions() and
 * __lsan_is_turned_off().
 */
#ifndef PROFILER_LEAK_ANNOTATE_H
#define PROFILER_LEAK_ANNOTATE_H

#include "preload/base/base.h"

/* SLOW. Calls the program, in its own thread and with no lock held. Its options and
 * suppressions are taken the first time. True: it wants no leaks reported. */
bool annotate_ask(void);
/* Most leaks that are to be printed, 0: as many as usual. */
uint32_t annotate_max_leaks(void);

/* For tests. Takes options as LeakSanitizer writes them; text stays in use, modified. */
void annotate_parse(char *text);

#endif
