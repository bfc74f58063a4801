/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dataname: names of variables from the ELF files' symbol tables, for reports.
 */
#ifndef PROFILER_ESCAPE_DATANAME_H
#define PROFILER_ESCAPE_DATANAME_H

#include "preload/base/base.h"

/* DUMP. "conf_root", "table+16", or "module+0x1234" where there is no symbol. */
void dataname_global(uintptr_t addr, char *buf, size_t size);
/* DUMP. The same for a thread-local variable of the program or of a library that was
 * loaded at start, given by its distance below the thread pointer. */
void dataname_tls(uintptr_t below, char *buf, size_t size);

#endif
