/* SPDX-License-Identifier: Apache-2.0 */
/* static_victim [STATUS [PROGRAM ARGUMENT...]]: runs the program and waits for it. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	puts("static");
	fflush(stdout);
	if (argc > 2) {
		pid_t pid = fork();

		if (pid == 0) {
			execv(argv[2], argv + 2);
			_exit(127);
		}
		waitpid(pid, NULL, 0);
	}
	return argc > 1 ? atoi(argv[1]) : 3;
}
