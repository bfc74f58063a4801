/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept: see kept.h.
 *
 * Rows and files may be those of a process that has less rights than the tool, so nothing
 * is written but new files in the directory that the tool was told to write to, and only
 * regular files are read.
 */
#include "tools/lib/kept.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/filebytes.h"
#include "tools/lib/reportjson.h"
#include "tools/lib/runjson.h"
#include "tools/lib/say.h"

static char *kept_path(const struct launch *l, const struct runtable_row *r,
		       const char *suffix)
{
	return format_string("%s.%zu.%s", l->table_path, (size_t)(r - l->table->rows),
			     suffix);
}

static bool is_regular(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
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
	uint8_t *bytes;
	size_t size;
	bool done = true;

	if (is_regular(from)) {
		bytes = file_bytes_read(from, &size);
		done = bytes && access(to, F_OK) != 0 &&
		       file_bytes_write(bytes, size, to);
		free(bytes);
	}
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

	free(path);
	if (report || !r->kept)
		return report;
	path = kept_path(l, r, "report.json");
	if (is_regular(path))
		report = reportjson_read(path, NULL);
	free(path);
	return report;
}
