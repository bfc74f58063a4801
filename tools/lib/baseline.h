/* SPDX-License-Identifier: Apache-2.0 */
/*
 * baseline: leaks that are known: of a report (.report.json) that was kept. Leaks are the
 * same when their stacks' functions are, so that a baseline outlives the process and the
 * build it was made of.
 */
#ifndef TOOLS_LIB_BASELINE_H
#define TOOLS_LIB_BASELINE_H

#include <jansson.h>

struct baseline;

/* NULL: *out_why, allocated. */
struct baseline *baseline_read(const char *path, char **out_why);
void baseline_free(struct baseline *b);
/* Sets new_objects and new_bytes of every leak of the report to what is beyond the
 * baseline, which is used up by that much: several reports share it. */
void baseline_apply(struct baseline *b, json_t *report);
/* Writes a report to be a baseline; the file appears whole. 0 or errno. */
int baseline_write(json_t *report, const char *path);

#endif
