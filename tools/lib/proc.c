/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc: see proc.h.
 */
#include "tools/lib/proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "profiler/control/request.h"
#include "tools/lib/say.h"

#define CHUNK	65536
#define VIEWS	10 /* threads may end while we look through them */
#define DEAF	99
#define YOUNG_S 1 /* a shell has surely become the program by then */

char *proc_read(const char *path, long *out_size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	size_t used = 0, size = CHUNK;
	char *text;
	ssize_t n;

	if (fd < 0)
		return NULL;
	text = allocate(size);
	while ((n = read(fd, text + used, size - used - 1)) > 0) {
		used += (size_t)n;
		if (size - used > 1)
			continue;
		size *= 2;
		text = realloc(text, size);
		if (!text)
			die(EXIT_INCOMPLETE, "out of memory");
	}
	error = errno;
	close(fd);
	if (n < 0) {
		free(text);
		errno = error;
		return NULL;
	}
	text[used] = '\0';
	if (out_size)
		*out_size = (long)used;
	return text;
}

static const char *value_of(const char *status, const char *key)
{
	size_t n = strlen(key);

	for (const char *line = status; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n) == 0 && line[n] == ':')
			return line + n + 1 + strspn(line + n + 1, " \t");
	}
	return NULL;
}

uint64_t proc_number(const char *status, const char *key, int base, uint64_t missing)
{
	const char *value = value_of(status, key);

	return value ? strtoull(value, NULL, base) : missing;
}

char proc_state(const char *status)
{
	const char *value = value_of(status, "State");

	return value ? *value : '\0';
}

/* ---- threads ---- */

/* The kernel repeats these by itself after a signal. */
static bool restarts(long nr, const unsigned long *args)
{
	switch (nr) {
	case SYS_futex:
		return args[3] == 0 ||
		       (args[1] &
			~(unsigned long)(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)) ==
			       FUTEX_LOCK_PI;
	case SYS_read:
	case SYS_readv:
	case SYS_write:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_accept:
	case SYS_accept4:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_flock:
		return true;
	default:
		return false;
	}
}

static char state_of(int tid)
{
	char *path = format_string("/proc/%d/status", tid);
	char *status = proc_read(path, NULL);
	char state = status ? proc_state(status) : '\0';

	free(path);
	free(status);
	return state;
}

bool proc_is_deaf(int tid)
{
	return state_of(tid) == 'D';
}

bool proc_has_descriptor(int pid)
{
	char *path = format_string("/proc/%d/fd", pid);
	DIR *d = opendir(path);
	struct rlimit limit;
	struct dirent *entry;
	rlim_t used = 0;

	free(path);
	if (!d || prlimit(pid, RLIMIT_NOFILE, NULL, &limit) != 0) {
		if (d)
			closedir(d);
		return true;
	}
	while ((entry = readdir(d)))
		if (entry->d_name[0] != '.' &&
		    strtoull(entry->d_name, NULL, 10) < limit.rlim_cur)
			used++;
	closedir(d);
	return used < limit.rlim_cur;
}

bool proc_is_traced(int pid, int tid)
{
	char *path = format_string("/proc/%d/task/%d/status", pid, tid);
	char *status = proc_read(path, NULL);
	const bool is = status && proc_number(status, "TracerPid", 10, 0) != 0;

	free(path);
	free(status);
	return is;
}

/* How much a signal disturbs what the thread is in: 0 not at all; DEAF: none comes. */
static int disturbance(int pid, int tid)
{
	char *path = format_string("/proc/%d/task/%d/syscall", pid, tid);
	char *text = proc_read(path, NULL);
	unsigned long args[6];
	int score = 2;
	long nr;

	free(path);
	if (proc_is_deaf(tid)) {
		free(text);
		return DEAF;
	}
	if (!text)
		return score;
	if (strncmp(text, "running", 7) == 0)
		score = 0;
	else if (sscanf(text, "%ld %lx %lx %lx %lx %lx %lx", &nr, &args[0], &args[1],
			&args[2], &args[3], &args[4], &args[5]) == 7)
		score = restarts(nr, args) ? 1 : 3;
	free(text);
	return score;
}

static bool takes(int pid, int tid, int signal)
{
	char *path = format_string("/proc/%d/task/%d/status", pid, tid);
	char *status = proc_read(path, NULL);
	bool yes = false;

	free(path);
	if (status && !strchr("ZXx", proc_state(status)))
		yes = signal == 0 ||
		      !(proc_number(status, "SigBlk", 16, ~0ull) >> (signal - 1) & 1);
	free(status);
	return yes;
}

int proc_pick_thread(int pid, int signal)
{
	char *path = format_string("/proc/%d/task", pid);
	DIR *dir = opendir(path);
	int best = 0, best_score = DEAF + 1;
	const struct dirent *e;

	free(path);
	while (dir && (e = readdir(dir))) {
		int tid = atoi(e->d_name), score;

		if (tid <= 0 || !takes(pid, tid, signal))
			continue;
		score = disturbance(pid, tid);
		if (score < best_score) {
			best = tid;
			best_score = score;
		}
		if (score == 0)
			break;
	}
	if (dir)
		closedir(dir);
	return best;
}

static bool is_in_exec(int pid, int tid)
{
	char *path = format_string("/proc/%d/task/%d/syscall", pid, tid);
	char *text = proc_is_deaf(tid) ? proc_read(path, NULL) : NULL;
	const long nr = text ? strtol(text, NULL, 10) : -1;

	free(path);
	free(text);
	return nr == SYS_execve || nr == SYS_execveat;
}

bool proc_is_in_exec(int pid)
{
	char *path = format_string("/proc/%d/task", pid);
	DIR *dir = opendir(path);
	const struct dirent *e;
	bool is = false;

	free(path);
	while (!is && dir && (e = readdir(dir)))
		is = atoi(e->d_name) > 0 && is_in_exec(pid, atoi(e->d_name));
	if (dir)
		closedir(dir);
	return is;
}

/* ---- the process ---- */

int proc_view(int pid)
{
	const char state = state_of(pid);
	int other = 0;

	if (state && strchr("ZXx", state)) {
		other = proc_pick_thread(pid, AGENT_SIGNAL); /* not the agent */
		if (!other)
			other = proc_pick_thread(pid, 0);
	}
	return other ? other : pid;
}

char *proc_read_of(int pid, const char *name, long *out_size)
{
	char *text = NULL;

	for (int i = 0; i < VIEWS && !text; i++) {
		const int view = proc_view(pid);
		char *path = format_string("/proc/%d/%s", view, name);

		text = proc_read(path, out_size);
		free(path);
		if (view == pid)
			break;
	}
	return text;
}

bool proc_is_alive(int pid)
{
	char *status = proc_read_of(pid, "status", NULL);
	const bool alive = status && !strchr("ZXx", proc_state(status));

	free(status);
	return alive;
}

bool proc_handles(int pid, int signal)
{
	char *path = format_string("/proc/%d/status", pid);
	char *status = proc_read(path, NULL);
	bool does = status && proc_number(status, "SigCgt", 16, 0) >> (signal - 1) & 1;

	free(path);
	free(status);
	return does;
}

int proc_has_library(int pid)
{
	char *maps = proc_read_of(pid, "maps", NULL);
	int has = maps ? strstr(maps, "/libseep.so") != NULL : -1;

	free(maps);
	return has;
}

/* LD_PRELOAD of the environment that the program was started with names it. */
static bool preloads_library(int pid)
{
	long size = 0;
	char *all = proc_read_of(pid, "environ", &size);
	bool does = false;

	for (const char *at = all; at && at < all + size; at += strlen(at) + 1)
		if (strncmp(at, "LD_PRELOAD=", 11) == 0 && strstr(at, "libseep.so"))
			does = true;
	free(all);
	return does;
}

/* The loader is there, and has not come to libc yet, which it maps after what is
 * preloaded. */
static bool is_loading(int pid)
{
	char *maps = proc_read_of(pid, "maps", NULL);
	bool is = maps && strstr(maps, "/ld-linux") && !strstr(maps, "/libc.so");

	free(maps);
	return is;
}

static bool is_young(int pid)
{
	char *path = format_string("/proc/%d/stat", pid);
	char *stat = proc_read(path, NULL);
	const char *fields = stat ? strrchr(stat, ')') : NULL;
	unsigned long long began = 0;
	struct timespec now;
	double age;

	if (fields)
		sscanf(fields,
		       ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d "
		       "%*d %*d %*d %*d %llu",
		       &began);
	clock_gettime(CLOCK_BOOTTIME, &now);
	age = (double)now.tv_sec + (double)now.tv_nsec / 1e9 -
	      (double)began / (double)sysconf(_SC_CLK_TCK);
	free(stat);
	free(path);
	return fields && age < YOUNG_S;
}

bool proc_may_load_library(int pid)
{
	return (preloads_library(pid) && is_loading(pid)) || is_young(pid);
}

bool proc_same_namespace(int pid, const char *kind)
{
	char *theirs = format_string("/proc/%d/ns/%s", proc_view(pid), kind);
	char *ours = format_string("/proc/self/ns/%s", kind);
	struct stat a, b;
	bool differ;

	differ = stat(theirs, &a) == 0 && stat(ours, &b) == 0 &&
		 (a.st_ino != b.st_ino || a.st_dev != b.st_dev);
	free(theirs);
	free(ours);
	return !differ;
}
