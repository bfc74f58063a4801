/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tables: the memory of call frame information. Compiling one row touches four or five
 * places in .eh_frame_hdr and .eh_frame, and the kernel maps 64 KiB around each: after
 * some hundred rows all of a library's tables are resident, 7 MiB for a compiler. So
 * those pages are given back now and then; they are in the page cache when they are
 * needed again.
 */
#ifndef PROFILER_STACK_TABLES_H
#define PROFILER_STACK_TABLES_H

#include "preload/base/base.h"

/* INIT, after the first module_refresh(). From here on tables of the modules there are
 * now, which are never unloaded, are given back. */
void tables_be_thrifty(void);
/* SIGNAL. A row for pc was compiled. */
void tables_note_row(uintptr_t pc);

#endif
