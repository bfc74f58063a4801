/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_int: what the files heap.c, heap_free.c and heap_walk.c share.
 */
#ifndef PRELOAD_HEAP_HEAP_INT_H
#define PRELOAD_HEAP_HEAP_INT_H

#include "preload/heap/mspan.h"

/* Dies with a message when p is not the start of the allocated slot index of s. */
void heap_check_object(const struct mspan *s, uint32_t index, const void *p,
		       const char *what);

/* Prints one line about the misuse of p, then what the profiler knows of the object
 * there, and aborts. The caller holds no lock of the heap. */
void heap_fatal(const void *p, const char *format, ...) __attribute__((noreturn, cold))
PRINTF(2, 3);

/* Foreign pointers met so far. */
uint64_t heap_foreign_count(void);

#endif
