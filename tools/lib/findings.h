/* SPDX-License-Identifier: Apache-2.0 */
/*
 * findings: what a file says, whatever its kind: a leak report (.report.json) or a
 * profile (.pb.gz) as a list of stacks with amounts, largest first. All texts are UTF-8.
 */
#ifndef TOOLS_LIB_FINDINGS_H
#define TOOLS_LIB_FINDINGS_H

#include "tools/lib/arena.h"
#include "tools/lib/intern.h"
#include "tools/lib/lifetimes.h"
#include "tools/lib/stacks.h"

struct finding {
	const char *kind; /* "direct", "indirect"; "" in a profile */
	int64_t objects, amount, retained;
	double variance;	    /* of amount, 0: it is no estimate */
	struct lifetimes *lives;    /* of a lifetimes profile, else NULL */
	const struct frame *frames; /* innermost first, at least one */
	size_t nframes;
};

struct findings {
	const char *path; /* of the file */
	const char *exe;  /* program, "" unknown */
	int64_t pid;	  /* 0 unknown */
	const char *type; /* "leaked_space", "inuse_space" ... */
	const char *unit; /* "bytes", "count", ... */
	const char
		*verdict;   /* "clean", "leak", "incomplete"; NULL: a profile, no check */
	const char *reason; /* of incomplete, else "" */
	int64_t objects, amount;
	double variance; /* of amount */
	bool has_objects;
	struct finding *list;
	size_t count, size;
	struct arena arena;
	struct intern stacks; /* while loading */
};

/* index: sample type of a profile, NULL: its default. NULL: *out_why, allocated. */
struct findings *findings_read(const char *path, const char *index, char **out_why);
void findings_free(struct findings *f);

/* The frame to show for a stack: the innermost that has a line and is not of a system
 * header or library; else the innermost. */
const struct frame *finding_frame(const struct finding *f);
/* A number that stays the same while the stack's functions do. */
uint64_t finding_fingerprint(const struct finding *f);
/* "12.3 MiB", or a plain number where the unit is not bytes. Returns buf. */
const char *findings_amount(const struct findings *f, int64_t amount, char *buf,
			    size_t size);

#endif
