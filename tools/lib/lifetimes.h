/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lifetimes: what a lifetimes profile says of one stack: its samples, one for each range
 * of lifetimes, added up.
 */
#ifndef TOOLS_LIB_LIFETIMES_H
#define TOOLS_LIB_LIFETIMES_H

#include <jansson.h>
#include <stdio.h>

#include "tools/lib/pbfile.h"

struct lifetimes;

/* Adds a sample to *to, which is made where it is NULL. */
void lifetimes_add(struct lifetimes **to, const struct pbfile *f,
		   const Seep__Pprof__Sample *s);
void lifetimes_free(struct lifetimes *l);
/* Some lines, indented as frames are. */
void lifetimes_print(const struct lifetimes *l, FILE *out);
/* {"freed","freed_by_other","mean_ns","p50_ns","p90_ns","p99_ns","short_objects",
 * "short_bytes","live","live_bytes","age_mean_ns","age_oldest_ns","slack_bytes"} */
json_t *lifetimes_json(const struct lifetimes *l);
/* "12.3 ms" into buf; returns buf. */
const char *lifetimes_duration(double ns, char *buf, size_t size);

#endif
