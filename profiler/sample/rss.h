/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rss: what the resident memory of the process is made of: "RSS says 8 GB, the profile
 * says 1". The parts add up to the whole.
 */
#ifndef PROFILER_SAMPLE_RSS_H
#define PROFILER_SAMPLE_RSS_H

#include "preload/base/base.h"

enum rss_part {
	RSS_LIVE,     /* asked for by the program and not freed, as far as touched */
	RSS_SLACK,    /* given beyond what was asked: size classes, whole pages */
	RSS_FREE,     /* free in the allocator: caches, spans, pages not given back */
	RSS_METADATA, /* the allocator's tables */
	RSS_PROFILER, /* stacks, sites, records, reports */
	RSS_OTHER,    /* outside the heap: code, data, stacks, mappings of the program */
	RSS_PARTS
};

struct rss {
	uint64_t total; /* bytes; 0: not known (/proc is not readable) */
	uint64_t part[RSS_PARTS];
};

/* DUMP. Measures now, for the comments of the profiles and rss_get(). The heap's locks
 * are taken; with other threads running, caches are an estimate. */
void rss_measure(void);
const struct rss *rss_get(void);

#endif
