/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain: who holds an object that is still reachable: the shortest way to it from a root.
 */
#ifndef PROFILER_LEAK_CHAIN_H
#define PROFILER_LEAK_CHAIN_H

#include "profiler/leak/handed.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/mark.h"
#include "profiler/leak/roots.h"

#define CHAIN_RECORDS 20 /* records that get a chain, the largest */

/* STW. Finds chains for the largest reachable records of *out, or, without
 * with_chains, those that grow. Walks the whole heap once
 * more, one object after the other, and needs 8 bytes a slot and 8 an object while it
 * does. False: out of memory; the records stay without. */
bool chain_find(struct marker *m, const struct roots *roots, const struct world *w,
		const struct handed *handed, struct leak_result *out);
/* The same in steps, for a look beside the program (look.h), which does the second. */
struct chain_search {
	struct marker *m;
	uintptr_t *where; /* by bit; 0: not found yet */
	uintptr_t *queue; /* bases of found objects, in order */
	size_t head, tail, room;
	size_t bytes; /* of each of the two */
};
bool chain_is_wanted(const struct leak_result *out);
/* False: out of memory. chain_free() in any case. */
bool chain_prepare(struct chain_search *s, struct marker *m, struct leak_result *out);
void chain_search(struct chain_search *s, const struct roots *roots,
		  const struct world *w, const struct handed *handed,
		  struct leak_result *out);
void chain_free(struct chain_search *s);
/* DUMP. "cache_table+0x40 (program)", "stack of thread 17", ... of where a chain begins.
 */
void chain_describe_root(uintptr_t where, char *text, size_t size);

#endif
