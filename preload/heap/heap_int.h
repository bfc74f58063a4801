/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_int: what the files heap.c, heap_realloc.c, heap_free.c and heap_walk.c share.
 */
#ifndef PRELOAD_HEAP_HEAP_INT_H
#define PRELOAD_HEAP_HEAP_INT_H

#include "preload/base/atomic.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mspan.h"

/* Dies with a message when p is not the start of the allocated slot index of s. */
void heap_check_object(const struct mspan *s, uint32_t index, const void *p,
		       const char *what);

/* The same when p, in a page of class c, is no slot of a span that has given it out. */
void heap_check_slot(unsigned c, const void *p);

/* Prints one line about the misuse of p, then what the profiler knows of the object
 * there, and aborts. The caller holds no lock of the heap. */
void heap_fatal(const void *p, const char *format, ...) __attribute__((noreturn, cold))
PRINTF(2, 3);

#define HEAP_YOUTH 4096 /* frees, which take some 0.1 ms more in all */

/* FAST. Is each free still looked at closely? See heap.h. */
static inline bool heap_is_young(void)
{
	return atomic_load_relaxed(&arena_fast.units) == 0;
}

/* SLOW. In youth, which comes to its end by this: does p, a slot of the class that the
 * caller takes for an object, lie free in some cache? Later false. */
bool heap_is_cached(unsigned sizeclass, const void *p);

/* FAST. Charges size to the budget, unless it is spent already: then the fast path
 * charged it. True: sample. */
static inline bool heap_charge(struct mcache *mc, size_t size)
{
	int64_t bytes = size < (size_t)(INT64_MAX / 4) ? (int64_t)size : INT64_MAX / 4;

	if (mc->budget >= 0)
		mc->budget -= bytes;
	return UNLIKELY(mc->budget < 0) &&
	       (LIKELY(mc->later == 0) || !mcache_take_back(mc));
}

/* The same for an object that did not come through an mcache. */
static inline bool heap_charge_own(size_t size)
{
	struct mcache *mc =
		LIKELY(seep_tls.state == TLS_LIVE) ? mcache_self() : heap_thread_start();

	return mc && heap_charge(mc, size);
}

/* SLOW. One slot of the class for size bytes asked. NULL: memory is out. */
void *heap_malloc_class(unsigned sizeclass, size_t size);
/* SLOW. p, an object of size bytes or NULL, is recorded if due. */
void *heap_sampled(void *p, size_t size, bool due);

/* Foreign pointers met so far. */
uint64_t heap_foreign_count(void);

#endif
