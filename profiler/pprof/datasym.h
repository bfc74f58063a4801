/* SPDX-License-Identifier: Apache-2.0 */
/*
 * datasym: names of variables: from an address in a module's data to the symbol there.
 */
#ifndef PROFILER_PPROF_DATASYM_H
#define PROFILER_PPROF_DATASYM_H

#include "preload/base/base.h"

/* DUMP. "cache_table+0x40 (program)", or "data of program+0x1234" where the file names
 * none. False: no module is there. Reads the file anew each time: for a few addresses. */
bool datasym_describe(uintptr_t addr, char *text, size_t size);

#endif
