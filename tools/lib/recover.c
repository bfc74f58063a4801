/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover: see recover.h.
 */
#include "tools/lib/recover.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/lib/say.h"

static _Noreturn void become_reader(const char *library, const char *options, bool quiet)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		if (quiet)
			dup2(null, 2);
	}
	setenv("LD_PRELOAD", library, 1);
	setenv("SEEP_OPTIONS", options, 1);
	execl("/proc/self/exe", "seep", "recover", "--not-preloaded", (char *)NULL);
	_exit(127);
}

bool recover_store(const char *library, const char *path, const char *out,
		   const char *table, bool quiet)
{
	char *options = launch_add_option(NULL, "recover", path);
	int status = -1;
	pid_t pid;

	if (out)
		options = launch_add_option(options, "out", out);
	if (table)
		options = launch_add_option(options, "run", table);
	pid = fork();
	if (pid == 0)
		become_reader(library, options, quiet);
	free(options);
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

void recover_rows(struct launch *l, const char *library, const char *table)
{
	for (unsigned i = 0; i < launch_rows(l); i++) {
		const struct runtable_row *r = &l->table->rows[i];
		char *path;

		if (!r->stored || r->state != RUNROW_CLAIMED || launch_is_running(r))
			continue;
		path = format_string("%s.%u", table, i);
		if (!recover_store(library, path, NULL, table, false))
			say("the profile of process %d could not be recovered", r->pid);
		free(path);
	}
}

/* The number behind the line's first word, 0: there is no such line. */
static unsigned long long number_in(const char *path, const char *word)
{
	FILE *f = fopen(path, "re");
	unsigned long long n = 0, found = 0;
	char line[128], name[64];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %llu", name, &n) == 2 && strcmp(name, word) == 0)
			found = n;
	if (f)
		fclose(f);
	return found;
}

unsigned long long recover_oom_kills(void)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	unsigned long long n = number_in("/proc/vmstat", "oom_kill");
	char line[PATH_MAX];

	while (f && fgets(line, sizeof(line), f)) {
		char *group = strchr(line, '/'), *path = NULL;

		line[strcspn(line, "\n")] = '\0';
		if (group && strncmp(line, "0::", 3) == 0)
			path = format_string("/sys/fs/cgroup%s/memory.events", group);
		else if (group && strstr(line, ":memory:")) /* the older hierarchy */
			path = format_string("/sys/fs/cgroup/memory%s/memory.oom_control",
					     group);
		n += path ? number_in(path, "oom_kill") : 0;
		free(path);
	}
	if (f)
		fclose(f);
	return n;
}
