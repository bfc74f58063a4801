/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover: profiles from the store that a killed process left (profiler/site/store.h).
 * The library reads it: this command is started once more with the library preloaded and
 * told to read, and never gets to its main().
 */
#ifndef TOOLS_LIB_RECOVER_H
#define TOOLS_LIB_RECOVER_H

#include <stdbool.h>

#include "tools/lib/launch.h"

/* Writes the profiles of the store at path. out: pattern, NULL: as the process was told.
 * table: path of the run table whose row gets the figures, or NULL. quiet: no line. */
bool recover_store(const char *library, const char *path, const char *out,
		   const char *table, bool quiet);
/* All processes of the table that ended without a report. */
void recover_rows(struct launch *l, const char *library, const char *table);

/* How often the kernel has killed for lack of memory, as far as it says: in this cgroup,
 * or on the machine. */
unsigned long long recover_oom_kills(void);

#endif
