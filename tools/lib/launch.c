/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch: see launch.h.
 *
 * The child stays in our process group and on our terminal. INT, QUIT and the like that
 * the terminal sends reach it by themselves; one that somebody sent to us alone is passed
 * on (relay.h).
 */
#include "tools/lib/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/lib/inspect.h"
#include "tools/lib/kept.h"
#include "tools/lib/leftovers.h"
#include "tools/lib/linger.h"
#include "tools/lib/recover.h"
#include "tools/lib/relay.h"
#include "tools/lib/say.h"

#define ROOM_BYTES (64u << 20) /* free where the table and the stores go */

#ifndef SEEP_LIBDIR
#define SEEP_LIBDIR "/usr/lib"
#endif

static const int forwarded[] = { SIGINT,  SIGTERM, SIGHUP,   SIGQUIT,
				 SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM };
#define NFORWARDED (sizeof(forwarded) / sizeof(forwarded[0]))

static struct {
	volatile sig_atomic_t asked; /* so often INT or TERM came */
	sigset_t before;	     /* signals that were blocked */
	sigset_t relayed;	     /* of forwarded, those that we do not ignore */
	struct sigaction old[NFORWARDED];
	struct sigaction old_pipe, old_limit, old_child; /* SIGPIPE, SIGXFSZ, SIGCHLD */
	char link_directory[64]; /* of a library whose path LD_PRELOAD cannot hold */
} running;

/* ---- options ---- */

char *launch_add_option(char *options, const char *key, const char *value)
{
	char *escaped = allocate(2 * strlen(value) + 1), *to = escaped, *joined;

	for (; *value; value++) {
		if (*value == ':' || *value == '\\')
			*to++ = '\\';
		*to++ = *value;
	}
	joined = format_string("%s%s%s=%s", options ? options : "", options ? ":" : "",
			       key, escaped);
	free(escaped);
	free(options);
	return joined;
}

void launch_set(struct launch *l, const char *key, const char *value)
{
	l->extra = launch_add_option(l->extra, key, value);
}

static void set_pair(struct launch *l, const char *pair)
{
	const char *equals = strchr(pair, '=');
	char *key;

	if (!equals)
		die(EXIT_USAGE, "-O %s: not KEY=VALUE", pair);
	key = format_string("%.*s", (int)(equals - pair), pair);
	launch_set(l, key, equals + 1);
	free(key);
}

bool launch_option(struct launch *l, int option, const char *value)
{
	if (option == 'o')
		l->out = l->out_asked = value;
	else if (option == 'O')
		set_pair(l, value);
	else if (option == LAUNCH_LIBRARY)
		l->library = value;
	else
		return false;
	return true;
}

/* ---- the library ---- */

static char *beside(const char *tool_dir, const char *relative)
{
	char *path = format_string("%s/%s", tool_dir, relative);

	if (access(path, R_OK) == 0)
		return path;
	free(path);
	return NULL;
}

static char *find_library(const char *asked)
{
	static const char *const places[] = { "libseep.so", "../preload/libseep.so",
					      "../lib/libseep.so",
					      "../lib/x86_64-linux-gnu/libseep.so" };
	char self[PATH_MAX], resolved[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash, *path = NULL;

	if (asked) {
		if (access(asked, R_OK) != 0 || !realpath(asked, resolved))
			die(EXIT_USAGE, "--lib %s: %s", asked, strerror(errno));
		return format_string("%s", resolved);
	}
	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	for (size_t i = 0; slash && !path && i < sizeof(places) / sizeof(places[0]); i++)
		path = beside(self, places[i]);
	if (!path)
		path = beside(SEEP_LIBDIR, "libseep.so");
	if (!path)
		die(EXIT_USAGE, "libseep.so was not found beside %s; name it with --lib",
		    self);
	if (realpath(path, resolved)) {
		free(path);
		path = format_string("%s", resolved);
	}
	return path;
}

/* LD_PRELOAD separates by colons and spaces and knows no escape. */
static char *safe_library_path(char *path)
{
	const char *tmp = getenv("TMPDIR");
	char *link;

	if (!strpbrk(path, ": \t"))
		return path;
	if (!tmp || *tmp != '/' || strpbrk(tmp, ": \t") || strlen(tmp) > 40 ||
	    access(tmp, W_OK | X_OK) != 0)
		tmp = "/tmp";
	snprintf(running.link_directory, sizeof(running.link_directory), "%s/seep.XXXXXX",
		 tmp);
	if (!mkdtemp(running.link_directory))
		die(EXIT_INCOMPLETE,
		    "cannot make a directory in %s: %s; name another by TMPDIR", tmp,
		    strerror(errno));
	link = format_string("%s/libseep.so", running.link_directory);
	if (symlink(path, link) != 0)
		die(EXIT_INCOMPLETE, "cannot make %s: %s", link, strerror(errno));
	return link;
}

static void remove_link(void)
{
	char *link;

	if (!running.link_directory[0])
		return;
	link = format_string("%s/libseep.so", running.link_directory);
	unlink(link);
	rmdir(running.link_directory);
	running.link_directory[0] = '\0';
	free(link);
}

char *launch_find_library(const char *asked)
{
	char *path = safe_library_path(find_library(asked));

	atexit(remove_link);
	return path;
}

/* ---- the run table ---- */

/* A directory for the table and the processes' stores: in memory where there is room,
 * since the counters of every allocation are written there. */
static char *make_directory(const char *library)
{
	const char *tmp = getenv("TMPDIR");
	const char *const places[] = { tmp && *tmp == '/' ? tmp : "/dev/shm", "/tmp" };
	struct statvfs fs;

	for (size_t i = 0; i < 2; i++) {
		char *path = format_string("%s/" LEFTOVERS_TEMPLATE, places[i]);

		leftovers_clear(places[i], library);
		if (statvfs(places[i], &fs) == 0 &&
		    fs.f_bavail * fs.f_frsize >= ROOM_BYTES && mkdtemp(path))
			return path;
		free(path);
	}
	die(EXIT_INCOMPLETE, "cannot make a directory in %s or in %s", places[0],
	    places[1]);
}

static char *make_table(struct launch *l, const char *directory)
{
	char *path = format_string("%s/" LEFTOVERS_TABLE, directory);
	char *fresh = format_string("%s/new", directory);
	int fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	const size_t first = offsetof(struct runtable, rows) +
			     RUNTABLE_STEP * sizeof(struct runtable_row);
	int error = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)first);

	if (!error)
		leftovers_mark(fd);
	if (!error && rename(fresh, path) != 0)
		error = errno;
	if (error) {
		leftovers_remove(directory);
		die(EXIT_INCOMPLETE, "cannot make %s: %s%s", path, strerror(error),
		    error == EFBIG ? " (see ulimit -f)" : "");
	}
	l->table = mmap(NULL, sizeof(struct runtable), PROT_READ | PROT_WRITE, MAP_SHARED,
			fd, 0); /* fd stays open: it is locked */
	if (l->table == MAP_FAILED) {
		error = errno;
		leftovers_remove(directory);
		die(EXIT_INCOMPLETE, "cannot map %s: %s", path, strerror(error));
	}
	/* Programs that drop their privileges must still be able to attach, and their
	 * children to make stores. */
	if (geteuid() == 0) {
		chmod(path, 0666);
		chmod(directory, 01733);
	}
	free(fresh);
	l->table->magic = RUNTABLE_MAGIC;
	l->table->version = RUNTABLE_VERSION;
	l->table->nrows = RUNTABLE_ROWS;
	l->table->room = RUNTABLE_STEP;
	l->table->is_gate = l->is_gate;
	return path;
}

/* ---- environment ---- */

/* The text of key, from its pair on; NULL: it is not among the options. *out_end: behind
 * the pair. */
static const char *find_pair(const char *options, const char *key, const char **out_end)
{
	while (options && *options) {
		const char *p = options;

		while (*p && *p != ':')
			p += *p == '\\' && p[1] ? 2 : 1;
		*out_end = *p ? p + 1 : p;
		if (strncmp(options, key, strlen(key)) == 0)
			return options;
		options = *out_end;
	}
	return NULL;
}

/* Under another seep command, only what that found: it stands between two tables. */
char *launch_user_options(void)
{
	const char *text = getenv("SEEP_OPTIONS"), *end, *rest;

	if (!find_pair(text, "run=", &end))
		return format_string("%s", text ? text : "");
	text = end;
	rest = find_pair(text, "run=", &end);
	if (!rest || rest == text)
		return format_string("%s", "");
	return format_string("%.*s", (int)(rest - text - 1), text);
}

static char *join(char *options, const char *more)
{
	char *all = format_string("%s%s%s", options, *more ? ":" : "", more);

	free(options);
	return all;
}

/* The last of equal keys wins. */
static char *all_options(const struct launch *l, const char *table)
{
	char *user = launch_user_options();
	char *all = launch_add_option(format_string("%s", l->defaults), "run", table);

	all = launch_add_option(join(all, user), "run", table);
	all = launch_add_option(join(all, l->extra ? l->extra : ""), "out", l->out);
	free(user);
	return all;
}

static void set_environment(const struct launch *l, const char *library,
			    const char *table)
{
	const char *preload = getenv("LD_PRELOAD");
	char *all = all_options(l, table);

	setenv("SEEP_OPTIONS", all, 1);
	free(all);
	all = format_string("%s%s%s", library, preload && *preload ? ":" : "",
			    preload ? preload : "");
	setenv("LD_PRELOAD", all, 1);
	free(all);
}

/* ---- signals ---- */

/* Before the program runs, and after. */
static void on_signal(int sig)
{
	if (sig == SIGINT || sig == SIGTERM)
		running.asked++;
}

static void catch_signals(void)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	sigemptyset(&running.relayed);
	for (size_t i = 0; i < NFORWARDED; i++) {
		sigaction(forwarded[i], NULL, &running.old[i]);
		if (running.old[i].sa_handler == SIG_IGN)
			continue;
		sigaction(forwarded[i], &act, NULL);
		sigaddset(&running.relayed, forwarded[i]);
	}
}

/* Nobody may read our lines any more, or no file may grow: we say so, and the status is
 * still the program's. */
static void ignore_signals(void)
{
	struct sigaction act = { .sa_handler = SIG_IGN };

	sigaction(SIGPIPE, &act, &running.old_pipe);
	sigaction(SIGXFSZ, &act, &running.old_limit);
}

void launch_see_children(void)
{
	struct sigaction act = { .sa_handler = SIG_DFL };

	sigaction(SIGCHLD, &act, &running.old_child);
}

static void restore_signals(void)
{
	for (size_t i = 0; i < NFORWARDED; i++)
		sigaction(forwarded[i], &running.old[i], NULL);
	sigaction(SIGPIPE, &running.old_pipe, NULL);
	sigaction(SIGXFSZ, &running.old_limit, NULL);
	sigaction(SIGCHLD, &running.old_child, NULL);
}

/* ---- running ---- */

/* Is it for another machine, or damaged? The shell would take it for a script. */
static bool is_elf(const char *program)
{
	int fd = open(program, O_RDONLY | O_CLOEXEC);
	char start[4] = "";
	bool is = fd >= 0 && read(fd, start, sizeof(start)) == sizeof(start) &&
		  memcmp(start, "\177ELF", sizeof(start)) == 0;

	if (fd >= 0)
		close(fd);
	return is;
}

/* Returns if it cannot. */
static void become(char *program, char **argv)
{
	static char shell[] = "sh";
	size_t n = 0;
	char **script;

	execv(program, argv);
	if (errno != ENOEXEC)
		return;
	if (is_elf(program)) {
		errno = ENOEXEC;
		return;
	}
	while (argv[n])
		n++;
	/* a script without #!, as the shell does it */
	script = allocate((n + 2) * sizeof(*script));
	script[0] = shell;
	script[1] = program;
	memcpy(script + 2, argv + 1, n * sizeof(*script));
	execv("/bin/sh", script);
}

/* The child's error, 0: it has become the program. */
static int read_error(int fd)
{
	int error = 0;
	ssize_t n;

	do
		n = read(fd, &error, sizeof(error));
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(error) ? error : 0;
}

static const char *why_not(int error)
{
	if (error == ENOENT) /* it is there: see find_program() */
		return "its interpreter is not there";
	return strerror(error);
}

/* They are waited for, until await() is over. */
static void block_relayed(void)
{
	sigset_t blocked = running.before;

	for (size_t i = 0; i < NFORWARDED; i++)
		if (sigismember(&running.relayed, forwarded[i]))
			sigaddset(&blocked, forwarded[i]);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
}

static void start(struct launch *l, char *program)
{
	sigset_t all;
	int error, fds[2], go[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) != 0 || pipe2(go, O_CLOEXEC) != 0)
		die(EXIT_INCOMPLETE, "cannot make a pipe: %s", strerror(errno));
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &running.before);
	catch_signals();
	pid = fork();
	if (pid < 0)
		die(EXIT_INCOMPLETE, "cannot fork: %s", strerror(errno));
	if (pid == 0) {
		close(go[1]);
		read_error(go[0]); /* its end: the witness is there */
		restore_signals();
		sigprocmask(SIG_SETMASK, &running.before, NULL);
		become(program, l->argv);
		error = errno;
		_exit(write(fds[1], &error, sizeof(error)) > 0 ? 126 : 127);
	}
	l->pid = pid;
	close(go[0]);
	relay_begin(l->argv); /* after it: who asks for our child gets the program */
	close(go[1]);
	block_relayed();
	close(fds[1]);
	error = read_error(fds[0]);
	close(fds[0]);
	if (error == 0)
		return;
	say_bad("cannot run %s: %s", program, why_not(error));
	l->hopeless = true;
	l->is_static = false;
	free(l->why);
	l->why = format_string("could not be run: %s", why_not(error));
}

/* For the ages of what a killed program held. */
static void note_end(const struct launch *l)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	for (unsigned i = 0; i < launch_rows(l); i++)
		if (l->table->pids[i] == l->pid)
			l->table->rows[i].ended_ns = (uint64_t)now.tv_sec * 1000000000u +
						     (uint64_t)now.tv_nsec;
}

static void await(struct launch *l)
{
	struct rusage used;

	if (!relay_until_end(l->pid, &running.relayed, &l->status, &used, &running.asked))
		die(EXIT_INCOMPLETE, "cannot wait: %s", strerror(errno));
	sigprocmask(SIG_SETMASK, &running.before, NULL);
	note_end(l);
	l->max_rss = (uint64_t)used.ru_maxrss * 1024;
	l->asked_to_end = running.asked > 0;
}

static char *find_program(const char *name)
{
	char *path = inspect_find(name);
	struct stat st;

	if (path && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		die(126, "%s: it is a directory", name);
	if (path)
		return path;
	if (errno == EACCES)
		die(126, "%s: permission denied", name);
	die(127, "%s: not found", name);
}

/* Says what is wrong with the program. */
static void inspect(struct launch *l, const char *program)
{
	char *file;
	enum inspect_result r = inspect_program(program, &file, &l->why);

	if (r == INSPECT_OWN_MALLOC)
		say("warning: %s %s", file, l->why);
	if (r == INSPECT_NO_HELP || r == INSPECT_STATIC) {
		say_bad("cannot profile %s: it %s", file, l->why);
		l->hopeless = true;
		l->is_static = r == INSPECT_STATIC;
	}
	free(file);
}

/* The library had no time to write down what killed the command. */
static void note_signal(struct launch *l)
{
	for (unsigned i = 0; i < launch_rows(l); i++) {
		struct runtable_row *r = &l->table->rows[i];

		if (r->pid != l->pid || r->state != RUNROW_CLAIMED ||
		    !WIFSIGNALED(l->status))
			continue;
		r->end = RUNROW_SIGNALLED;
		r->signal = WTERMSIG(l->status);
	}
}

static bool has_other_row(const struct launch *l, const struct runtable_row *row)
{
	for (unsigned i = 0; i < launch_rows(l); i++) {
		const struct runtable_row *r = &l->table->rows[i];

		if (l->table->pids[i] == row->pid && r != row &&
		    r->state != RUNROW_FREE && r->state != RUNROW_SPAWNED)
			return true;
	}
	return false;
}

/* Programs that had a row before whoever started them came to write theirs. */
static void settle_spawned(struct launch *l)
{
	for (unsigned i = 0; i < launch_rows(l); i++) {
		struct runtable_row *r = &l->table->rows[i];

		if (r->state == RUNROW_SPAWNED && has_other_row(l, r))
			r->state = RUNROW_FREE;
	}
}

void launch_run(struct launch *l)
{
	char *program = find_program(l->argv[0]);
	char *library;
	unsigned long long oom_kills = recover_oom_kills();

	launch_check_options(l);
	inspect(l, program);
	ignore_signals();
	launch_check_files(l);
	library = launch_find_library(l->library);
	l->directory = make_directory(library);
	l->table_path = make_table(l, l->directory);
	if (!l->hopeless || l->is_static)
		set_environment(l, library, l->table_path);
	start(l, program);
	await(l);
	linger(l, l->linger_s, l->quiet);
	l->out_of_memory = recover_oom_kills() != oom_kills;
	note_signal(l);
	settle_spawned(l);
	recover_rows(l, library, l->table_path);
	kept_fetch(l);
	free(library);
	free(program);
}

void launch_end(struct launch *l)
{
	leftovers_remove(l->directory);
	free(l->directory);
	free(l->table_path);
	free(l->extra);
	free(l->why);
	l->directory = l->table_path = l->extra = l->why = NULL;
}

int launch_asks(void)
{
	return (int)running.asked;
}

int launch_exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

unsigned launch_rows(const struct launch *l)
{
	unsigned n = __atomic_load_n(&l->table->claimed, __ATOMIC_ACQUIRE);
	unsigned room = __atomic_load_n(&l->table->room, __ATOMIC_ACQUIRE);

	return n < room ? n : room;
}

/* It may wait for somebody who never asks for it. One whose main thread alone has ended
 * looks the same but for the number of threads. */
static bool has_ended(int pid)
{
	char *path = format_string("/proc/%d/stat", pid), text[512];
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
	const char *rest;
	char state;
	long nthreads;

	if (f)
		fclose(f);
	free(path);
	text[n] = '\0';
	rest = strrchr(text, ')'); /* ends the name, which may hold some */
	return rest &&
	       sscanf(rest,
		      ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
		      "%*s %*s %ld",
		      &state, &nthreads) == 2 &&
	       (state == 'X' || (state == 'Z' && nthreads <= 1));
}

bool launch_is_running(const struct runtable_row *r)
{
	return r->pid > 0 && !has_ended(r->pid) &&
	       (kill(r->pid, 0) == 0 || errno == EPERM);
}

const struct runtable_row *launch_main_row(const struct launch *l)
{
	for (unsigned i = launch_rows(l); i > 0; i--)
		if (l->table->pids[i - 1] == l->pid &&
		    l->table->rows[i - 1].state != RUNROW_FREE)
			return &l->table->rows[i - 1];
	return NULL;
}
