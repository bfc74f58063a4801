/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pbfile: whole profile files in memory: read, checked, changed, written.
 *
 * After pbfile_read() ids of mappings, locations and functions run from 1 in the order of
 * their lists, every reference is valid (0: no mapping), string indexes are in range and
 * every sample has one value for each sample type: later code need not check.
 */
#ifndef TOOLS_LIB_PBFILE_H
#define TOOLS_LIB_PBFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "profile.pb-c.h"
#include "tools/lib/arena.h"
#include "tools/lib/intern.h"

struct pbfile {
	Seep__Pprof__Profile *p;
	struct arena arena; /* everything that p holds */
	/* Fields of samples as they were read, where they are not in p. */
	uint8_t *samples;
	size_t samples_size;
	/* while it is being changed: */
	bool editing;
	struct intern strings; /* texts; string_index by their numbers */
	int64_t *string_index; /* in the table */
	size_t string_index_size;
	size_t table_size;	 /* of p->string_table, once it has grown; else 0 */
	struct intern functions; /* name, system_name, filename, start_line; id - 1 */
	Seep__Pprof__Function **functions_list;
	size_t functions_size;
};

/* Reads a gzipped or plain profile. NULL: *out_why is a phrase (allocated). */
struct pbfile *pbfile_read(const char *path, char **out_why);
/* The same from bytes; takes them over. */
struct pbfile *pbfile_parse(uint8_t *bytes, size_t size, char **out_why);
/* The same, for those who look at places only: samples are checked, and stay bytes that
 * pbfile_write() writes again. A profile that has one of the texts of NULL-terminated
 * LABELS, as a label's key or value, is read whole. */
struct pbfile *pbfile_parse_places(uint8_t *bytes, size_t size, const char *const *labels,
				   char **out_why);
void pbfile_free(struct pbfile *f);

const char *pbfile_text(const struct pbfile *f, int64_t string);
/* Index of the sample type, -1. NULL: the file's default. */
int pbfile_type(const struct pbfile *f, const char *name);

/* A number for text in the string table, which may grow. */
int64_t pbfile_string(struct pbfile *f, const char *text);
/* The id of a function, made when there is none like it. */
uint64_t pbfile_function(struct pbfile *f, int64_t name, int64_t system_name,
			 int64_t filename, int64_t start_line);
Seep__Pprof__Function *pbfile_function_at(const struct pbfile *f, uint64_t id);
/* Writes it gzipped, to a temporary name first, mode 0600 or that of the file it
 * replaces. False: errno. */
bool pbfile_write(struct pbfile *f, const char *path);

#endif
