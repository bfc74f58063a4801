/* SPDX-License-Identifier: Apache-2.0 */
/*
 * all_wait: for programs whose threads all come to wait in the end.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void wait_until_all_wait(void);

/* All but us wait in futex(). */
static int all_wait(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *e;
	int waiting = 1;

	while ((e = readdir(dir))) {
		char path[300], text[8] = "";
		FILE *f;

		if (e->d_name[0] == '.' || atoi(e->d_name) == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/syscall", e->d_name);
		f = fopen(path, "r");
		if (f && fgets(text, 4, f) && strcmp(text, "202") != 0)
			waiting = 0;
		if (f)
			fclose(f);
	}
	closedir(dir);
	return waiting;
}

void wait_until_all_wait(void)
{
	for (int again = 0; again < 3;) /* a thread may just be starting */
		again = all_wait() ? again + 1 : 0;
}
