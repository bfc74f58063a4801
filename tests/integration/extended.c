/* SPDX-License-Identifier: Apache-2.0 */
/* A program that is linked with jemalloc: blocks of its functions and of malloc's go to
 * both families. */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "extended.h"

#define ZERO 64
#define MORE (7 << 8 | 3 << 20) /* a cache and an arena */

static const size_t sizes[] = { 1, 16, 17, 100, 1000, 5000, 33000, 100000, 3000000 };
#define NSIZES (sizeof(sizes) / sizeof(sizes[0]))

static int is_all(const char *p, size_t from, size_t to, char value)
{
	for (size_t i = from; i < to; i++)
		if (p[i] != value)
			return 0;
	return 1;
}

/* So that memory of this size is not fresh. */
static void soil(size_t size, int flags)
{
	void *p[20];

	for (int i = 0; i < 20; i++) {
		p[i] = mallocx(size, flags);
		memset(p[i], 0xff, malloc_usable_size(p[i]));
	}
	for (int i = 0; i < 20; i++)
		dallocx(p[i], flags);
}

static void test_size(size_t size, int lg)
{
	const size_t align = (size_t)1 << lg;
	const size_t more = size * 3 + 1, less = size / 3 + 1;
	char *p = mallocx(size, lg | MORE);
	size_t usable = malloc_usable_size(p);

	CHECK(p && (uintptr_t)p % align == 0 && usable >= size);
	CHECK(sallocx(p, 0) == usable && nallocx(size, lg) <= usable);
	CHECK(nallocx(size, lg) >= size);
	CHECK(xallocx(p, more, 0, 0) >= size && sallocx(p, 0) == usable);
	memset(p, 7, size);
	p = rallocx(p, more, lg | MORE);
	CHECK(p && (uintptr_t)p % align == 0 && is_all(p, 0, size, 7));
	p = rallocx(p, less, lg);
	CHECK(p && (uintptr_t)p % align == 0 && is_all(p, 0, less, 7));
	sdallocx(p, less, lg);

	soil(size, lg);
	p = mallocx(size, lg | ZERO);
	CHECK((uintptr_t)p % align == 0 && is_all(p, 0, sallocx(p, 0), 0));
	usable = sallocx(p, 0);
	memset(p, 5, usable);
	soil(more, lg);
	p = rallocx(p, more, lg | ZERO);
	CHECK((uintptr_t)p % align == 0 && is_all(p, 0, size, 5) &&
	      is_all(p, usable, sallocx(p, 0), 0));
	free(p);
}

static void test_both_families(void)
{
	char *p = malloc(100), *q = mallocx(100, 0);

	strcpy(p, "text");
	strcpy(q, "text");
	p = rallocx(p, 10000, 0);
	q = realloc(q, 10000);
	CHECK(strcmp(p, "text") == 0 && strcmp(q, "text") == 0);
	CHECK(sallocx(p, 0) == malloc_usable_size(q));
	dallocx(p, 0);
	free(q);
	dallocx(aligned_alloc(4096, 100), 0);
	free(mallocx(100, 12));
}

static void test_too_much(void)
{
	const size_t huge = SIZE_MAX / 2 + 2;
	void *p = mallocx(50, 0);

	CHECK(nallocx(huge, 0) == 0 && nallocx(SIZE_MAX, 0) == 0);
	errno = 0;
	CHECK(!mallocx(huge, 0) && errno == ENOMEM);
	errno = 0;
	CHECK(!mallocx(huge, 6 | ZERO) && errno == ENOMEM);
	CHECK(!rallocx(p, SIZE_MAX - 100, 0) && !rallocx(p, SIZE_MAX - 100, 8));
	CHECK(!mallocx(100, 63));
	dallocx(p, 0);
}

int main(void)
{
	for (size_t i = 0; i < NSIZES; i++)
		for (int lg = 0; lg < 15; lg += 2)
			test_size(sizes[i], lg);
	test_both_families();
	test_too_much();
	printf("failures %d\n", failures);
	return failures != 0;
}
