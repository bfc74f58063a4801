/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample_int: what the files of this folder share.
 */
#ifndef PROFILER_SAMPLE_SAMPLE_INT_H
#define PROFILER_SAMPLE_SAMPLE_INT_H

#include "preload/base/atomic.h"
#include "profiler/pprof/pprof.h"
#include "profiler/sample/lifetime.h"
#include "profiler/sample/sample.h"
#include "profiler/site/label.h"

/* peak.c: the running total of live bytes, and the sites at its highest. FAST. Both
 * before the site's counters change. */
struct site_counters;
void peak_grow(struct site_counters *c, uint64_t bytes);
void peak_shrink(struct site_counters *c, uint64_t bytes);
void peak_settle(void); /* DUMP: the present may be the peak */
/* DUMP. What was live of a site at the peak; objects in fixed point. */
void peak_read(const struct site_counters *c, uint64_t *out_objects, uint64_t *out_bytes);
uint64_t peak_bytes(void);
uint64_t peak_live_bytes(void);
/* For sample_adopt(): from the sites. */
void peak_adopt(void);
/* sample.c: of a process that has ended. */
void sample_set_origin(uint64_t period, uint64_t samples);
/* period.c: the settings over time. */
struct period {
	uint64_t started_ns; /* os_realtime_ns(); 0: from the start */
	size_t sample;	     /* mean bytes between samples */
	bool on, exact;
};
#define PERIODS_MAX 256 /* a record has a byte for the number */
struct periods {
	uint32_t count; /* atomic; release when list[count - 1] is written */
	struct period list[PERIODS_MAX];
};
extern struct periods periods HIDDEN; /* written by period.c alone */

/* FAST. */
static inline const struct period *period_nth(uint8_t number)
{
	return &periods.list[number];
}

/* FAST. Of the latest. */
static inline uint8_t period_number(void)
{
	uint32_t n = atomic_load_acquire(&periods.count);

	return (uint8_t)(n ? n - 1 : 0);
}

const struct period *period_latest(void); /* FAST. */
void period_first(struct period p);	  /* INIT. The only one so far */
bool period_add(struct period p);	  /* false: the list is full */

/* sample.c: what an object of this age stands for. */
void sample_measure(const struct mspan *s, const struct sample_record *r, uint64_t age_ns,
		    struct lifetime_sum *out);
/* profile.c: at most LABEL_MAX into list; how many. */
#define LABEL_MAX 2
int sample_labels(const struct labels *labels, struct pprof_label *list);

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
