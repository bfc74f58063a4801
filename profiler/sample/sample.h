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
#include "preload/base/opt.h"
#include "preload/heap/heap.h"

/* What is kept for one live recorded object beside its span. site 0, or one marked as
 * freed: the slot holds no recorded object. The later fields are there only where options
 * need them: see sample_birth_ns(). */
struct sample_record {
	uint32_t site;	/* may be labelled, see label.h; or see SAMPLE_NUMBER */
	uint16_t size;	/* asked, of small objects (large: mspan.size_asked) */
	uint8_t epoch;	/* see sample_is_inherited() */
	uint8_t period; /* number of the settings in force at its birth, see period.c */
	union {
		uint64_t birth_ns;
		struct {		 /* of records that sampler.packed is for */
			uint32_t escape; /* as below */
			uint32_t birth;	 /* in units of 2^RECORD_BIRTH_SHIFT ns */
		} packed;
	};
	uint32_t escape;	  /* handle of profiler/escape, 0: not followed */
	uint32_t thread;	  /* thread_serial() of who made it */
	struct life_entry *entry; /* lifestore.h; NULL: none */
};

/* INIT. Installs the hooks for the options' mode. In exact mode turns slow frees on. */
void sample_init(void);
/* Is recording on? */
bool sample_is_on(void);
bool sample_is_exact(void);
bool sample_was_on(void); /* now or at any time before */
enum opt_mode sample_mode(void);
size_t sample_period(void); /* mean bytes between samples */
/* SLOW, one caller at a time. Changes what is recorded from now on. 0 or -errno: -ENOSPC
 * after 255 changes. Once exact, frees stay on their slow path. */
int sample_change(enum opt_mode mode, size_t sample);

/* STW or by the owner of the object: the record of a slot, or NULL when not recorded. */
const struct sample_record *sample_find(const struct mspan *s, uint32_t index);
size_t sample_size_asked(const struct mspan *s,
			 uint32_t index); /* slot size if unknown */
/* The site of its stack; r may be NULL. */
uint32_t sample_site(const struct sample_record *r);
/* os_now_ns() scale; 0: not kept. It is where leaks, escapes or lifetimes are looked for.
 */
uint64_t sample_birth_ns(const struct sample_record *r);
/* Was the object made by the process that this one was forked from? */
bool sample_is_inherited(const struct sample_record *r);
bool sample_has_inherited(void); /* may there be such objects? */

/* 1/(1-e^(-size/period)) as fixed point with SITE_SHIFT bits; 1.0 in exact mode. */
uint64_t sample_weight(size_t size);

/* Objects that the calling thread makes between the two are nobody's leaks. In exact mode
 * they get no record; in sampled mode, where most objects have none, every one of them
 * gets a record that says so. Nestable; false: there was no enter. */
void sample_hide_enter(void);
bool sample_hide_leave(void);
bool sample_is_hidden(const struct sample_record *r);
bool sample_has_hidden(void); /* was any hidden in sampled mode, or ignored in any? */
/* The live object there is nobody's leak until it is freed. By its owner. False: memory
 * is out. */
bool sample_ignore(struct mspan *s, uint32_t index);

/* DUMP. Writes PREFIX.heap.pb.gz, .allocs.pb.gz and .peak.pb.gz (the last holds the live
 * sites at the peak, see peak.c), and .lifetimes.pb.gz if that was asked for. Returns 0
 * or the first -errno. */
int sample_write_profiles(const char *prefix);
/* DUMP. One of them (kind: heap, allocs or peak) into a descriptor. 0 or -errno. */
struct pprof_kind;
int sample_write_fd(const struct pprof_kind *kind, int fd);

/* DUMP. Profiles will be those of a process that has ended, whose sites were adopted
 * (site.h); it is kept by the caller. */
struct store_header;
void sample_adopt(const struct store_header *h);
/* In a forked child, whose file is new (site_store_move()). */
void sample_store_move(void);

/* Following objects to their end (profiler/escape, a later layer): filled once in
 * preload/api/init.c, may stay empty. See escape.h for the meaning. */
struct trail;
struct sample_hooks {
	uint32_t (*begin)(const void *p, size_t size, uint32_t site,
			  const struct trail *stack);
	/* Of an object that was chosen, one of 2^lg. Of the first 2^lg_all of a site, all
	 * are. */
	uint32_t (*begin_one)(const void *p, size_t size, uint32_t site,
			      const struct trail *stack, uint32_t lg);
	uint32_t lg_all;
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
uint64_t sample_count(void); /* of samples alone. FAST */
/* The calling thread ends: what it kept back is added to the totals. */
void sample_thread_end(void);
void sample_get_total(struct sample_total *out);
/* fork child: what the parent recorded stays known but is not reported as ours. */
void sample_fork_prepare(void);
void sample_fork_done(bool child);
/* The pool's lock ranks below the heap's: taken after, released before them. */
void sample_pool_fork_prepare(void);
void sample_pool_fork_done(bool child);

#endif
