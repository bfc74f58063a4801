/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state: see state.h.
 */
#include "profiler/thread/state.h"

#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"

#define MS_IN_NS 1000000u

const char *state_of_call(int call)
{
	static const struct {
		int call;
		const char *name;
	} names[] = {
		{ -1, "running" },
		{ SYS_futex, "futex" },
		{ 449, "futex" }, /* futex_waitv */
		{ SYS_poll, "poll" },
		{ SYS_ppoll, "poll" },
		{ SYS_select, "poll" },
		{ SYS_pselect6, "poll" },
		{ SYS_epoll_wait, "poll" },
		{ SYS_epoll_pwait, "poll" },
		{ 441, "poll" }, /* epoll_pwait2 */
		{ SYS_read, "read" },
		{ SYS_readv, "read" },
		{ SYS_pread64, "read" },
		{ SYS_recvfrom, "read" },
		{ SYS_recvmsg, "read" },
		{ SYS_write, "write" },
		{ SYS_writev, "write" },
		{ SYS_sendto, "write" },
		{ SYS_sendmsg, "write" },
		{ SYS_accept, "accept" },
		{ SYS_accept4, "accept" },
		{ SYS_connect, "connect" },
		{ SYS_nanosleep, "sleep" },
		{ SYS_clock_nanosleep, "sleep" },
		{ SYS_wait4, "wait for child" },
		{ SYS_waitid, "wait for child" },
		{ SYS_pause, "wait for signal" },
		{ SYS_rt_sigsuspend, "wait for signal" },
		{ SYS_rt_sigtimedwait, "wait for signal" },
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (names[i].call == call)
			return names[i].name;
	return "system call";
}

struct figures {
	uint64_t ran_ns, switches;
};

/* The number after the colon, in millionths. */
static uint64_t in_millionths(const char *p)
{
	uint64_t whole = 0, part = 0, unit = MS_IN_NS;

	while (*p && *p != ':')
		p++;
	while (*p && (*p < '0' || *p > '9'))
		p++;
	for (; *p >= '0' && *p <= '9'; p++)
		whole = whole * 10 + (uint64_t)(*p - '0');
	if (*p == '.')
		for (p++; *p >= '0' && *p <= '9' && unit > 1; p++) {
			unit /= 10;
			part += unit * (uint64_t)(*p - '0');
		}
	return whole * MS_IN_NS + part;
}

/* "se.exec_start   :   2452756.936123", in milliseconds, comes before the switches. */
static bool see_line(char *line, void *arg)
{
	struct figures *f = arg;

	if (strncmp(line, "se.exec_start", 13) == 0)
		f->ran_ns = in_millionths(line);
	if (strncmp(line, "nr_voluntary_switches", 21) != 0)
		return true;
	f->switches = in_millionths(line) / MS_IN_NS;
	return false;
}

uint64_t state_ran_ns(int pid, int tid, uint64_t *out_switches)
{
	struct figures f = { 0, 0 };
	char path[48];

	fmt_string(path, sizeof(path), "/proc/%d/task/%d/sched", pid, tid);
	os_each_line(path, see_line, &f);
	*out_switches = f.switches;
	return f.ran_ns;
}

uint64_t state_now_ns(void)
{
	struct figures f = { 0, 0 };

	os_yield(); /* brings our own figure up to date */
	os_each_line("/proc/thread-self/sched", see_line, &f);
	return f.ran_ns;
}

void state_name(int pid, int tid, char name[STATE_NAME_MAX])
{
	char path[48];
	long n = 0;
	int fd;

	fmt_string(path, sizeof(path), "/proc/%d/task/%d/comm", pid, tid);
	fd = os_open(path, 0, 0);
	if (fd >= 0) {
		n = os_read(fd, name, STATE_NAME_MAX - 1);
		os_close(fd);
	}
	if (n > 0 && name[n - 1] == '\n')
		n--;
	name[n > 0 ? n : 0] = '\0';
}
