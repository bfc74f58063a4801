/* SPDX-License-Identifier: Apache-2.0 */
/* Sites whose objects are small, large and mixed against the sampling period; every
 * fourth is kept. Prints what each site really did: name, objects, bytes, and of both
 * what is kept. */
#include <stdio.h>
#include <stdlib.h>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif

#define KEPT 16384

void *kept[KEPT];
static int nkept;

#define SITE(name)                              \
	NOINLINE void *name(size_t size)        \
	{                                       \
		void *p = malloc(size);         \
                                                \
		__asm__ volatile("" : "+r"(p)); \
		return p;                       \
	}

SITE(tiny)
SITE(medium)
SITE(large)
SITE(huge)
SITE(mixed)

static const struct {
	const char *name;
	void *(*make)(size_t size);
	int count;
	size_t size; /* 0: from 8 to 4000 */
} sites[] = { { "tiny", tiny, 40000, 24 },
	      { "medium", medium, 3000, 700 },
	      { "large", large, 200, 30000 },
	      { "huge", huge, 20, 400000 },
	      { "mixed", mixed, 3000, 0 } };

static unsigned state = 1;

static size_t draw(void)
{
	state = state * 1664525u + 1013904223u;
	return 8 + (state >> 8) % 3993;
}

static void work(int k)
{
	size_t bytes = 0, kept_bytes = 0;
	int keeps = 0;

	for (int i = 0; i < sites[k].count; i++) {
		size_t size = sites[k].size ? sites[k].size : draw();
		void *p = sites[k].make(size);

		bytes += size;
		if (i % 4) {
			free(p);
			continue;
		}
		kept[nkept++] = p;
		keeps++;
		kept_bytes += size;
	}
	printf("%s %d %zu %d %zu\n", sites[k].name, sites[k].count, bytes, keeps,
	       kept_bytes);
}

int main(void)
{
	for (int k = 0; k < 5; k++)
		work(k);
	return 0;
}
