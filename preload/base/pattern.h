/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pattern: how suppressions match names and stacks, LeakSanitizer's and memcheck's: for
 * the library, which knows symbols only, and for the tool, which reads debug information.
 */
#ifndef PRELOAD_BASE_PATTERN_H
#define PRELOAD_BASE_PATTERN_H

#include "preload/base/base.h"

/* FAST. LeakSanitizer's: is it found anywhere in text? '*' stands for anything, '^' and
 * '$' tie it to the beginning or end. */
bool pattern_find(const char *pattern, const char *text);
/* FAST. memcheck's: '*' and '?'; the pattern covers the whole text. */
bool pattern_whole(const char *pattern, const char *text);
/* Do the lines of a memcheck block ("fun:x", "obj:x", "src:x", "...") match the innermost
 * of nframes frames, in order? matches compares one with one. Our stacks begin with the
 * caller of malloc, so a first line that names an allocation function is left out when it
 * does not match. */
bool pattern_stack(const char *const *lines, uint32_t nlines, uint32_t nframes,
		   bool (*matches)(const char *line, uint32_t frame, void *arg),
		   void *arg);

#endif
