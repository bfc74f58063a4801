/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracked: the confirm without a copy. A look beside the program (look.h) marks while
 * the kernel takes note of every page that is written; what was written is marked again
 * and again, until it is little; then the threads are stopped, for as long as it takes to
 * mark from their registers and that little.
 *
 * Who is white then is lost: all that is reached in that moment was black, or is now.
 * What is black was scanned, and has not changed since, or its page was written, and it
 * was scanned again.
 */
#ifndef PROFILER_LEAK_TRACKED_H
#define PROFILER_LEAK_TRACKED_H

#include "profiler/leak/leak_int.h"
#include "profiler/leak/sweep.h"
#include "profiler/leak/written.h"

struct tracked {
	/* Of the caller: what looks before have seen, NULL: nothing was looked at; the
	 * list of what is lost. */
	struct sweep_seen *before;
	struct sweep_seen *seen;
	struct sweep *sweep;
	struct written written;
	struct mark_doubts doubts, white; /* what is new; what may be reported */
	bool unseen;			  /* what a stop has bared */
	const char *why;		  /* it could not be done so; NULL: it was */
};

/* By the agent. False: out of memory. */
bool tracked_map(struct tracked *t);
void tracked_unmap(struct tracked *t);
/* In the process of a look, which asks for a stop by look_stop(): c is mapped for it.
 * Afterwards the list of what is lost and the sweep are made, unless t->why. */
void tracked_confirm(struct tracked *t, struct cycle *c);

#endif
