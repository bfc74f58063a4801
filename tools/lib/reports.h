/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reports: the formats of `seep report`. Each writes all the files' findings to out.
 */
#ifndef TOOLS_LIB_REPORTS_H
#define TOOLS_LIB_REPORTS_H

#include <stdio.h>

#include "tools/lib/findings.h"

struct reports {
	struct findings **list;
	size_t count;
	const char *source_root; /* absolute; paths below it are written relative to it */
	long top;		 /* findings of each file, 0: all */
};

void report_text(const struct reports *r, FILE *out); /* for people */
void report_json(const struct reports *r, FILE *out); /* schema 1, see its file */
void report_html(const struct reports *r, FILE *out); /* one page, nothing from outside */
void report_sarif(const struct reports *r, FILE *out); /* SARIF 2.1.0 */
void report_junit(const struct reports *r, FILE *out); /* JUnit's XML */

/* How many of f's findings to write. */
size_t reports_shown(const struct reports *r, const struct findings *f);
/* The file's path, relative to the source root where it lies below. */
const char *reports_path(const struct reports *r, const char *file);
/* "direct leak of 12.3 MiB in 3 objects", allocated. */
char *reports_title(const struct findings *f, const struct finding *one);
/* text with &, <, >, " and ' escaped, for HTML and XML. */
void reports_escape(FILE *out, const char *text);

#endif
