/* SPDX-License-Identifier: Apache-2.0 */
/* Not position-independent, and takes malloc's address: the linker makes an entry of the
 * program's own for it, which every dlsym() then finds. */
#include <stdlib.h>

static void *(*volatile make)(size_t) = malloc;

int main(void)
{
	void *volatile p = make(4321);

	p = NULL;
	return 0;
}
