/* SPDX-License-Identifier: Apache-2.0 */
/* begins: a program one of whose libraries allocates in its constructor. */
#include <stdio.h>
#include <stdlib.h>

extern void *begins_kept[];

int main(void)
{
	begins_kept[20] = malloc(500);
	return begins_kept[0] && begins_kept[30] ? 0 : 1;
}
