/* SPDX-License-Identifier: Apache-2.0 */
/* execs N: execs itself N times, as fast as it can, says "began" first and "done" at the
 * end. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int left = argc > 1 ? atoi(argv[1]) : 0;
	char text[16];

	if (argc == 2)
		puts("began");
	fflush(stdout);
	if (left == 0) {
		puts("done");
		return 0;
	}
	snprintf(text, sizeof(text), "%d", left - 1);
	execl(argv[0], argv[0], text, "again", (char *)NULL);
	return 1;
}
