/* SPDX-License-Identifier: Apache-2.0 */
/* early_main: a program with the library early; lives until its standard input ends. */
#include <stdio.h>

int early_answer(void);

int main(void)
{
	puts("runs");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return early_answer();
}
