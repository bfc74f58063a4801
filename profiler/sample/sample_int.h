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
#include "profiler/stack/thread.h"

#define HIDDEN_SITE UINT32_MAX /* of sample_hide_enter(); no stack has it */
#define MAX_PAGES   32	       /* of a small span, see sizeclass.c */

struct block {
	uint16_t page_count[MAX_PAGES];
	char records[]; /* RECORD_SHORT, RECORD_BIRTH or RECORD_ESCAPE bytes each */
};
_Static_assert(sizeof(struct block) % 8 == 0, "records are aligned");

#define RECORD_SHORT  offsetof(struct sample_record, birth_ns)
#define RECORD_BIRTH  offsetof(struct sample_record, escape)
#define RECORD_ESCAPE sizeof(struct sample_record) /* the maker's thread, too */

/* FAST. Bytes asked. */
static inline size_t record_size(const struct mspan *s, const struct sample_record *r)
{
	return s->slot_size ? r->size : s->size_asked;
}

/* sample.c: what all that record use. */
struct sample_common {
	uint8_t epoch;	  /* forks between the first process and this one, modulo 256 */
	uint64_t samples; /* recorded; atomic */
};
extern struct sample_common sample_common HIDDEN;
void sample_on_malloc(void *p, size_t size);
void sample_on_free(struct mspan *s, uint32_t index, void *p);
/* plain.c: the same for exact mode with records of RECORD_SHORT. */
void plain_on_malloc(void *p, size_t size);
void plain_on_free(struct mspan *s, uint32_t index, void *p);

/* peak.c: the running total of live bytes, and the sites at its highest. */
struct peak_totals {
	uint64_t live; /* atomic: bytes, estimated in sampled mode */
	uint64_t peak; /* atomic: highest live */
	/* Atomic, written under peak.c's lock: live when the counters were copied, and
	 * the peak beyond which they are again. */
	uint64_t copied, next_copy;
};
extern struct peak_totals peak_totals HIDDEN;
void peak_grow_shared(uint64_t bytes); /* beside other threads */
void peak_shrink_slow(uint64_t bytes); /* the same, or the first after a new peak */

/* FAST. */
ALWAYS_INLINE void peak_grow(uint64_t bytes)
{
	uint64_t live;

	if (UNLIKELY(atomic_load_relaxed(&thread_are_many))) {
		peak_grow_shared(bytes);
		return;
	}
	live = atomic_load_relaxed(&peak_totals.live) + bytes;
	atomic_store_relaxed(&peak_totals.live, live);
	if (live > atomic_load_relaxed(&peak_totals.peak))
		atomic_store_relaxed(&peak_totals.peak, live);
}

/* FAST but for a rare copy of all counters. Before the site's counters change. */
ALWAYS_INLINE void peak_shrink(uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&peak_totals.peak) >
		     atomic_load_relaxed(&peak_totals.next_copy)) ||
	    UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		peak_shrink_slow(bytes);
	else
		atomic_store_relaxed(&peak_totals.live,
				     atomic_load_relaxed(&peak_totals.live) - bytes);
}

void peak_settle(void); /* DUMP: the copy is as good as it can be */
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

/* sample.c: fills samples, dropped, truncated. */
void sample_add_counts(struct sample_total *out);

#endif
