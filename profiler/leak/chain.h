/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain: who holds an object that is still reachable: the shortest way to it from a root.
 */
#ifndef PROFILER_LEAK_CHAIN_H
#define PROFILER_LEAK_CHAIN_H

#include "profiler/leak/leak.h"
#include "profiler/leak/mark.h"
#include "profiler/leak/roots.h"

#define CHAIN_RECORDS 20 /* records that get a chain, the largest */

/* STW. Finds chains for the largest reachable records of *out, or, without
 * with_chains, those that grow. Walks the whole heap once
 * more, one object after the other, and needs 8 bytes a slot and 8 an object while it
 * does. False: out of memory; the records stay without. */
bool chain_find(struct marker *m, const struct roots *roots, const struct world *w,
		struct leak_result *out);
/* DUMP. "cache_table+0x40 (program)", "stack of thread 17", ... of where a chain begins.
 */
void chain_describe_root(uintptr_t where, char *text, size_t size);

#endif
