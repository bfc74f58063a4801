/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collapse: huge pages for what a snapshot has split. While a copy of the process is
 * there, or its writes are watched, the first write to a huge page splits it; it would
 * stay so, and the next snapshot would cost ten times as much.
 */
#ifndef PROFILER_LEAK_COLLAPSE_H
#define PROFILER_LEAK_COLLAPSE_H

#include "preload/base/base.h"

/* DUMP. Notes which huge pages the heap has. Does nothing where the kernel (before 6.7)
 * cannot tell. */
void collapse_note(void);
/* DUMP. Makes those that are split by now huge again, at low priority: about half a
 * second a GiB. Forgets them. */
void collapse_restore(void);
/* DUMP. The same now, without that priority, and nothing is forgotten: before a copy is
 * made after all. False: more than a few are split still. */
bool collapse_again(void);
/* In a forked child. */
void collapse_fork_child(void);

#endif
