/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jemalloc: the functions beyond malloc's by which programs that are linked with jemalloc
 * allocate (redis, bind, folly): were they left to it, its blocks and ours would meet in
 * functions that take both. Interface: jemalloc(3), "Non-standard API".
 *
 * Flags: bits 0 to 5 are the logarithm of the alignment, 64 asks for zeroed memory; those
 * above choose a cache and an arena, of which there is one kind here. What mallctl() and
 * malloc_stats_print() tell stays jemalloc's own: an empty heap.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "preload/api/api.h"
#include "preload/heap/heap.h"

#define FLAG_ZERO 64
#define PLAIN	  16 /* bytes; what every block is aligned to */

void *mallocx(size_t size, int flags);
void *rallocx(void *p, size_t size, int flags);
size_t xallocx(void *p, size_t size, size_t extra, int flags);
size_t sallocx(const void *p, int flags);
void dallocx(void *p, int flags);
void sdallocx(void *p, size_t size, int flags);
size_t nallocx(size_t size, int flags);

static size_t align_of(int flags)
{
	return (size_t)1 << (flags & 63);
}

EXPORT void *mallocx(size_t size, int flags)
{
	const size_t align = align_of(flags);
	void *p;

	if (align <= PLAIN)
		return flags & FLAG_ZERO ? calloc(1, size) : malloc(size);
	p = aligned_alloc(align, size);
	return p && flags & FLAG_ZERO ? memset(p, 0, heap_usable_size(p)) : p;
}

/* realloc() keeps no alignment. */
static void *realloc_aligned(void *p, size_t size, size_t align, size_t usable)
{
	void *fresh;

	if ((uintptr_t)p % align == 0 && size <= usable && size >= usable / 2)
		return p;
	fresh = aligned_alloc(align, size);
	if (!fresh)
		return NULL;
	memcpy(fresh, p, size < usable ? size : usable);
	free(p);
	return fresh;
}

EXPORT void *rallocx(void *p, size_t size, int flags)
{
	const size_t align = align_of(flags);
	const bool zero = flags & FLAG_ZERO;
	const size_t usable = zero || align > PLAIN ? heap_usable_size(p) : 0;

	p = align > PLAIN ? realloc_aligned(p, size, align, usable)
			  : realloc(p, size ? size : 1);
	if (p && zero && heap_usable_size(p) > usable)
		memset((char *)p + usable, 0, heap_usable_size(p) - usable);
	return p;
}

/* Resizes in place as far as that goes; here it does not. */
EXPORT size_t xallocx(void *p, size_t size, size_t extra, int flags)
{
	(void)size;
	(void)extra;
	(void)flags;
	return heap_usable_size(p);
}

EXPORT size_t sallocx(const void *p, int flags)
{
	(void)flags;
	return heap_usable_size(p);
}

EXPORT void dallocx(void *p, int flags)
{
	(void)flags;
	free(p);
}

EXPORT void sdallocx(void *p, size_t size, int flags)
{
	(void)size;
	(void)flags;
	free(p);
}

EXPORT size_t nallocx(size_t size, int flags)
{
	return heap_usable_size_of(align_of(flags), size);
}
