/* SPDX-License-Identifier: Apache-2.0 */
/*
 * other: is an object on the stack of another thread?
 */
#ifndef PROFILER_ESCAPE_OTHER_H
#define PROFILER_ESCAPE_OTHER_H

#include "preload/base/base.h"

/* A word on another thread's stack. */
struct other_word {
	uintptr_t at;
	uint32_t site; /* of the call that made the thread, 0: not known */
	bool waits;    /* the thread waits in the kernel: the word is in use. Of a running
			* one, what it holds cannot be told from what it left, unless the
			* word has changed since the object was made. */
};

/* INIT. In the main thread. */
void other_init(void);
/* SLOW; reads /proc. Looks through the stacks of other threads: of those that wait, all
 * of it, thread-local storage included; of those that run, the outermost frames. *left:
 * bytes that may be read, counted down. */
bool other_has(uintptr_t p, size_t size, size_t *left, struct other_word *out);
/* SLOW. Does the word at that address refer to the object? Only if it is on the stack of
 * another thread, still. */
bool other_refers(uintptr_t at, uintptr_t p, size_t size, struct other_word *out);

#endif
