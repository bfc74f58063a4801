/* SPDX-License-Identifier: Apache-2.0 */
/* arguments: allocation functions that are given more than a size. */
#include <malloc.h>
#include <new>
#include <stdlib.h>

#define NOINLINE extern "C" __attribute__((noinline))
#define KEEP(p)	 __asm__ volatile("" : "+r"(p) : : "memory")

void *conf_root;

static void drop(void *p)
{
	KEEP(p);
	free(p);
	KEEP(p);
}

NOINLINE void make_conf(void)
{
	conf_root = calloc(1, 256);
	KEEP(conf_root);
}

NOINLINE void make_array(size_t n)
{
	drop(calloc(n, 24));
}

NOINLINE void make_many(size_t n)
{
	drop(reallocarray(NULL, n, 40));
}

NOINLINE void make_aligned(void)
{
	drop(memalign(64, 100));
}

NOINLINE void make_page(void)
{
	void *p;

	if (posix_memalign(&p, 4096, 5000) == 0)
		drop(p);
}

NOINLINE void make_pages(void)
{
	drop(calloc(1000, 4096));
}

struct alignas(64) line {
	char bytes[128];
};

NOINLINE void make_line(void)
{
	line *p = new line;

	KEEP(p);
	delete p;
	KEEP(p);
}

NOINLINE void make_plain(void)
{
	drop(malloc(256));
}

int main()
{
	for (size_t i = 0; i < 40; i++) {
		make_conf();
		free(conf_root);
		make_array(i + 1);
		make_many(i + 3);
		make_aligned();
		make_page();
		make_pages();
		make_line();
		make_plain();
	}
}
