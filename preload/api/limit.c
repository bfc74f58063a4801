/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limit: setrlimit and prlimit, watched for RLIMIT_AS.
 *
 * The heap reserves far more address space than it uses. That costs nothing until the
 * program limits its own address space: then what is reserved would count, and its
 * threads and mappings would find nothing left. So the reserve is given back just before.
 * A limit that was there at start is seen when the first arena is made.
 */
#undef _FILE_OFFSET_BITS /* would rename setrlimit in the header */
#include <errno.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "preload/api/api.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"

/* rlim_t and rlim64_t are the same on x86-64, and so are the functions' two names. */
_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "one layout");

/* Not that of a child of vfork(), which shares our memory. */
static bool is_ours(int pid, int resource, const struct rlimit *limit)
{
	return resource == RLIMIT_AS && limit && (pid == 0 || pid == os_getpid()) &&
	       exit_is_own_process();
}

/* Will the kernel take it, whoever asks? */
static bool is_sure(const struct rlimit *limit)
{
	struct rlimit now;

	return limit->rlim_cur <= limit->rlim_max &&
	       os_call(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&now, 0, 0) == 0 &&
	       limit->rlim_max <= now.rlim_max;
}

static int set(int pid, int resource, const struct rlimit *limit, struct rlimit *old)
{
	const bool ours = is_ours(pid, resource, limit);
	const bool sure = ours && is_sure(limit);
	long ret;

	if (sure)
		heap_limit_space(limit->rlim_cur);
	ret = os_call(SYS_prlimit64, pid, resource, (long)limit, (long)old, 0, 0);
	if (ours && !sure && ret >= 0)
		heap_limit_space(limit->rlim_cur);
	if (ret >= 0)
		return 0;
	errno = (int)-ret;
	return -1;
}

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	return set(0, (int)resource, limit, NULL);
}

EXPORT int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit,
		   struct rlimit *old)
{
	return set(pid, (int)resource, limit, old);
}

int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
	__attribute__((alias("setrlimit"), visibility("default")));
int prlimit64(pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *limit,
	      struct rlimit64 *old)
	__attribute__((alias("prlimit"), visibility("default")));
