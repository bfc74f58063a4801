/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scavenge: when free pages go back to the system. All functions need mheap's lock.
 *
 * Pages go back once nobody wanted them for a while: at every tick the least number of
 * dirty free pages since the last tick is what the program did without, and a quarter of
 * it is purged, a quarter for each second if it was longer, longest runs first and whole.
 * A tick takes 100 ms and 16 MiB of page traffic, or one second and any traffic at all: a
 * program that frees and takes the same memory over and over has no idle pages at a tick,
 * however slowly the machine runs it, and one that lets go of a gigabyte gives it back
 * within seconds. What a tick is to give back goes in parts of 16 MiB, so that nobody
 * waits long for it; while some is left, each 25 ms is a tick.
 */
#ifndef PRELOAD_HEAP_SCAVENGE_H
#define PRELOAD_HEAP_SCAVENGE_H

#include "preload/base/base.h"

void scavenge_note_locked(size_t npages); /* traffic: pages taken or given */
bool scavenge_is_due_locked(void);	  /* is it time for a tick? */
void scavenge_tick_locked(void);
bool scavenge_owes_locked(void);  /* is the next tick for what the last one has left? */
size_t scavenge_all_locked(void); /* purges everything; pages given back */
/* npages that hold nothing are about to be used because no dirty run fits: in a small
 * heap as much of the dirty ones goes, but for a small share of ninuse pages. */
void scavenge_make_up_locked(size_t npages, size_t ninuse);
uint64_t scavenge_purged_pages(void);

#endif
