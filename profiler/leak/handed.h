/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handed: words that the program has handed to the kernel and that it may get back, as
 * kernelrefs.h finds them: it need keep no other pointer to such an object.
 */
#ifndef PROFILER_LEAK_HANDED_H
#define PROFILER_LEAK_HANDED_H

#include "preload/base/base.h"

#define HANDED_WORDS ((size_t)1 << 20)
#define HANDED_MANY  2048 /* of one ask: too many to be asked for again */
#define HANDED_AGAIN 1024 /* descriptors */

/* Shared with copies of the process. What is not touched costs nothing. */
struct handed {
	size_t count;  /* atomic */
	bool full;     /* there are more */
	bool unseen;   /* some could not be read */
	bool many;     /* in the last ask: it is not repeated in a stop */
	int tid;       /* of a thread with the descriptors */
	size_t nagain; /* descriptors that have some */
	char again[HANDED_AGAIN][12];
	uintptr_t words[HANDED_WORDS];
};

/* SLOW. NULL: out of memory. */
struct handed *handed_map(bool shared);
void handed_unmap(struct handed *h);
/* DUMP. Adds what the kernel has now; what it had before stays. Of all threads' common
 * descriptors, that is those of the first thread that has any, but for `except`, a thread
 * with descriptors of its own; 0: none. A thread that uses an epoll descriptor waits
 * while that is read. */
void handed_ask(struct handed *h, int except);
/* STW. The same, of the descriptors that may have had some then, unless there were many.
 */
void handed_ask_again(struct handed *h);

#endif
