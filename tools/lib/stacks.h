/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stacks: the samples of a profile as stacks of named frames, inlined ones expanded, and
 * without the frames of allocation functions that the profile says to drop.
 */
#ifndef TOOLS_LIB_STACKS_H
#define TOOLS_LIB_STACKS_H

#include "tools/lib/pbfile.h"

struct frame {
	const char *function; /* readable, never NULL; "[name]" or a place when unnamed */
	const char *file;     /* "" unknown */
	const char *module;   /* path, "" unknown */
	int64_t line;	      /* 0: unknown */
	uint64_t offset;      /* of the call in the module's file */
	bool inlined;
};

struct stacks {
	struct pbfile *file;
	struct frame *frames; /* of all locations */
	size_t *first;	      /* by location id - 1, one more at the end */
	bool *dropped;	      /* frame by frame */
	struct frame *buffer; /* of stacks_of() */
	size_t buffer_size;
	struct arena arena;
};

/* file stays the caller's, and must outlive it. */
void stacks_init(struct stacks *s, struct pbfile *file);
void stacks_free(struct stacks *s);
/* The sample's frames, innermost first; valid until the next call. Never empty. */
size_t stacks_of(struct stacks *s, const Seep__Pprof__Sample *sample,
		 const struct frame **out_frames);

/* Is its line in a system header or in a library of the system or the compiler? */
bool frame_is_system(const struct frame *f);
/* "src/a.c:12" or the module's path, allocated. */
char *frame_place(const struct frame *f);

#endif
