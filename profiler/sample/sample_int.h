/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample_int: what the files of this folder share.
 */
#ifndef PROFILER_SAMPLE_SAMPLE_INT_H
#define PROFILER_SAMPLE_SAMPLE_INT_H

#include "preload/base/atomic.h"
#include "profiler/pprof/pprof.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/mspan.h"
#include "preload/heap/sizeclass.h"
#include "preload/heap/tls.h"
#include "profiler/sample/lifetime.h"
#include "profiler/sample/sample.h"
#include "profiler/site/label.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"

#define HIDDEN_SITE	   INT32_MAX /* of sample_hide_enter(); no stack has it */
#define RECORD_SHORT	   offsetof(struct sample_record, birth_ns)
#define RECORD_BIRTH	   offsetof(struct sample_record, escape)
#define RECORD_ESCAPE	   offsetof(struct sample_record, entry) /* the thread, too */
#define RECORD_STORED	   sizeof(struct sample_record)
#define RECORD_PACKED	   (offsetof(struct sample_record, packed) + 8)
#define RECORD_BIRTH_SHIFT 22 /* 4 ms, about what the coarse clock knows */

/* FAST. Bytes asked. */
static inline size_t record_size(const struct mspan *s, const struct sample_record *r)
{
	return s->slot_size ? r->size : s->size_asked;
}

#define SAMPLE_WEIGHTS 64 /* remembered */
#define SAMPLE_STRIPES 16

/* What all that record use; life.c writes the settings. */
struct sampler {
	bool on, exact;	 /* atomic: sample_change() writes, any thread reads */
	bool slow_frees; /* no count of pages is needed any more; atomic, one way */
	bool clear;	 /* new objects: no stale pointer may hide a leak */
	bool whole;	 /* every object since the start has a record; atomic */
	bool lifetimes, labels; /* asked for */
	uint32_t record_size;	/* frozen by sample_init(): RECORD_* */
	bool packed;		/* RECORD_PACKED: handle and birth in a word; frozen */
	bool sparse;		/* blocks begin with a few records, see block.h; frozen */
	size_t period;		/* atomic, as on */
	uint64_t random;	/* atomic: splitmix64's counter, see next_variate() */
	uint64_t weights[SAMPLE_WEIGHTS]; /* atomic: see weight_then() */
	struct {
		uint64_t value, check;
	} large_weights[SAMPLE_WEIGHTS]; /* atomic: see large_weight() */
	struct {
		struct lock lock;
	} stripes[SAMPLE_STRIPES];
	struct lock pool_lock;
	struct fixalloc pools[SIZECLASS_COUNT]; /* by class; 0: of few; guarded */
	/* atomic totals */
	uint64_t dropped, truncated;
	uint32_t any_hidden; /* atomic */
	uint8_t epoch; /* forks between the first process and this one, modulo 256 */
	/* What new records have in their upper 16 bits, epoch and period; the same, but
	 * UINT32_MAX, when that is not exact. period_stamp() sets both; atomic. */
	uint32_t stamp, exact_stamp;
	uint64_t samples; /* recorded; atomic */
};
extern struct sampler sampler HIDDEN;

/* FAST. Is there room for a handle of profiler/escape? */
static inline bool record_has_handle(void)
{
	return sampler.packed || sampler.record_size >= RECORD_ESCAPE;
}

/* FAST. It; there is room. */
static inline uint32_t *record_handle(struct sample_record *r)
{
	return sampler.packed ? &r->packed.escape : &r->escape;
}

/* FAST. Now, for packed.birth. */
static inline uint32_t record_birth_now(void)
{
	return (uint32_t)(os_coarse_ns() >> RECORD_BIRTH_SHIFT);
}

/* FAST. What packed.birth says, the latest such time before now: the clock counts from
 * the machine's start, the field for 208 days. */
static inline uint64_t record_birth_ns(uint32_t birth, uint64_t now_ns)
{
	uint64_t now = now_ns >> RECORD_BIRTH_SHIFT;

	return (now - (uint32_t)((uint32_t)now - birth)) << RECORD_BIRTH_SHIFT;
}

/* sample.c: bytes to the next sample, and the hooks of the heap. */
int64_t sample_draw_budget(void);
void sample_on_malloc(void *p, size_t size);
bool sample_on_free(struct mspan *s, uint32_t index, void *p);
void sample_on_resize(struct mspan *s, uint32_t index, void *p, size_t size);
void sample_on_release(struct mspan *s);
/* plain.c: the same for exact mode with records of RECORD_SHORT. */
void plain_on_malloc(void *p, size_t size);
bool plain_on_free(struct mspan *s, uint32_t index, void *p);
/* The same with records of RECORD_PACKED, for sample_hooks. */
void plain_on_malloc_followed(void *p, size_t size);
bool plain_on_free_followed(struct mspan *s, uint32_t index, void *p);
/* lean.c: the same for sampled mode with records of RECORD_BIRTH. */
void lean_on_malloc(void *p, size_t size);
bool lean_on_free(struct mspan *s, uint32_t index, void *p);
uint64_t lean_on_malloc_large(struct mspan *s, size_t size);
void lean_on_free_large(struct mspan *s);
void sample_note_end(void *p, uint32_t site); /* sample.c: by the calling thread */
uint64_t sample_random(void);		      /* sample.c */
void sample_end_escape(uint32_t handle);      /* sample.c: 0: nothing to do */

/* peak.c: the running total of live bytes, and the sites at its highest. Beside other
 * threads, what is read at every event lies apart from what changes often. */
struct peak_totals {
	uint64_t number; /* atomic: of the latest peak that is over */
	bool fresh;	 /* atomic: peak was raised since, and nothing was freed */
	uint64_t live
		__attribute__((aligned(2 * CACHE_LINE))); /* atomic: bytes, estimated in
							 sampled mode */
	uint64_t peak;					  /* atomic: highest live */
};
extern struct peak_totals peak_totals HIDDEN;
void peak_keep(struct site_counters *c); /* what is live of it */
void peak_keep_alone(struct site_counters *c);
void peak_end(void);		     /* the first free after a new maximum */
void peak_add_shared(int64_t bytes); /* beside other threads */

/* FAST. The same: threads beside each other do not share the total at every event. What
 * each adds is kept back until it is worth a step. */
#define PEAK_STEP 8192
static inline bool peak_is_little(int64_t sum)
{
	return sum < PEAK_STEP && sum > -PEAK_STEP;
}

ALWAYS_INLINE void peak_add_beside(int64_t bytes)
{
	int64_t sum = seep_tls.live_delta + bytes;

	if (LIKELY(peak_is_little(sum)))
		seep_tls.live_delta = (int32_t)sum;
	else
		peak_add_shared(bytes);
}

/* FAST. Was what is live of it kept since the latest peak? */
static inline bool peak_has(const struct site_counters *c)
{
	return atomic_load_relaxed(&c->peak_number) ==
	       atomic_load_relaxed(&peak_totals.number);
}

ALWAYS_INLINE void peak_touch_alone(struct site_counters *c)
{
	if (UNLIKELY(!peak_has(c)))
		peak_keep_alone(c);
}

ALWAYS_INLINE void peak_touch(struct site_counters *c)
{
	if (UNLIKELY(!peak_has(c)))
		peak_keep(c);
}

/* FAST. The total alone, with one thread. */
ALWAYS_INLINE void peak_raise_alone(uint64_t bytes)
{
	uint64_t live;

	thread_add_alone(&peak_totals.live, bytes);
	live = atomic_load_relaxed(&peak_totals.live);
	if (live > atomic_load_relaxed(&peak_totals.peak)) {
		atomic_store_relaxed(&peak_totals.peak, live);
		atomic_store_relaxed(&peak_totals.fresh, true);
	}
}

/* FAST. Before the counters of a site change, with one thread. */
ALWAYS_INLINE void peak_grow_alone(struct site_counters *c, uint64_t bytes)
{
	peak_touch_alone(c);
	peak_raise_alone(bytes);
}

ALWAYS_INLINE void peak_shrink_alone(struct site_counters *c, uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&peak_totals.fresh)))
		peak_end();
	peak_touch_alone(c);
	thread_add_alone(&peak_totals.live, 0 - bytes);
}

/* FAST. The same beside other threads. */
ALWAYS_INLINE void peak_grow_beside(struct site_counters *c, uint64_t bytes)
{
	peak_touch(c);
	peak_add_beside((int64_t)bytes);
}

ALWAYS_INLINE void peak_shrink_beside(struct site_counters *c, uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&peak_totals.fresh)))
		peak_end();
	peak_touch(c);
	peak_add_beside(-(int64_t)bytes);
}

/* FAST. Either. */
ALWAYS_INLINE void peak_grow(struct site_counters *c, uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		peak_grow_beside(c, bytes);
	else
		peak_grow_alone(c, bytes);
}

ALWAYS_INLINE void peak_shrink(struct site_counters *c, uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		peak_shrink_beside(c, bytes);
	else
		peak_shrink_alone(c, bytes);
}

void peak_settle(void); /* DUMP: the present may be the peak */
/* DUMP. What was live of a site at the peak; objects in fixed point. */
void peak_read(const struct site_counters *c, uint64_t *out_objects, uint64_t *out_bytes);
uint64_t peak_bytes(void);
/* For sample_adopt(): from the sites. */
void peak_adopt(void);
/* sample.c: of a process that has ended. */
void sample_set_origin(uint64_t period, uint64_t samples);
/* period.c: the settings over time. */
struct period {
	uint64_t started_ns; /* os_realtime_ns(); 0: from the start */
	size_t sample;	     /* mean bytes between samples */
	double inverse;	     /* of sample; set by period.c */
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
void period_stamp(void);		  /* the epoch or the latest has changed */
void period_first(struct period p);	  /* INIT. The only one so far */
bool period_add(struct period p);	  /* false: the list is full */

/* sample.c: what an object of this age stands for. */
void sample_measure(const struct mspan *s, const struct sample_record *r, uint64_t age_ns,
		    struct lifetime_sum *out);
/* The same of one that lives: total_ns is the time of its birth. */
void sample_describe_life(const struct mspan *s, const struct sample_record *r,
			  struct lifetime_sum *out);
/* profile.c: at most LABEL_MAX into list; how many. */
#define LABEL_MAX 2
int sample_labels(const struct labels *labels, struct pprof_label *list);

/* sample.c. In record.site: the object was freed. No site has so high a number. */
#define SAMPLE_FREED ((uint32_t)1 << 31)
/* plain.c. In record.site: it is the number of the site's counters, so that who frees the
 * object finds them at once. */
#define SAMPLE_NUMBER  ((uint32_t)1 << 30)
#define SAMPLE_CLAIMED UINT32_MAX /* as good as freed, but not to be had, see block.h */
/* FAST. The site in a record.site that is not marked as freed. */
static inline uint32_t record_site(uint32_t site)
{
	return site & SAMPLE_NUMBER && site != HIDDEN_SITE
		       ? site_of_number(site & ~SAMPLE_NUMBER)
		       : site;
}

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
