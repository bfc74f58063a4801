/* SPDX-License-Identifier: Apache-2.0 */
/*
 * knownleaks_run: all reports of a run, for `seep gate`. The child that reads debug
 * information writes a line of JSON for each report that is changed by it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/baseline.h"
#include "tools/lib/dwarf.h"
#include "tools/lib/kept.h"
#include "tools/lib/knownleaks.h"
#include "tools/lib/launch.h"
#include "tools/lib/say.h"
#include "tools/lib/symbolizer.h"

struct work {
	const struct launch *l;
	unsigned *rows; /* places in the table */
	size_t nrows, size;
	FILE *out; /* what the child has found */
};

static void collect_rows(struct work *w)
{
	for (unsigned i = 0; i < launch_rows(w->l); i++) {
		const struct runtable_row *r = &w->l->table->rows[i];
		json_t *report;

		if (r->state != RUNROW_DONE || r->objects == 0)
			continue;
		report = kept_report(w->l, r);
		if (knownleaks_wanted(report)) {
			w->rows = grown(w->rows, w->nrows, &w->size, sizeof(*w->rows));
			w->rows[w->nrows++] = i;
		}
		json_decref(report);
	}
}

/* When the report was written. 0: it has no file under its name. */
static int64_t time_of(const struct runtable_row *r)
{
	char *path = format_string("%s.report.json", r->prefix);
	struct stat st;
	int64_t ns = 0;

	if (r->prefix[0] && stat(path, &st) == 0)
		ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	free(path);
	return ns;
}

/* In the child. */
static void find_all(void *arg)
{
	struct work *w = arg;

	for (size_t i = 0; i < w->nrows; i++) {
		const struct runtable_row *r = &w->l->table->rows[w->rows[i]];
		json_t *report = kept_report(w->l, r);
		json_t *found = report ? knownleaks_find(report, time_of(r)) : NULL;

		if (found) {
			json_dumpf(found, w->out, JSON_COMPACT);
			putc('\n', w->out);
			fflush(w->out);
		}
		json_decref(found);
		json_decref(report);
	}
}

static void set_row(struct runtable_row *r, json_t *report)
{
	bool threads = r->threads_blocked + r->threads_ended > 0;

	r->objects = (uint64_t)json_integer_value(json_object_get(report, "objects"));
	r->bytes = (uint64_t)json_integer_value(json_object_get(report, "bytes"));
	r->sites = (uint64_t)json_integer_value(json_object_get(report, "sites"));
	if (r->objects > 0 || r->verdict != RUNROW_LEAK)
		return;
	if (threads)
		json_object_set_new(report, "verdict", json_string("leak"));
	else
		r->verdict = RUNROW_CLEAN;
}

static void apply_one(const struct work *w, size_t row, const json_t *found,
		      void (*keep)(size_t row, json_t *report, void *arg), void *arg)
{
	struct runtable_row *r = &w->l->table->rows[row];
	char *path = format_string("%s.report.json", r->prefix);
	char *profile = format_string("%s.leak.pb.gz", r->prefix);
	bool has_file = time_of(r) != 0;
	json_t *report = kept_report(w->l, r);
	int error = 0;

	if (report && knownleaks_apply(report, found, has_file ? profile : NULL) > 0) {
		set_row(r, report);
		if (has_file)
			error = baseline_write(report, path);
		if (error)
			say("cannot write %s: %s", path, strerror(error));
		if (!has_file || error)
			keep(row, json_incref(report), arg);
	}
	json_decref(report);
	free(profile);
	free(path);
}

bool knownleaks_run(const struct launch *l, bool quiet,
		    void (*keep)(size_t row, json_t *report, void *arg), void *arg)
{
	struct work w = { .l = l };
	size_t done = 0, size = 0;
	char *line = NULL;
	json_t *found;

	if (!dwarf_available() || !l->table)
		return true;
	collect_rows(&w);
	w.out = w.nrows > 0 ? tmpfile() : NULL;
	if (w.out) {
		symbolizer_apart(find_all, &w, quiet);
		rewind(w.out);
	}
	while (w.out && done < w.nrows && getline(&line, &size, w.out) > 0 &&
	       (found = json_loads(line, 0, NULL))) {
		if (json_array_size(found) > 0)
			apply_one(&w, w.rows[done], found, keep, arg);
		json_decref(found);
		done++;
	}
	if (done < w.nrows && !quiet)
		say("debug information could not be read in time: suppressions by "
		    "inlined functions and source files do not hold for %zu process%s",
		    w.nrows - done, w.nrows - done == 1 ? "" : "es");
	if (w.out)
		fclose(w.out);
	free(line);
	free(w.rows);
	return done == w.nrows;
}
