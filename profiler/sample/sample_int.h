/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample_int: what the files of this folder share.
 */
#ifndef PROFILER_SAMPLE_SAMPLE_INT_H
#define PROFILER_SAMPLE_SAMPLE_INT_H

#include "profiler/sample/sample.h"

/* peak.c: the running total of live bytes, and the sites at its highest. FAST but for a
 * rare copy of all counters. */
void peak_grow(uint64_t bytes);
void peak_shrink(uint64_t bytes); /* before the site's counters change */
void peak_settle(void);		  /* DUMP: the copy is as good as it can be */
uint64_t peak_bytes(void);
uint64_t peak_live_bytes(void);
void peak_fork_prepare(void);
void peak_fork_done(bool child);

/* period.c: the settings over time. */
struct period {
	uint64_t since_ns; /* os_now_ns(); objects born from then on; 0: from the start */
	uint64_t started_ns; /* the same by os_realtime_ns(); 0: from the start */
	size_t sample;	     /* mean bytes between samples */
	bool on, exact;
};
const struct period *period_at(uint64_t birth_ns); /* FAST. In force at that moment */
const struct period *period_latest(void);	   /* FAST. */
void period_first(struct period p);		   /* INIT. The only one so far */
/* False: the list is full. */
bool period_add(struct period p, uint64_t *out_since_ns);

/* sample.c: fills samples, dropped, truncated. */
void sample_add_counts(struct sample_total *out);

#endif
