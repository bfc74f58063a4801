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
	char error[16]; /* " ±4 %" of bytes where they are an estimate, else "" */
	char *stack;	/* "leaf < caller < ...", demangled; allocated */
};

/* The n sites with the largest value of sample type "space" (by name), largest first;
 * those that would read the same are one.
 * Returns how many, -1 when the file cannot be read. Free with profile_free(). */
int profile_top(const char *path, const char *objects_type, const char *space_type,
		struct profile_site *sites, int n);
/* The expected error of the whole of a sample type, in percent; 0: it is no estimate, or
 * nothing was seen. *out_period: the profile's, if it can be read. */
double profile_error(const char *path, const char *type, int64_t *out_period);
void profile_free(struct profile_site *sites, int n);
/* Human form of a linkage name, allocated. */
char *profile_demangle(const char *name);

#endif
