/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pbmerge: one profile less another. Files of two runs lie at different addresses:
 * mappings are matched by build-id (or name), offset and size, as pprof does it, and
 * locations by their place in them.
 */
#ifndef TOOLS_LIB_PBMERGE_H
#define TOOLS_LIB_PBMERGE_H

#include "tools/lib/pbfile.h"

/* NULL, or why the two cannot be compared (a phrase, static). */
const char *pbmerge_mismatch(const struct pbfile *a, const struct pbfile *b);
/* Subtracts old from f, which must match; samples that come to nothing are left out. */
void pbmerge_subtract(struct pbfile *f, const struct pbfile *old);

#endif
