/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creator: how many threads each creation site has made, how many of them live,
 * and how that went over time.
 *
 * The time since a site made its first thread is divided into up to CREATOR_STEPS steps,
 * each with the fewest threads that lived during it; when they are used up, pairs of them
 * become one and a step takes twice as long.
 *
 * Concurrency: the caller holds the lock of the thread registry.
 */
#ifndef PROFILER_STACK_CREATOR_H
#define PROFILER_STACK_CREATOR_H

#include "preload/base/base.h"

#define CREATOR_STEPS	 32
#define CREATOR_QUARTERS 4

struct creator {
	struct creator *next;
	uint32_t site; /* of the pthread_create() call; 0: not captured */
	uint32_t live, peak;
	uint64_t created;
	uint64_t first_ns, step_ns;
	uint32_t step;		       /* the one that runs */
	uint32_t least[CREATOR_STEPS]; /* up to step */
};

/* SLOW. A thread made at site begins. NULL: no memory. */
struct creator *creator_thread_begins(uint32_t site, uint64_t now_ns);
void creator_thread_ends(struct creator *c, uint64_t now_ns);
/* The sites, newest first. */
struct creator *creator_list(void);
/*
 * The least number of live threads in each quarter of the time since the first. True: it
 * grows: it has been watched for CREATOR_WATCH_NS, and each quarter had more than the one
 * before.
 */
#define CREATOR_WATCH_NS 10000000000u
bool creator_grows(const struct creator *c, uint64_t now_ns,
		   uint32_t out_least[CREATOR_QUARTERS]);

#endif
