/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table: from a 64-bit key to a number, by open addressing in a metadata mapping that
 * doubles. A zeroed struct table is an empty one.
 */
#ifndef PROFILER_PPROF_TABLE_H
#define PROFILER_PPROF_TABLE_H

#include "preload/base/base.h"

struct slot {
	uint64_t key; /* 0: empty */
	uint64_t value;
};

struct table {
	struct slot *slots;
	size_t nslots, used; /* nslots: a power of two, or 0 */
	bool borrowed;	     /* slots are the caller's, see table_begin() */
};

#define TABLE_BEGIN 256 /* slots for table_begin() */

/* An empty table whose first slots are the caller's, TABLE_BEGIN zeroed ones that stay as
 * long as the table: most need no mapping of their own then. */
void table_begin(struct table *t, struct slot *slots);

/* DUMP. The slot of key, which is not 0; a new one has value 0. It stays where it is
 * until the next call for this table. NULL: out of memory. */
struct slot *table_at(struct table *t, uint64_t key);
void table_free(struct table *t);

#endif
