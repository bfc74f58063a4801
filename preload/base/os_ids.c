/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os_ids: who we are, also where that must not be asked.
 *
 * libc asks for these numbers when a thread is made or the program wants them; a filter
 * of system calls that was made for a program may kill for them. Then /proc says the
 * same by calls that the loader makes.
 */
#include "preload/base/filter.h"
#include "preload/base/os.h"

/* 0: not known. tid: of the thread with that thread pointer. */
static struct {
	int pid, tid, ppid;
	void *self;
} known;

static bool may_be_asked(long nr)
{
	return !os_is_refused(nr, 0) && !filter_from_before();
}

void os_learn_ids(void)
{
	struct filter_ids ids = { 0, 0, 0 };

	if (may_be_asked(SYS_getpid) && may_be_asked(SYS_gettid)) {
		ids.pid = (int)os_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
		ids.tid = (int)os_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
	} else {
		filter_read_ids(&ids);
	}
	known.pid = ids.pid;
	known.tid = ids.tid;
	known.ppid = ids.ppid;
	known.self = __builtin_thread_pointer();
}

static int ask(long nr)
{
	return (int)os_call(nr, 0, 0, 0, 0, 0, 0);
}

int os_getpid(void)
{
	int pid = may_be_asked(SYS_getpid) ? ask(SYS_getpid) : known.pid;

	return pid > 0 ? pid : os_getpid_now();
}

int os_getpid_now(void)
{
	struct filter_ids ids;

	if (may_be_asked(SYS_getpid)) {
		int pid = ask(SYS_getpid);

		if (pid > 0)
			return pid;
	}
	if (filter_read_ids(&ids))
		return ids.pid;
	return known.pid > 0 ? known.pid : ask(SYS_getpid);
}

int os_gettid(void)
{
	struct filter_ids ids;
	int tid = 0;

	if (may_be_asked(SYS_gettid))
		tid = ask(SYS_gettid);
	else if (known.self == __builtin_thread_pointer())
		tid = known.tid;
	if (tid > 0)
		return tid;
	return filter_read_ids(&ids) ? ids.tid : ask(SYS_gettid);
}

int os_getppid(void)
{
	struct filter_ids ids;
	int pid = may_be_asked(SYS_getppid) ? ask(SYS_getppid) : 0;

	if (pid > 0)
		return pid;
	return filter_read_ids(&ids) ? ids.ppid : 0;
}
