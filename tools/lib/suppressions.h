/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suppressions: over the reports of a whole process tree: which suppressions nobody
 * needed, and suppressions that would cover every leak found, in memcheck's syntax.
 */
#ifndef TOOLS_LIB_SUPPRESSIONS_H
#define TOOLS_LIB_SUPPRESSIONS_H

#include <jansson.h>

struct suppressions {
	json_t *used; /* name: objects that it covered in any process */
	json_t *made; /* texts of blocks: name of each */
};

/* Takes in one process's report. */
void suppressions_add(struct suppressions *s, json_t *report);
/* One line for each that no process needed. */
void suppressions_say_unused(const struct suppressions *s);
/* Writes the made ones to a file of mode 0600, "-" for standard error. 0 or errno. */
int suppressions_write(const struct suppressions *s, const char *path);
void suppressions_free(struct suppressions *s);

#endif
