/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept: files of processes that could not write them where they belong: they had dropped
 * their privileges, or the file system is read-only. Such a process puts them beside the
 * table, as TABLE.ROW.SUFFIX.
 */
#ifndef TOOLS_LIB_KEPT_H
#define TOOLS_LIB_KEPT_H

#include <jansson.h>

#include "tools/lib/launch.h"

/* Brings them to their places, where the tool itself may write there. */
void kept_fetch(const struct launch *l);
/* A process's leak report, wherever it is; NULL: there is none. */
json_t *kept_report(const struct launch *l, const struct runtable_row *r);

#endif
