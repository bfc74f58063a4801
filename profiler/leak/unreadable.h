/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unreadable: pages of objects and other memory that the program has taken the right to
 * read from, as guards of stacks and buffers are. While the world stands they are
 * readable again: a pointer on them still holds, and a marker that came upon one would
 * take the program down.
 */
#ifndef PROFILER_LEAK_UNREADABLE_H
#define PROFILER_LEAK_UNREADABLE_H

#include "preload/base/base.h"

struct unreadable {
	struct unreadable_range {
		uintptr_t lo, hi;
		int protection; /* to be given back */
	} * ranges;
	size_t count, capacity;
	bool full;	     /* some could not be opened: nothing may be read */
	bool only_look, met; /* nothing is opened, but what would be is noted */
};

/* DUMP. Before the world is stopped. */
bool unreadable_init(struct unreadable *u, size_t capacity);
void unreadable_free(struct unreadable *u);
/* STW, all locks of the heap held. A mapping without the right to read, which may lie
 * anywhere: its pages that belong to objects are opened. */
void unreadable_open(struct unreadable *u, uintptr_t lo, uintptr_t hi, int protection);
/* The same for all objects, where no list of mappings can be had: each page is asked for.
 */
void unreadable_open_all(struct unreadable *u);
/* STW. Pages of no object. False: they cannot be opened. */
bool unreadable_open_others(struct unreadable *u, uintptr_t lo, uintptr_t hi);
/* STW. As before. */
void unreadable_close(struct unreadable *u);

/* STW, SIGNAL. Can the page be read? */
bool unreadable_is_not(uintptr_t page);

#endif
