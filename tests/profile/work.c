/* SPDX-License-Identifier: Apache-2.0 */
/* Deterministic allocations through named functions, static ones among them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif

void *kept[1000];
static int nkept;

NOINLINE static void *leaf_small(size_t n)
{
	void *p = malloc(n);

	__asm__ volatile("" : "+r"(p));
	return p;
}

NOINLINE static void middle_keep(int n)
{
	for (int i = 0; i < n; i++)
		kept[nkept++] = leaf_small(100);
	__asm__ volatile("");
}

NOINLINE void exported_churn(int n)
{
	for (int i = 0; i < n; i++) {
		char *p = calloc(1, 1000);

		__asm__ volatile("" : "+r"(p));
		free(p);
	}
}

NOINLINE static void big_peak(void)
{
	char *p = malloc(8 << 20);

	memset(p, 1, 8 << 20);
	free(p);
	__asm__ volatile("");
}

NOINLINE static int recurse(int depth)
{
	int n = depth > 0 ? recurse(depth - 1) : 0;

	if (depth == 0)
		kept[nkept++] = malloc(5000);
	__asm__ volatile("" : "+r"(n));
	return n + 1;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1;

	for (int i = 0; i < rounds; i++)
		exported_churn(500);
	middle_keep(200);
	big_peak();
	recurse(30);
	return argv[0] == NULL;
}
