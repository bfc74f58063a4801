/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept: see kept.h.
 *
 * Rows and files may be those of a process that has less rights than the tool, so nothing
 * is written but new files in the directory that the tool was told to write to, and only
 * regular files are read.
 */
#include "tools/lib/kept.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/filebytes.h"
#include "tools/lib/reportjson.h"
#include "tools/lib/runjson.h"
#include "tools/lib/say.h"

#define MAX_FILE (1 << 30)

static char *kept_path(const struct launch *l, const struct runtable_row *r,
		       const char *suffix)
{
	return format_string("%s.%zu.%s", l->table_path, (size_t)(r - l->table->rows),
			     suffix);
}

/* As it is; no link is followed and no pipe waited for, whatever the process makes of the
 * name meanwhile. NULL: errno, ENOENT when there is none. */
static char *read_regular(const char *path, size_t *out_size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	char *bytes = NULL;
	struct stat st;
	size_t used = 0;
	ssize_t n = 1;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MAX_FILE) {
		bytes = allocate((size_t)st.st_size + 1);
		while (n > 0 && used < (size_t)st.st_size) {
			n = read(fd, bytes + used, (size_t)st.st_size - used);
			used += n > 0 ? (size_t)n : 0;
		}
	}
	close(fd);
	errno = EINVAL; /* if it is none */
	*out_size = used;
	return bytes;
}

static bool same_directory(const char *path, const char *other)
{
	char *a = format_string("%s", path), *b = format_string("%s", other);
	char *end_a = strrchr(a, '/'), *end_b = strrchr(b, '/');
	struct stat st_a, st_b;
	bool same;

	if (end_a)
		end_a[1] = '\0';
	if (end_b)
		end_b[1] = '\0';
	same = stat(end_a ? a : ".", &st_a) == 0 && stat(end_b ? b : ".", &st_b) == 0 &&
	       st_a.st_dev == st_b.st_dev && st_a.st_ino == st_b.st_ino;
	free(a);
	free(b);
	return same;
}

/* False: it could not be written. */
static bool fetch_file(const struct launch *l, const struct runtable_row *r,
		       const char *suffix)
{
	char *from = kept_path(l, r, suffix);
	char *to = format_string("%s.%s", r->prefix, suffix);
	size_t size;
	char *bytes = read_regular(from, &size);
	bool done = bytes ? access(to, F_OK) != 0 && file_bytes_write(bytes, size, to)
			  : errno == ENOENT;

	free(bytes);
	free(from);
	free(to);
	return done;
}

static bool fetch_all(const struct launch *l, const struct runtable_row *r)
{
	if (!same_directory(r->prefix, l->out))
		return false;
	for (size_t i = 0; runjson_suffixes[i]; i++)
		if (!fetch_file(l, r, runjson_suffixes[i]))
			return false;
	return true;
}

void kept_fetch(const struct launch *l)
{
	for (unsigned i = 0; l->table && i < launch_rows(l); i++) {
		struct runtable_row *r = &l->table->rows[i];

		if (r->state != RUNROW_DONE || !r->kept || !r->prefix[0])
			continue;
		if (!fetch_all(l, r)) {
			if (!l->is_gate)
				say("%.*s", (int)sizeof(r->reason) - 1, r->reason);
		} else if (r->verdict != RUNROW_INCOMPLETE) {
			r->reason[0] = '\0'; /* of the files */
		}
	}
}

json_t *kept_report(const struct launch *l, const struct runtable_row *r)
{
	char *path = format_string("%s.report.json", r->prefix);
	json_t *report = r->prefix[0] ? reportjson_read(path, NULL) : NULL;
	size_t size;
	char *bytes;

	free(path);
	if (report || !r->kept)
		return report;
	path = kept_path(l, r, "report.json");
	bytes = read_regular(path, &size);
	if (bytes)
		report = reportjson_parse(bytes, size, NULL);
	free(bytes);
	free(path);
	return report;
}
