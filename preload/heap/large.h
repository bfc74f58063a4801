/* SPDX-License-Identifier: Apache-2.0 */
/*
 * large: objects of more than SIZECLASS_MAX_SIZE bytes, or aligned beyond a page: one
 * span each. No locks of its own.
 */
#ifndef PRELOAD_HEAP_LARGE_H
#define PRELOAD_HEAP_LARGE_H

#include "preload/base/base.h"
#include "preload/heap/mspan.h"

/* SLOW. NULL: out of memory or size over PTRDIFF_MAX. */
void *large_malloc(size_t size, size_t align);
/* SLOW. In place if possible, else moved, by pages when it is big. NULL: s stands. size
 * is over SIZECLASS_MAX_SIZE. */
void *large_realloc(struct mspan *s, size_t size);

#endif
