/* SPDX-License-Identifier: Apache-2.0 */
/*
 * knownleaks: suppressions held against what only debug information tells: inlined
 * functions, source files and lines, names that the library does not have. The library
 * has left out what it could; its report says by which patterns, so that no file is read
 * again. The verdict comes after this.
 */
#ifndef TOOLS_LIB_KNOWNLEAKS_H
#define TOOLS_LIB_KNOWNLEAKS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct launch;

/* Are there leaks left, and suppressions that may cover them? */
bool knownleaks_wanted(const json_t *report);
/* Which are covered, as a list for knownleaks_apply(). report is another copy of that
 * one: its stacks are changed. not_after: see symbolizer_report(). */
json_t *knownleaks_find(json_t *report, int64_t not_after);
/* Leaves them out of the report, and of the leak profile that the process wrote with it
 * (NULL: none). How many stacks. */
size_t knownleaks_apply(json_t *report, const json_t *found, const char *profile);

/* All reports of a run: its table and files say afterwards what is left. Debug
 * information is read apart, see symbolizer_apart(). A report that has no file of its own
 * goes to keep(row's place, report, arg), which takes it over. False: not in time, and so
 * said. */
bool knownleaks_run(const struct launch *l, bool quiet,
		    void (*keep)(size_t row, json_t *report, void *arg), void *arg);

#endif
