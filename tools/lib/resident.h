/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resident: the table of what resident memory is made of, for summaries.
 */
#ifndef TOOLS_LIB_RESIDENT_H
#define TOOLS_LIB_RESIDENT_H

#include <stdint.h>

#define RESIDENT_PARTS 6 /* enum rss_part of profiler/sample/rss.h */

/* Prints nothing when total is 0. when: "at the end", "now". */
void resident_print(uint64_t total, const uint64_t parts[RESIDENT_PARTS],
		    const char *when);
/* The same from the comments of a profile, where they have it. */
void resident_print_file(const char *path, const char *when);

#endif
