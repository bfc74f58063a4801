/* SPDX-License-Identifier: Apache-2.0 */
/* Linked with the library, so that it is there even when LD_PRELOAD is ignored. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

int main(void)
{
	void *volatile p = malloc(100);

	p = NULL; /* lost: there would be something to say */
	printf("secure %d\n", getauxval(AT_SECURE) != 0);
	return 0;
}
