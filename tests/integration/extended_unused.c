/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of jemalloc beside a preloaded malloc: nobody may come here. */
#include <stdlib.h>

#include "extended.h"

void *mallocx(size_t size, int flags)
{
	(void)size;
	(void)flags;
	abort();
}

void *rallocx(void *p, size_t size, int flags)
{
	(void)p;
	return mallocx(size, flags);
}

size_t xallocx(void *p, size_t size, size_t extra, int flags)
{
	(void)p;
	(void)extra;
	return mallocx(size, flags) != NULL;
}

size_t sallocx(const void *p, int flags)
{
	(void)p;
	return mallocx(0, flags) != NULL;
}

void dallocx(void *p, int flags)
{
	(void)p;
	mallocx(0, flags);
}

void sdallocx(void *p, size_t size, int flags)
{
	(void)p;
	mallocx(size, flags);
}

size_t nallocx(size_t size, int flags)
{
	return mallocx(size, flags) != NULL;
}
