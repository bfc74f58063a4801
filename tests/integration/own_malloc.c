/* SPDX-License-Identifier: Apache-2.0 */
/* A program with a malloc of its own, exported: it wins over a preloaded one. */
#include <stddef.h>

static char pool[1 << 20] __attribute__((aligned(16)));
static size_t used;

void *malloc(size_t size)
{
	void *p = pool + used;

	used += (size + 15) & ~(size_t)15;
	return used <= sizeof(pool) ? p : NULL;
}

void free(void *p)
{
	(void)p;
}

int main(void)
{
	return malloc(10) == NULL;
}
