/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escapes: an escape profile read back and gathered by the place in the program that
 * allocates, sorted by what a change there would gain.
 *
 * A place is a function and, where the profile has lines, a line of it. Functions that
 * only hand on what they allocate (xmalloc, strdup: nothing ever ends inside them, and
 * they are called from several functions or named like it) are looked through: their
 * callers are the places, and depth counts from there.
 */
#ifndef TOOLS_LIB_ESCAPES_H
#define TOOLS_LIB_ESCAPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum escape_place {
	ESCAPE_NONE,
	ESCAPE_RETURNED,
	ESCAPE_MAYBE_RETURNED,
	ESCAPE_CALLER,
	ESCAPE_TLS,
	ESCAPE_HEAP,
	ESCAPE_GLOBAL,
	ESCAPE_THREAD,
	ESCAPE_UNKNOWN,
	ESCAPE_PLACES
};

#define ESCAPE_LIVES 36 /* the last: a minute and more */

/* The name that most objects of a place have in common, with their number. */
struct escape_name {
	char *text; /* allocated, NULL: none */
	uint64_t count;
	uint64_t number; /* of an ancestor: how many frames up it is */
};

struct escape_site {
	char *function, *through;	/* allocated; through: "xmalloc", or NULL */
	char *inlined_in;		/* whose frame is meant, when function has none */
	char *where;			/* "src/parser.c:88:12" or "/usr/bin/x+0x1234" */
	uint64_t samples;		/* objects that were really followed */
	uint64_t objects, bytes;	/* estimated: all that were allocated */
	uint64_t places[ESCAPE_PLACES]; /* samples; by the farthest place seen */
	uint64_t exact, unwound, bound, refused, live, looked; /* samples */
	uint64_t size_min, size_max;
	uint64_t argument_min, argument_max; /* calloc's count, an alignment; 0: none */
	uint64_t several;      /* samples: beside another one in the same call */
	uint64_t grown, moved; /* samples: by realloc, in place or to another place */
	uint64_t depth_min, depth_max; /* of ended objects of this thread */
	uint64_t depth_known;	       /* samples with a depth */
	uint64_t median_ns;
	uint64_t lives[ESCAPE_LIVES]; /* samples by lifetime: [2^i, 2^(i+1)) ns */
	uint64_t handed;	      /* samples freed by another thread */
	struct escape_name to, freed_by, ancestor;
	struct escape_name allocator; /* "malloc", "operator new" */
	double gain;
};

struct escape_report {
	struct escape_site *sites; /* sorted, largest gain first */
	size_t nsites;
	uint64_t duration_ns; /* of the run; 0: not known */
	char *comment;	      /* of the profile: how depths were found; or NULL */
};

/* False: the file cannot be read or is no escape profile. */
bool escapes_read(const char *path, struct escape_report *out);
void escapes_free(struct escape_report *r);
/* The place that counts for the verdict: the one of most samples that did escape, or none
 * when all that ended did not. */
enum escape_place escapes_verdict(const struct escape_site *s);
const char *escapes_word(enum escape_place place);
/* What could be done about it, allocated; NULL: nothing is obvious, or too few samples.
 */
char *escapes_advice(const struct escape_site *s);
/* One line about a site, as compilers write them. */
void escapes_print(FILE *out, const struct escape_report *r, const struct escape_site *s);

#endif
