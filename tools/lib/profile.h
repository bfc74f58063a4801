/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile: reading our own .pb.gz files back, for the summary.
 */
#ifndef TOOLS_LIB_PROFILE_H
#define TOOLS_LIB_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct profile_site {
	int64_t objects, bytes;
	char *stack; /* "leaf < caller < ...", demangled; allocated */
};

/* The n sites with the largest value of sample type "space" (by name), largest first.
 * Returns how many, -1 when the file cannot be read. Free with profile_free(). */
int profile_top(const char *path, const char *objects_type, const char *space_type,
		struct profile_site *sites, int n);
void profile_free(struct profile_site *sites, int n);
/* Human form of a linkage name, allocated. */
char *profile_demangle(const char *name);

#endif
