/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: which allocations are recorded, and what is known about each recorded object
 * while it lives. Fills heap_hooks. In sampled mode an object is recorded when its
 * thread's byte budget, drawn from an exponential distribution with mean `sample`, runs
 * out; in exact mode every object is.
 */
#ifndef PROFILER_SAMPLE_SAMPLE_H
#define PROFILER_SAMPLE_SAMPLE_H

#include "preload/base/base.h"
#include "preload/heap/heap.h"

/* What is kept for one live recorded object: 16 bytes beside its span. site 0: the slot
 * holds no recorded object. */
struct sample_record {
	uint32_t site;
	uint32_t escape;	 /* handle of profiler/escape, 0: not followed */
	uint64_t birth_and_size; /* birth: upper 48 bits, 64 ns units; size: lower 16
				  * bits, for small objects (large: mspan.size_asked) */
};

/* INIT. Installs the hooks for the options' mode. In exact mode turns slow frees on. */
void sample_init(void);
/* Is recording on? */
bool sample_is_on(void);
bool sample_is_exact(void);

/* STW or by the owner of the object: the record of a slot, or NULL when not recorded. */
const struct sample_record *sample_find(const struct mspan *s, uint32_t index);
size_t sample_size_asked(const struct mspan *s,
			 uint32_t index);		 /* slot size if unknown */
uint64_t sample_birth_ns(const struct sample_record *r); /* os_now_ns() scale */

/* 1/(1-e^(-size/period)) as fixed point with SITE_SHIFT bits; 1.0 in exact mode. */
uint64_t sample_weight(size_t size);

/* DUMP. Writes PREFIX.heap.pb.gz, .allocs.pb.gz and .peak.pb.gz (the last holds the live
 * sites at the peak, see peak.c). Returns 0 or the first -errno. */
int sample_write_profiles(const char *prefix);

/* Following objects to their end (profiler/escape, a later layer): filled once in
 * preload/api/init.c, may stay empty. See escape.h for the meaning. */
struct frame;
struct sample_hooks {
	uint32_t (*begin)(const void *p, size_t size, uint32_t site,
			  const struct frame *frames, int count);
	void (*end)(uint32_t handle);
	void (*resize)(uint32_t handle, size_t size);
	void (*drop)(uint32_t handle);
};
extern struct sample_hooks sample_hooks;

/* One line of the summary. */
struct sample_total {
	uint64_t alloc_objects, alloc_bytes, live_objects, live_bytes, peak_bytes;
	uint64_t samples, dropped; /* recorded; lost for lack of memory or re-entry */
	uint64_t truncated;	   /* stacks that ended in [truncated] */
};
void sample_get_total(struct sample_total *out);
/* fork child: what the parent recorded stays known but is not reported as ours. */
void sample_fork_prepare(void);
void sample_fork_done(bool child);
/* The pool's lock ranks below the heap's: taken after, released before them. */
void sample_pool_fork_prepare(void);
void sample_pool_fork_done(bool child);
/* Objects born before this instant were inherited from the parent. 0: none were. */
uint64_t sample_epoch_ns(void);

#endif
