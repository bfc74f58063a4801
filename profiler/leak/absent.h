/* SPDX-License-Identifier: Apache-2.0 */
/*
 * absent: pages of objects that must not be read while the world stands: another thread
 * or process has yet to supply them (userfaultfd), and nobody would; or the program has
 * put something there that cannot be read, or nothing at all.
 */
#ifndef PROFILER_LEAK_ABSENT_H
#define PROFILER_LEAK_ABSENT_H

#include "preload/base/base.h"

struct os_mapping;

struct absent {
	struct absent_range {
		uintptr_t lo, hi;
	} * ranges; /* by address */
	size_t count, capacity;
	bool full;	/* some more could not be noted: nothing may be read */
	bool supplied;	/* some pages are empty, and may be waited for */
	bool unsure;	/* some of them may not be empty */
	uintptr_t seen; /* of the list of mappings: up to here */
};

/* DUMP. Before the world is stopped. */
bool absent_init(struct absent *a, size_t capacity);
void absent_free(struct absent *a);
/* As after absent_init(). */
void absent_forget(struct absent *a);
/* STW, all locks of the heap held. The next mapping of the process, in order: notes what
 * before it and of it cannot be read. pagemap: a descriptor, where pages that are not
 * there may have to be supplied; else -1. */
void absent_see(struct absent *a, const struct os_mapping *m, int pagemap);
/* STW. A page of the last mapping that was seen, in order: it cannot be read. */
void absent_note(struct absent *a, uintptr_t page);
/* STW. Pages that were noted as empty have somebody who supplies them. */
bool absent_is_awaited(const struct absent *a);
/* STW. The first piece of [*lo, hi) that can be read: it begins at *lo then. False: there
 * is none. */
bool absent_next(const struct absent *a, uintptr_t *lo, uintptr_t hi, uintptr_t *out_end);

/* STW. All of it can be read; a may be NULL. */
bool absent_has_not(const struct absent *a, uintptr_t lo, size_t size);

#endif
