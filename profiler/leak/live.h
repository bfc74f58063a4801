/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live: a leak check of a program that runs on.
 *
 *   screen:  mark beside the running program; nothing white that is new: report
 *   confirm: mark while the kernel takes note of what is written, stop the threads, mark
 *            from that and their registers -> go on -> report what is white in both
 *   or:      stop the threads, copy the process -> go on -> the copy marks, with
 *            registers, and reports what is white in both
 *
 * The screen takes no pause: it shares the memory and sees it change, and what it finds
 * white are candidates (beside.h). Where it cannot be made so, it is made in a copy, as
 * the confirm is then: by clone(), with the memory as it was in one moment, but without
 * threads' registers. An object that a check has reported stays lost, so only new
 * candidates are worth a stop.
 *
 * Where no process can be cloned, the threads stand still while the agent marks.
 */
#ifndef PROFILER_LEAK_LIVE_H
#define PROFILER_LEAK_LIVE_H

#include "profiler/leak/leak.h"

struct live_request {
	bool stop;	/* no screen: the threads are stopped at once */
	bool reachable; /* what is held is reported, too, and by whom */
	bool standing;	/* the program may stand still for as long as it takes */
	bool snapshot;	/* the screen is of a snapshot */
	bool unstopped; /* nothing may make the program stand still: rather no verdict */
	bool uncopied;	/* no copy may; the stop of a confirm without one may */
	bool limited;	/* nor one that has become dearer than it was when it was asked */
	bool brief;	/* the report has the stacks of the largest leaks only */
	int report;	/* descriptor for the report in JSON */
	int profile;	/* for the leak profile, -1: none */
};

struct live_answer {
	uint64_t pause_ns; /* the longest */
	uint32_t nthreads; /* stopped */
	char why[160];	   /* of a failure */
};

/* DUMP. By a thread of our own that the program does not know. 0, or -errno with a
 * reason. */
int live_check(const struct live_request *q, struct live_answer *out);
/* DUMP. What can wait until the answer is given: huge pages that were split meanwhile. */
void live_finish(void);

#endif
