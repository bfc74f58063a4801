/* SPDX-License-Identifier: Apache-2.0 */
/* What jemalloc's library has beyond malloc; its own header need not be installed. */
#ifndef TESTS_INTEGRATION_EXTENDED_H
#define TESTS_INTEGRATION_EXTENDED_H

#include <stddef.h>

void *mallocx(size_t size, int flags);
void *rallocx(void *p, size_t size, int flags);
size_t xallocx(void *p, size_t size, size_t extra, int flags);
size_t sallocx(const void *p, int flags);
void dallocx(void *p, int flags);
void sdallocx(void *p, size_t size, int flags);
size_t nallocx(size_t size, int flags);

#endif
