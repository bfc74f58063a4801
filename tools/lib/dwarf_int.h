/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf_int: what dwarf.c (addresses), dwarf_file.c (finding files), dwarf_unpack.c
 * (compressed ones) and dwarf_unit.c (reading units) share.
 */
#ifndef TOOLS_LIB_DWARF_INT_H
#define TOOLS_LIB_DWARF_INT_H

#include <elfutils/libdwfl.h>

#include "tools/lib/arena.h"
#include "tools/lib/dwarf.h"
#include "tools/lib/intern.h"

/* Part of a unit's code. */
struct unit_range {
	uint64_t low, high; /* as the debug information counts */
	uint32_t unit;	    /* index */
};

struct unit {
	Dwarf_Off offset; /* of its first DIE; the rest is there when is_open */
	bool is_open;
	Dwarf_Die die; /* with the functions: of the split file, where there is one */
	Dwarf_Die lines_die; /* with the lines */
	int language;
};

struct file_symbol {
	uint64_t address, size; /* as the file counts */
	const char *name;
	bool global;
};

/* A function, whatever frame it is seen in. */
struct dwarf_function {
	const char *name, *file;
	int line;
	bool is_linkage; /* name */
	enum dwarf_returns returns;
};

/* A file in memory; zeroed: none. */
struct dwarf_image {
	void *memory;
	size_t size;
	Elf *elf;
};

struct dwarf_module {
	struct dwarf *owner;
	Dwfl *dwfl;
	Dwfl_Module *module;
	Elf *elf;
	Dwarf *dwarf;		  /* NULL: no debug information */
	struct dwarf_image image; /* where it is, when it was compressed */
	int separate_fd;	  /* of separate debug information, until libdw has it */
	char *separate_path;
	/* Address in the debug information = address in the file + debug_bias. */
	uint64_t file_bias, debug_bias;
	bool segments_moved; /* a file of debug information only: its offsets say nothing
			      */
	bool opened;	     /* debug information and symbols were looked for */
	struct unit *units;
	size_t nunits, units_size;
	struct unit_range *ranges; /* sorted by low */
	size_t nranges, ranges_size;
	bool symbols_made;
	struct file_symbol *symbols; /* sorted by address */
	size_t nsymbols;
	struct intern wanted; /* addresses; numbers index addresses[] */
	struct dwarf_address *addresses;
	size_t naddresses_done, addresses_size;
	struct intern functions; /* DIE addresses; numbers index functions_list[] */
	struct dwarf_function *functions_list;
	size_t functions_size;
};

struct dwarf {
	const char *const *directories;
	char *debuginfo_path; /* libdw's form */
	struct arena arena;   /* frames, names */
	struct intern paths;  /* as units have them; numbers index tidy_paths[] */
	const char **tidy_paths;
	size_t tidy_size;
	struct intern keys;	       /* path and build-id; numbers index modules[] */
	struct dwarf_module **modules; /* NULL: no file */
	size_t modules_size;
};

/* dwarf_file.c */
/* Opens the file for m (dwfl, module, elf, file_bias, segments_moved). */
bool dwarf_file_open(struct dwarf_module *m, const char *path, const char *build_id,
		     int64_t not_after);
/* Its debug information: dwarf and debug_bias. */
void dwarf_file_open_debug(struct dwarf_module *m);
/* The symbol that the address is in, NULL. */
const struct file_symbol *dwarf_file_symbol(struct dwarf_module *m, uint64_t address);

/* dwarf_unpack.c */
/* The debug information of a file that has it compressed, in *out; NULL: it is not
 * compressed, or not in a way that is known here. */
Dwarf *dwarf_unpack(const void *file, size_t size, struct dwarf_image *out);
void dwarf_image_free(struct dwarf_image *image); /* after dwarf_end() */

/* dwarf_path.c */
/* The name of a source file, kept: below directory if it is relative, without the . and
 * .. that builds leave in it, unless that would name another file. */
const char *dwarf_path(struct dwarf *d, const char *directory, const char *file);

/* dwarf_unit.c */
void dwarf_unit_list(struct dwarf_module *m);
/* Fills in addresses, all of one unit, sorted. */
void dwarf_unit_resolve(struct dwarf_module *m, struct unit *u,
			struct dwarf_address **addresses, size_t n);

#endif
