/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runjson: DIR/run.json, what one `seep run` or `seep gate` did and wrote. Schema 1:
 * {"schema":1,"command":[..],"status":N,"verdict":"..","processes":[{"pid","ppid","exe",
 * "state","verdict","reason","served","alloc_objects","alloc_bytes","live_bytes",
 * "peak_bytes","files":[..],
 * "rss":{..} or null}],"files":[..]}. Extended, never renamed.
 */
#ifndef TOOLS_LIB_RUNJSON_H
#define TOOLS_LIB_RUNJSON_H

#include "tools/lib/launch.h"

/* verdict: "clean", "leak", "incomplete" or "none". Says so when it cannot be written. */
void runjson_write(const struct launch *l, int status, const char *verdict);
/* What follows the prefix in their names; ends in NULL. */
extern const char *const runjson_suffixes[];
/* Calls fn for every profile or report that a process of the run wrote. */
void runjson_each_file(const struct runtable_row *row,
		       void (*fn)(const char *path, void *arg), void *arg);

#endif
