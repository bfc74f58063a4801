/* SPDX-License-Identifier: Apache-2.0 */
/* why: see why.h. */
#include "profiler/leak/why.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"

const char *why_error(int error)
{
	switch (-error) {
	case EPERM:
		return "EPERM";
	case EACCES:
		return "EACCES";
	case EAGAIN:
		return "EAGAIN";
	case ENOMEM:
		return "ENOMEM";
	case ENOSYS:
		return "ENOSYS";
	case EINVAL:
		return "EINVAL";
	default:
		return "an error";
	}
}

int why_no_memory(char *out, size_t size)
{
	const char *call = "mmap";
	long ret = os_call(SYS_mmap, 0, OS_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);

	if (ret > 0 || ret < -4095) {
		const long page = ret;

		call = "mprotect";
		ret = os_call(SYS_mprotect, page, OS_PAGE, PROT_READ | PROT_WRITE, 0, 0,
			      0);
		os_call(SYS_munmap, page, OS_PAGE, 0, 0, 0, 0);
	}
	if (ret == 0) {
		fmt_string(out, size, "out of memory");
		return -ENOMEM;
	}
	fmt_string(out, size, "%s failed with %s", call, why_error((int)ret));
	return (int)ret;
}

void why_no_copy(char *out, size_t size, int wait_error, int signal)
{
	if (wait_error)
		fmt_string(out, size, "wait4 for the snapshot failed with %s",
			   why_error(wait_error));
	else if (signal == SIGKILL)
		fmt_string(out, size, "the snapshot was killed: is memory short?");
	else if (signal)
		fmt_string(out, size, "the snapshot ended by signal %d%s", signal,
			   signal == SIGSYS ? ": a seccomp filter" : "");
	else
		fmt_string(out, size, "the snapshot ended without a result");
}

int why_unstopped(char *out, size_t size, const char *instead, uint64_t n)
{
	if (instead[0])
		fmt_string(out, size, "it cannot be looked at while it runs: %s",
			   instead);
	else
		fmt_string(out, size,
			   "%lu new object%s seem%s lost, which only a stop can confirm",
			   n, n == 1 ? "" : "s", n == 1 ? "s" : "");
	return -EBUSY;
}
