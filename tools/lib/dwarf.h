/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf: from addresses in files to functions, lines and inlined frames, with libdw.
 *
 * Used in three steps, as often as needed: name the modules and the addresses wanted,
 * resolve them all at once (each unit of the debug information is walked once, for all of
 * its addresses), look them up.
 *
 * Files are trusted when their build-id is the one asked for. Debug information is taken
 * from the file itself, from .gnu_debuglink, from .build-id directories below
 * /usr/lib/debug and the given ones, and from debuginfod servers only when
 * DEBUGINFOD_URLS names some.
 *
 * Built without libdw, dwarf_none.c stands in and dwarf_available() says no.
 */
#ifndef TOOLS_LIB_DWARF_H
#define TOOLS_LIB_DWARF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a function hands back, as far as a pointer may be in it. */
enum dwarf_returns {
	RETURNS_UNKNOWN, /* no debug information, or something that may hold one */
	RETURNS_NOTHING, /* nothing, or what is too small for a pointer */
	RETURNS_POINTER, /* in the first register, also as a structure's first word */
	RETURNS_SECOND,	 /* as the second word of a structure in registers */
	RETURNS_PAIR	 /* both words are pointers */
};

struct dwarf_frame {
	const char *function; /* linkage name where there is one; NULL: unknown */
	const char *file;     /* of the line, NULL: unknown */
	int line;	      /* 0: unknown */
	int column;	      /* 0: unknown */
	int start_line;	      /* of the function, when that is in file; else 0 */
};

struct dwarf_address {
	uint64_t address;		  /* as the file counts */
	const struct dwarf_frame *frames; /* innermost first; NULL: nothing is known */
	int nframes;
	enum dwarf_returns returns; /* of the outermost frame: the function itself */
	bool has_lines; /* from debug information, inlined frames told apart */
	bool is_named;	/* for all who want it */
};

struct dwarf;	     /* all modules */
struct dwarf_module; /* one file */

bool dwarf_available(void);
/* directories: more places to look in, NULL-terminated, kept by the caller; or NULL. */
struct dwarf *dwarf_new(const char *const *directories);
void dwarf_free(struct dwarf *d);

/* The file at path with that build-id (hexadecimal), or one elsewhere. Without a build-id
 * the file must not be younger than not_after (ns since 1970; 0: any). NULL: none found.
 * The same module again for the same path and build-id. */
struct dwarf_module *dwarf_module(struct dwarf *d, const char *path, const char *build_id,
				  int64_t not_after);
/* The file's address for one in a process that mapped file_offset at start. */
bool dwarf_file_address(const struct dwarf_module *m, uint64_t address, uint64_t start,
			uint64_t file_offset, uint64_t *out_address);
/* is_named: it has a name already, which it keeps where there is no debug information:
 * then no symbols are read for it. */
void dwarf_want(struct dwarf_module *m, uint64_t file_address, bool is_named);
void dwarf_resolve(struct dwarf *d);
/* NULL: was not wanted. Valid until the next dwarf_want(). */
const struct dwarf_address *dwarf_lookup(const struct dwarf_module *m,
					 uint64_t file_address);

#endif
