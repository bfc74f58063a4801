/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbolizer_run: lines for the files of a run. Debug information is large and its
 * readers are not proof against every file, so this happens in a child process, which may
 * crash or be stopped: what it has not done stays as the library wrote it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/lib/dwarf.h"
#include "tools/lib/launch.h"
#include "tools/lib/runjson.h"
#include "tools/lib/say.h"
#include "tools/lib/symbolizer.h"

#define TIME_LIMIT_MS 10000
#define LOOK_MS	      100
#define SILENCE_MS    2000 /* who sits there longer is told what for */

struct files {
	char **paths;
	size_t count, size;
	volatile size_t *done; /* shared with the child */
};

static void add_path(const char *path, void *arg)
{
	struct files *f = arg;

	f->paths = grown(f->paths, f->count, &f->size, sizeof(*f->paths));
	f->paths[f->count++] = format_string("%s", path);
}

static void add_report(const char *path, void *arg)
{
	size_t n = strlen(path);

	if (n > 12 && strcmp(path + n - 12, ".report.json") == 0)
		add_path(path, arg);
}

static void add_profile(const char *path, void *arg)
{
	size_t n = strlen(path);

	if (n > 6 && strcmp(path + n - 6, ".pb.gz") == 0)
		add_path(path, arg);
}

/* Reports of processes with leaks, or that are shown anyway, then the command's own
 * profiles, then all others. */
static void list_files(const struct launch *l, struct files *f)
{
	const struct runtable_row *main_row = launch_main_row(l), *row;

	for (unsigned i = 0; i < launch_rows(l); i++) {
		row = &l->table->rows[i];
		if (row->objects > 0 || l->tells_all)
			runjson_each_file(row, add_report, f);
	}
	if (main_row)
		runjson_each_file(main_row, add_profile, f);
	for (unsigned i = 0; i < launch_rows(l); i++) {
		row = &l->table->rows[i];
		if (row != main_row)
			runjson_each_file(row, add_profile, f);
	}
}

static __attribute__((noreturn)) void child(void (*work)(void *arg), void *arg)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int sig = 1; sig < SIGRTMIN; sig++)
		signal(sig, SIG_DFL);
	if (null >= 0) { /* nothing of this is the program's output */
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
	}
	unsetenv("DEBUGINFOD_URLS"); /* no downloads at the end of each run */
	work(arg);
	_exit(0);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Did it end by itself, in time and before somebody asked us to end? */
static bool ends(int fd, int asks, bool quiet)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int64_t start = now_ms(), waited;
	bool told = quiet || !isatty(2);

	while ((waited = now_ms() - start) < TIME_LIMIT_MS && launch_asks() == asks) {
		/* not for long: a signal may come right before it */
		int n = poll(&p, 1, LOOK_MS);

		if (n > 0)
			return true;
		if (n < 0 && errno != EINTR)
			return false;
		if (!told && waited >= SILENCE_MS) {
			say("reading debug information for lines, %d s at most",
			    TIME_LIMIT_MS / 1000);
			told = true;
		}
	}
	return false;
}

static void wait_for(pid_t pid, int asks, bool quiet)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd >= 0 && !ends(fd, asks, quiet))
		kill(pid, SIGKILL);
	if (fd >= 0)
		close(fd);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

pid_t symbolizer_apart(void (*work)(void *arg), void *arg, bool quiet)
{
	int asks = launch_asks();
	pid_t pid = fork();

	if (pid == 0)
		child(work, arg);
	if (pid > 0)
		wait_for(pid, asks, quiet);
	return pid;
}

static void do_files(void *arg)
{
	const struct files *f = arg;
	struct symbolizer *s = symbolizer_new(NULL, NAMES_SIMPLE);

	for (size_t i = 0; i < f->count; i++) {
		struct symbolizer_counts counts;
		char *why;

		symbolizer_file(s, f->paths[i], f->paths[i], &counts, &why);
		*f->done = i + 1;
	}
	symbolizer_free(s);
}

static void work_off(struct files *f, bool quiet)
{
	pid_t pid;

	f->done = mmap(NULL, sizeof(*f->done), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f->done == MAP_FAILED)
		return;
	pid = symbolizer_apart(do_files, f, quiet);
	if (*f->done < f->count) {
		char *temporary = format_string("%s.%d.tmp", f->paths[*f->done], pid);

		unlink(temporary);
		free(temporary);
	}
	if (*f->done < f->count && !quiet)
		say("%zu of %zu files got no lines in time; seep symbolize FILE adds "
		    "them",
		    f->count - *f->done, f->count);
	munmap((void *)(uintptr_t)f->done, sizeof(*f->done));
}

void symbolizer_run(const struct launch *l, bool quiet)
{
	struct files f = { 0 };

	if (!dwarf_available() || !l->table)
		return;
	list_files(l, &f);
	if (f.count > 0)
		work_off(&f, quiet);
	for (size_t i = 0; i < f.count; i++)
		free(f.paths[i]);
	free(f.paths);
}
