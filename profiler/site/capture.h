/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture: the site of the calling thread's stack, at the price of what has changed since
 * the thread's last capture.
 */
#ifndef PROFILER_SITE_CAPTURE_H
#define PROFILER_SITE_CAPTURE_H

#include "preload/base/base.h"
#include "profiler/stack/trail.h"

struct capture {
	uint32_t site;
	bool truncated;		   /* the stack was longer, or made no sense */
	const struct trail *trail; /* NULL: not captured incrementally */
};

/* SLOW. False: nothing was captured. The caller has called thread_internal_enter(). */
bool capture_here(struct capture *out);

/* SLOW. The site of a stack that trail_capture_node() has just captured without knowing
 * its node. 0: out of memory. */
uint32_t capture_site(const struct trail *t);

#endif
