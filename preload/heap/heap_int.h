/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_int: what the files heap.c, heap_free.c and heap_walk.c share.
 */
#ifndef PRELOAD_HEAP_HEAP_INT_H
#define PRELOAD_HEAP_HEAP_INT_H

#include "preload/base/atomic.h"
#include "preload/heap/arena.h"
#include "preload/heap/mspan.h"

/* Dies with a message when p is not the start of the allocated slot index of s. */
void heap_check_object(const struct mspan *s, uint32_t index, const void *p,
		       const char *what);

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

/* Foreign pointers met so far. */
uint64_t heap_foreign_count(void);

#endif
