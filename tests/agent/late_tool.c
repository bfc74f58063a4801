/* SPDX-License-Identifier: Apache-2.0 */
/*
 * late_tool: preloaded into the tool. It overhears the agent's first answer and rings
 * once more; and it is late to see that the thread has stopped for that second signal.
 */
#include <poll.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEAF 900 /* looks at whether the thread has stopped */

static int npolls, nwaits;

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	int ret = (int)syscall(SYS_poll, fds, n, timeout);

	return ret > 0 && npolls++ == 0 ? 0 : ret;
}

pid_t waitpid(pid_t pid, int *status, int options)
{
	if ((options & WNOHANG) && npolls > 0 && nwaits < DEAF) {
		nwaits++;
		return 0;
	}
	return (pid_t)syscall(SYS_wait4, pid, status, options, NULL);
}
