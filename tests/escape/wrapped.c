/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wrapped: allocation through functions that hand on what they make. The report must name
 * their callers.
 */
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE  __attribute__((noinline))
#define BARRIER() __asm__ volatile("" : : : "memory")

NOINLINE void *inner_get(size_t n)
{
	void *p = malloc(n);

	if (!p)
		abort();
	BARRIER();
	return p;
}

NOINLINE void *xmalloc(size_t n)
{
	void *p = inner_get(n + 1);

	BARRIER();
	return p;
}

NOINLINE void uses_inside(void)
{
	void *p = xmalloc(99);

	BARRIER();
	free(p);
	BARRIER();
}

void *kept[100];

NOINLINE void keeps(int i)
{
	kept[i] = xmalloc(199);
	BARRIER();
}

NOINLINE void *hands_on(void)
{
	void *p = xmalloc(299);

	BARRIER();
	return p;
}

int main(void)
{
	for (int i = 0; i < 100; i++) {
		uses_inside();
		keeps(i);
		free(hands_on());
		BARRIER();
	}
	puts("done");
	return 0;
}
