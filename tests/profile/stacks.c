/* SPDX-License-Identifier: Apache-2.0 */
/* stacks N: makes an object at each of N distinct stacks, 30 frames of 512 functions
 * deep, the outer ones shared as a program shares them. Then says so, and waits until
 * stdin ends.
 */
#include <stdio.h>
#include <stdlib.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif

#define DEPTH  30
#define SHARED 15 /* from here on no two stacks have a frame in common */
#define SIZE   24

void **kept;

NOINLINE void step(unsigned number, unsigned depth);

#define FUNCTION(n)                                                \
	NOINLINE void function##n(unsigned number, unsigned depth) \
	{                                                          \
		step(number, depth + 1);                           \
		__asm__ volatile("" : : "r"(depth));               \
	}
#define TIMES_8(f, n) f(n##0) f(n##1) f(n##2) f(n##3) f(n##4) f(n##5) f(n##6) f(n##7)
#define TIMES_64(f, n)   \
	TIMES_8(f, n##0) \
	TIMES_8(f, n##1) \
	TIMES_8(f, n##2) \
	TIMES_8(f, n##3) \
	TIMES_8(f, n##4) TIMES_8(f, n##5) TIMES_8(f, n##6) TIMES_8(f, n##7)
#define TIMES_512(f, n)   \
	TIMES_64(f, n##0) \
	TIMES_64(f, n##1) \
	TIMES_64(f, n##2) \
	TIMES_64(f, n##3) \
	TIMES_64(f, n##4) TIMES_64(f, n##5) TIMES_64(f, n##6) TIMES_64(f, n##7)
#define ENTRY(n) function##n,

TIMES_512(FUNCTION, _)
static void (*const functions[512])(unsigned, unsigned) = { TIMES_512(ENTRY, _) };

NOINLINE void step(unsigned number, unsigned depth)
{
	unsigned shared = depth < SHARED ? SHARED - depth : 0;
	unsigned hash = ((number >> shared) * 31 + depth) * 0x9e3779b1u;

	if (depth < DEPTH)
		functions[hash >> 23](number, depth);
	else
		kept[number] = malloc(SIZE);
	__asm__ volatile("" : : "r"(number));
}

int main(int argc, char **argv)
{
	unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 20000;

	kept = malloc(n * sizeof(*kept));
	for (unsigned i = 0; i < n; i++)
		step(i, 0);
	puts("made");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
