/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runjson: see runjson.h. Written under a temporary name and renamed, mode 0600.
 */
#include "tools/lib/runjson.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/lib/filebytes.h"
#include "tools/lib/say.h"

const char *const runjson_suffixes[] = { "heap.pb.gz",	       "allocs.pb.gz",
					 "peak.pb.gz",	       "leak.pb.gz",
					 "escape.pb.gz",       "threads.pb.gz",
					 "threadcreate.pb.gz", "lifetimes.pb.gz",
					 "report.json",	       NULL };

void runjson_each_file(const struct runtable_row *row,
		       void (*fn)(const char *path, void *arg), void *arg)
{
	if (row->prefix[0] == '\0')
		return;
	for (size_t i = 0; runjson_suffixes[i]; i++) {
		char *path = format_string("%s.%s", row->prefix, runjson_suffixes[i]);

		if (access(path, F_OK) == 0)
			fn(path, arg);
		free(path);
	}
}

static void add_file(const char *path, void *arg)
{
	json_array_append_new(arg, json_string(path));
}

/* {"total","live","slack","free","metadata","profiler","other"}, or {"peak"} when it was
 * killed before they could be told; null: not known. */
static json_t *rss_parts(const struct launch *l, const struct runtable_row *r)
{
	static const char *const names[] = { "live",	 "slack",    "free",
					     "metadata", "profiler", "other" };
	json_t *j;

	if (!r->rss && r->recovered && r->pid == l->pid)
		return json_pack("{s:I}", "peak", (json_int_t)l->max_rss);
	if (!r->rss)
		return json_null();
	j = json_pack("{s:I}", "total", (json_int_t)r->rss);
	for (int i = 0; i < RUNROW_RSS_PARTS; i++)
		json_object_set_new(j, names[i],
				    json_integer((json_int_t)r->rss_parts[i]));
	return j;
}

static json_t *process(const struct launch *l, const struct runtable_row *r)
{
	static const char *const states[] = { "free", "uncovered", "done", "replaced",
					      "uncovered" };
	const char *state = r->recovered ? "recovered" : states[r->state % 5];
	static const char *const verdicts[] = { "none", "clean", "leak", "incomplete" };
	json_t *files = json_array();

	runjson_each_file(r, add_file, files);
	return json_pack(
		"{s:i,s:i,s:s,s:s,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:o}", "pid",
		r->pid, "ppid", r->ppid, "exe", r->exe, "state", state, "verdict",
		verdicts[r->verdict & 3], "reason", r->reason, "served", (int)r->served,
		"alloc_objects", (json_int_t)r->alloc_objects, "alloc_bytes",
		(json_int_t)r->alloc_bytes, "live_objects", (json_int_t)r->live_objects,
		"live_bytes", (json_int_t)r->live_bytes, "peak_bytes",
		(json_int_t)r->peak_bytes, "dropped", (json_int_t)r->dropped, "files",
		files, "rss", rss_parts(l, r));
}

/* Arguments need not be UTF-8. */
static json_t *text_or_mark(const char *text)
{
	json_t *j = json_string(text);

	return j ? j : json_string("(not UTF-8)");
}

static json_t *build(const struct launch *l, int status, const char *verdict)
{
	json_t *command = json_array(), *processes = json_array(), *files = json_array();

	for (char **a = l->argv; *a; a++)
		json_array_append_new(command, text_or_mark(*a));
	for (unsigned i = 0; i < launch_rows(l); i++) {
		if (l->table->rows[i].state == RUNROW_FREE)
			continue;
		json_array_append_new(processes, process(l, &l->table->rows[i]));
		runjson_each_file(&l->table->rows[i], add_file, files);
	}
	return json_pack("{s:i,s:o,s:i,s:s,s:o,s:o}", "schema", 1, "command", command,
			 "status", status, "verdict", verdict, "processes", processes,
			 "files", files);
}

void runjson_write(const struct launch *l, int status, const char *verdict)
{
	const char *slash = strrchr(l->out, '/');
	char *path = slash ? format_string("%.*s/run.json", (int)(slash - l->out), l->out)
			   : format_string("run.json");
	json_t *j = build(l, status, verdict);
	char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL; /* dumpfd: by the word */

	if (!text || !file_bytes_write(text, strlen(text), path))
		say("cannot write %s: %s", path, strerror(errno));
	json_decref(j);
	free(text);
	free(path);
}
