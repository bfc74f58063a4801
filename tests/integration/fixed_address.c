/* SPDX-License-Identifier: Apache-2.0 */
/* Not position-independent, and takes malloc's address: the loader then answers lookups
 * of malloc with this program's PLT entry. Loses 77 bytes. */
#include <stdlib.h>

static void *(*volatile make)(size_t);
static void *volatile lost;

static __attribute__((noinline)) void lose(void)
{
	lost = make(77);
	lost = NULL;
}

int main(void)
{
	make = malloc;
	lose();
	return 0;
}
