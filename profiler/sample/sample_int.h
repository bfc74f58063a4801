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

/* For sample_adopt(): the sites hold so much, whose copies at the peak add up to that. */
void peak_adopt(uint64_t live, uint64_t copied);
/* sample.c: of a process that has ended. */
void sample_set_origin(uint64_t period, uint64_t samples);
/* period.c: the settings over time. */
struct period {
	uint64_t started_ns; /* os_realtime_ns(); 0: from the start */
	size_t sample;	     /* mean bytes between samples */
	bool on, exact;
};
const struct period *period_nth(uint8_t number); /* FAST. */
const struct period *period_latest(void);	 /* FAST. */
uint8_t period_number(void);			 /* FAST. Of the latest */
void period_first(struct period p);		 /* INIT. The only one so far */
bool period_add(struct period p);		 /* false: the list is full */

/* sample.c. In record.site: the object was freed. No site has so high a number. */
#define SAMPLE_FREED ((uint32_t)1 << 31)
/* The site of the object that is or was recorded last in the slot; SITE_NONE: none. */
uint32_t sample_last_site(const struct mspan *s, uint32_t index);
bool sample_is_whole(void); /* every object so far was recorded */

/* misuse.c: what can be said about an object that the program misuses. */
/* FAST. free_site is the stack of free(), or SITE_NONE and pc the return address of it.
 */
void misuse_note_free(uintptr_t p, uint32_t alloc_site, uint32_t free_site, uintptr_t pc);
/* DUMP. For heap_hooks. */
void misuse_describe(const struct mspan *s, uint32_t index, const void *p);

/* sample.c: fills samples, dropped, truncated. */
void sample_add_counts(struct sample_total *out);

#endif
