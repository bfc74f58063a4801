/* SPDX-License-Identifier: Apache-2.0 */
/*
 * large: objects of more than SIZECLASS_MAX_SIZE bytes, or aligned beyond a page: one
 * span each. No locks of its own.
 */
#ifndef PRELOAD_HEAP_LARGE_H
#define PRELOAD_HEAP_LARGE_H

#include "preload/base/base.h"
#include "preload/heap/mspan.h"

/* SLOW. NULL: out of memory or size over PTRDIFF_MAX. out_dirty (or NULL): the memory may
 * hold old bytes. */
void *large_malloc(size_t size, size_t align, bool *out_dirty);
/* SLOW. The program is done with s, whose samples are released already or here. */
void large_free(struct mspan *s);
/* SLOW. In place if possible, else moved, by pages when it is big. NULL: s stands. size
 * is over SIZECLASS_MAX_SIZE. */
void *large_realloc(struct mspan *s, size_t size);

#endif
