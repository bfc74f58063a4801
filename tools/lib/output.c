/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output: see output.h.
 */
#include "tools/lib/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/agent.h"
#include "tools/lib/filebytes.h"
#include "tools/lib/say.h"

#define DIRECTORY "seep.out"

/* To be removed if we die before it is whole. */
static const char *unfinished;

static void remove_unfinished(void)
{
	if (unfinished)
		unlink(unfinished);
}

static char *default_path(int pid, const char *kind)
{
	char *program = agent_program(pid), *path;

	if (mkdir(DIRECTORY, 0700) != 0 && errno != EEXIST)
		die(EXIT_INCOMPLETE, "cannot make %s: %s; name a file with -o", DIRECTORY,
		    strerror(errno));
	path = format_string(DIRECTORY "/%s.%d.%s.pb.gz", program, pid, kind);
	for (int i = 2; access(path, F_OK) == 0; i++) {
		free(path);
		path = format_string(DIRECTORY "/%s.%d.%d.%s.pb.gz", program, pid, i,
				     kind);
	}
	free(program);
	return path;
}

void output_open(struct output *o, const char *path, int pid, const char *kind)
{
	memset(o, 0, sizeof(*o));
	o->to = -1;
	if (path && strcmp(path, "-") == 0) {
		o->to = STDOUT_FILENO;
		o->fd = memfd_create("seep", MFD_CLOEXEC);
	} else if (path && file_is_special(path)) {
		o->to = open(path, FILE_AS_IT_IS);
		if (o->to < 0)
			die(EXIT_INCOMPLETE, "%s: %s", path, strerror(errno));
		o->fd = memfd_create("seep", MFD_CLOEXEC);
	} else {
		o->path = path ? format_string("%s", path) : default_path(pid, kind);
		o->temporary = format_string("%s.%d.tmp", o->path, (int)getpid());
		o->fd = open(o->temporary,
			     O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	}
	if (o->fd < 0)
		die(EXIT_INCOMPLETE, "cannot write %s: %s", o->path ? o->path : "memory",
		    strerror(errno));
	unfinished = o->temporary;
	atexit(remove_unfinished);
}

void output_copy(int fd, int to, const char *name)
{
	char buf[65536];
	ssize_t n;

	lseek(fd, 0, SEEK_SET);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t at = 0, did; at < n; at += did) {
			did = write(to, buf + at, (size_t)(n - at));
			if (did <= 0)
				die(EXIT_INCOMPLETE, "%s: %s", name, strerror(errno));
		}
}

void output_finish(struct output *o)
{
	if (o->to >= 0)
		output_copy(o->fd, o->to, "the output");
	else if (rename(o->temporary, o->path) != 0)
		die(EXIT_INCOMPLETE, "%s: %s", o->path, strerror(errno));
	close(o->fd);
	unfinished = NULL;
	free(o->temporary);
	o->temporary = NULL;
}
