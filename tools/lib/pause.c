/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pause: see pause.h. The constants are of a virtual machine with two cores under load;
 * tests/bench/live.py prints what was predicted beside what was measured.
 */
#include "tools/lib/pause.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "profiler/control/request.h"

#include "tools/lib/proc.h"
#include "tools/lib/say.h"

#define BASE_MS	       0.15 /* the call itself, and locks */
#define SMALL_PAGE_MS  0.00012
#define HUGE_PAGE_MS   0.0012
#define MAPPING_MS     0.004 /* each; a thread has two, for its stack */
#define STOP_MS	       0.5
#define STOP_THREAD_MS 0.015
#define WRITTEN_MS     0.5 /* searching what was written */
#define SMALL_ASKED_MS 0.000002
#define HUGE_ASKED_MS  0.0001
#define WORTH_WAITING  ((uint64_t)8 << 20) /* of small pages */
#define RESTORING_S    60
#define LOOK_MS	       5

static bool read_sizes(int pid, struct pause *out)
{
	char *rollup = proc_read_of(pid, "smaps_rollup", NULL);
	uint64_t all =
		rollup ? proc_number(rollup, "Anonymous", 10, UINT64_MAX) : UINT64_MAX;
	uint64_t huge = rollup ? proc_number(rollup, "AnonHugePages", 10, 0) : 0;

	free(rollup);
	if (all == UINT64_MAX)
		return false;
	out->huge_bytes = huge * 1024;
	out->small_bytes = (all > huge ? all - huge : 0) * 1024;
	return true;
}

static unsigned count_mappings(int pid)
{
	char *maps = proc_read_of(pid, "maps", NULL);
	unsigned count = 0;

	for (const char *at = maps; at && (at = strchr(at, '\n')) != NULL; at++)
		count++;
	free(maps);
	return count;
}

static bool is_agent(int pid, const char *tid)
{
	char path[64], *name;
	bool is;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/comm", pid, tid);
	name = proc_read(path, NULL);
	is = name && strcmp(name, AGENT_COMM "\n") == 0;
	free(name);
	return is;
}

/* The agent of an earlier check, which makes split pages huge again? */
static bool has_agent(int pid)
{
	char path[32];
	struct dirent *entry;
	bool found = false;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = opendir(path);
	while (tasks && !found && (entry = readdir(tasks)) != NULL)
		found = entry->d_name[0] != '.' && is_agent(pid, entry->d_name);
	if (tasks)
		closedir(tasks);
	return found;
}

/* Worth a look at all threads only where it could matter. */
static bool await_restoring(int pid, const struct pause *p)
{
	bool waited = false;

	if (p->small_bytes < WORTH_WAITING)
		return false;
	for (int i = 0; i < RESTORING_S * 1000 / LOOK_MS && has_agent(pid); i++) {
		poll(NULL, 0, LOOK_MS);
		waited = true;
	}
	return waited;
}

/* As profiler/leak/written.c. */
static bool tells_written(void)
{
	struct utsname name;
	int major, minor;

	return uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 13));
}

bool pause_predict(int pid, struct pause *out)
{
	char *status = proc_read_of(pid, "status", NULL);

	*out = (struct pause){ .threads = 1 };
	if (status)
		out->threads = (unsigned)proc_number(status, "Threads", 10, 1);
	free(status);
	if (!read_sizes(pid, out) || (await_restoring(pid, out) && !read_sizes(pid, out)))
		return false;
	out->screen_ms = BASE_MS + (double)(out->small_bytes >> 12) * SMALL_PAGE_MS +
			 (double)(out->huge_bytes >> 21) * HUGE_PAGE_MS +
			 count_mappings(pid) * MAPPING_MS;
	out->confirm_ms = out->screen_ms + STOP_MS + out->threads * STOP_THREAD_MS;
	out->uncopied_ms =
		tells_written()
			? BASE_MS + STOP_MS + out->threads * STOP_THREAD_MS + WRITTEN_MS +
				  (double)(out->small_bytes >> 12) * SMALL_ASKED_MS +
				  (double)(out->huge_bytes >> 21) * HUGE_ASKED_MS
			: 0;
	return true;
}
