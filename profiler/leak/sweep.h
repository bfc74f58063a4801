/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep: from the mark bits to records: which lost objects are direct, which indirect,
 * how much each direct one retains, grouped by site.
 */
#ifndef PROFILER_LEAK_SWEEP_H
#define PROFILER_LEAK_SWEEP_H

#include "profiler/leak/leak.h"
#include "profiler/leak/mark.h"

/* STW. Marks what the program must not be blamed for, and all it reaches: objects without
 * a record in exact mode (made before the constructor, or by ourselves), objects
 * inherited by a forked child, ignored objects. */
void sweep_hold(struct marker *m);
/* STW. Fills records, nrecords and totals of *out. False: out of memory. */
bool sweep_collect(struct marker *m, struct leak_result *out);

/* The white objects of one look, for another that must agree. table: size words, zero; a
 * power of two. */
struct sweep_candidates {
	uintptr_t *table;
	size_t size;
	size_t count; /* white; more than size / 2: they are not all in the table */
	size_t fresh; /* of them that no check has reported */
};
/* Both STW. */
void sweep_note_candidates(struct marker *m, struct sweep_candidates *out);
/* What is white and no candidate is held, with all it reaches. */
void sweep_keep_candidates(struct marker *m, struct sweep_candidates *set);
/* Remembers p as ignored. */
void sweep_ignore(uintptr_t p);

#endif
