/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suppress: leaks that the user knows of, in LeakSanitizer's syntax: one "leak:PATTERN" a
 * line, '#' begins a comment. A pattern matches a leak when it is found in the function
 * name, source module or file name of any frame of its stack; '*' stands for anything,
 * '^' and '$' tie it to the beginning or end. memcheck's blocks are read as well.
 */
#ifndef PROFILER_LEAK_SUPPRESS_H
#define PROFILER_LEAK_SUPPRESS_H

#include "preload/base/base.h"

/* INIT. Reads the file of the options, if any. One line on stderr for a file that cannot
 * be read, and one for the first line of it that makes no sense. */
void suppress_load(void);
/* DUMP. The same of a file that the program names, unless the options name one; a
 * relative path is also one from the program's directory. */
void suppress_load_late(const char *path);
struct leak_record;
/* DUMP. Before the records of a check: modules may have come and gone. */
void suppress_begin(void);
/* DUMP. Does any pattern match the record's stack (a block: its kind, too)? Counts the
 * record for the pattern. */
bool suppress_matches(const struct leak_record *r);
struct suppress_entry {
	const char *name;	  /* a pattern's text, or a block's first line */
	const char *const *lines; /* of a block: its frames; of a pattern NULL */
	uint32_t nlines;
	unsigned kinds;		 /* bits by enum leak_kind; ~0: any */
	uint64_t objects, bytes; /* what it has matched so far */
};
typedef void (*suppress_fn)(const struct suppress_entry *e, void *arg);
/* DUMP. Every pattern and block. */
void suppress_each(suppress_fn fn, void *arg);
bool suppress_any(void); /* is there one? */

/* ---- memcheck's blocks, see suppress_block.c; may stand in the same file ---- */

#define SUPPRESS_MAX_BLOCKS 1024

struct symbol;
/* INIT. Takes a trimmed line that is no comment. False: it belongs to no block. *out_ok:
 * it made sense. line stays in use. */
bool suppress_block_line(const char *line, bool *out_ok);
/* INIT. At the end of the file: is a block still open? It is dropped. */
bool suppress_block_open(void);
/* INIT. Blocks for which there was no room. */
uint32_t suppress_blocks_too_many(void);
void suppress_block_begin(void); /* DUMP. See suppress_begin(). */
/* DUMP. Does any block match the record? Needs the leak check's lock. */
bool suppress_block_matches(const struct leak_record *r);
void suppress_block_each(suppress_fn fn, void *arg);
/* For tests. Do the lines of a block match a stack, innermost frame first? */
bool suppress_frames_match(const char *const *lines, uint32_t nlines,
			   const struct symbol *frames, uint32_t nframes);
/* For tests. Adds the patterns in text (terminated, modified). Number of the first bad
 * line, 0: none. */
unsigned suppress_parse(char *text);

#endif
