/* SPDX-License-Identifier: Apache-2.0 */
/*
 * why: what to say when a check could not be made for something that the system refuses.
 */
#ifndef PROFILER_LEAK_WHY_H
#define PROFILER_LEAK_WHY_H

#include "preload/base/base.h"

/* The name of -errno, of those that filters and limits make. */
const char *why_error(int error);
/* DUMP. meta_map() has failed: tries what it does, and says what fails. -errno. */
int why_no_memory(char *out, size_t size);
/* A snapshot has ended without a result. wait_error: -errno of waiting for it, or 0;
 * signal: that it was killed by, or 0. */
void why_no_copy(char *out, size_t size, int wait_error, int signal);

#define WHY_TOO_DEAR                                                                 \
	"it writes so much that its huge pages are split: a copy would take longer " \
	"than "                                                                      \
	"was foretold"
/* Only a stop could tell; instead: why it could not be looked at without, or empty: n new
 * objects seem lost. -errno. */
int why_unstopped(char *out, size_t size, const char *instead, uint64_t n);

#endif
