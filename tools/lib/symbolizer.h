/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbolizer: adds file, line, inlined frames and human names to profiles (.pb.gz) and
 * reports (.report.json). Files of one run are best done by one symbolizer: what it has
 * read of debug information serves them all.
 */
#ifndef TOOLS_LIB_SYMBOLIZER_H
#define TOOLS_LIB_SYMBOLIZER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/lib/names.h"
#include "tools/lib/pbfile.h"

struct symbolizer;
struct launch;

/* Of the last file: places of code in it, and those with a name or a line now. */
struct symbolizer_counts {
	size_t places, named, lined;
};

/* directories: see dwarf_new(). */
struct symbolizer *symbolizer_new(const char *const *directories, enum names_style style);
void symbolizer_free(struct symbolizer *s);
/* Reads in, writes out; when they are the same, only if something changes. False:
 * *out_why is a phrase, allocated. */
bool symbolizer_file(struct symbolizer *s, const char *in, const char *out,
		     struct symbolizer_counts *out_counts, char **out_why);
/* A report in memory. not_after: see dwarf_module(); 0: now, as of a process that runs.
 */
void symbolizer_report(struct symbolizer *s, json_t *report, int64_t not_after);
/* False: nothing was to be changed. */
bool symbolizer_profile(struct symbolizer *s, struct pbfile *f,
			struct symbolizer_counts *out_counts);

/* Does all files that a run wrote, in a child process of its own with a time limit: it
 * never fails the run. Those that a leak report is printed from come first. INT and TERM
 * end it early. quiet: nothing is said of what was not done. */
void symbolizer_run(const struct launch *l, bool quiet);
/* In such a child: work(arg). Its id. */
pid_t symbolizer_apart(void (*work)(void *arg), void *arg, bool quiet);

#endif
