/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch_check: what is wrong with the command line is said before the program starts,
 * not by each of its processes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload/base/opt.h"
#include "tools/lib/launch.h"
#include "tools/lib/say.h"

static void refuse(const char *pair, const char *reason)
{
	die(EXIT_USAGE, "\"%s\" %s", pair, reason);
}

/* The processes themselves complain. */
static void ignore(const char *pair, const char *reason)
{
	(void)pair;
	(void)reason;
}

/* The last of -o, -O out= and SEEP_OPTIONS that is there. */
static void choose_out(struct launch *l, struct options *o, const char *cwd)
{
	char *user = launch_user_options();

	if (o->out[0] == '\0')
		opt_parse(o, user, cwd, ignore);
	free(user);
	if (!l->out_asked && o->out[0])
		l->out = o->out;
}

void launch_check_options(struct launch *l)
{
	static struct options o, chosen; /* too large for the stack */
	char cwd[OPT_PATH_MAX];
	struct stat st;

	if (!getcwd(cwd, sizeof(cwd)))
		strcpy(cwd, "/");
	opt_defaults(&o);
	if (l->extra)
		opt_parse(&o, l->extra, cwd, refuse);
	chosen = o;
	choose_out(l, &chosen, cwd);
	if (o.suppressions[0] == '\0')
		return;
	if (access(o.suppressions, R_OK) != 0 || stat(o.suppressions, &st) != 0)
		die(EXIT_USAGE, "suppressions %s: %s", o.suppressions, strerror(errno));
	if (S_ISDIR(st.st_mode))
		die(EXIT_USAGE, "suppressions %s: %s", o.suppressions, strerror(EISDIR));
	if (S_ISFIFO(st.st_mode))
		die(EXIT_USAGE,
		    "suppressions %s: a pipe: only the first process could "
		    "read it",
		    o.suppressions);
}

/* Makes it if it is missing. 0, or why no file can be made there. */
static int make_directory(const char *path)
{
	char *probe;
	int fd;

	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		return errno;
	probe = format_string("%s/.seep.XXXXXX", path);
	fd = mkostemp(probe, O_CLOEXEC);
	if (fd >= 0) {
		close(fd);
		unlink(probe);
	}
	free(probe);
	return fd >= 0 ? 0 : errno;
}

void launch_check_files(struct launch *l)
{
	const char *slash = strrchr(l->out, '/');
	char *path = slash == l->out ? format_string("/")
		     : slash ? format_string("%.*s", (int)(slash - l->out), l->out)
			     : format_string(".");
	int error = strchr(path, '%') ? 0 : make_directory(path);

	if (error && !l->is_gate)
		die(EXIT_USAGE, "cannot write to %s: %s; name other files with -o", path,
		    strerror(error));
	if (error) {
		say("cannot write to %s: %s; no files will be written, -o names others",
		    path, strerror(error));
		l->out = "";
	}
	free(path);
}
