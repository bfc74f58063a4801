/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lifetime: how long recorded objects live, by site: those that have been freed, by the
 * thread that made them or by another, and those that are live, by their age. Off unless
 * asked for (lifetimes=on): each recorded object then costs two looks at the clock.
 */
#ifndef PROFILER_SAMPLE_LIFETIME_H
#define PROFILER_SAMPLE_LIFETIME_H

#include "preload/base/base.h"
#include "profiler/pprof/pprof.h"

/* What one object adds; all estimated in sampled mode. */
struct lifetime_sum {
	uint64_t objects;  /* fixed point, SITE_SHIFT */
	uint64_t bytes;	   /* asked */
	uint64_t slack;	   /* given beyond that */
	uint64_t total_ns; /* of their lifetimes, no more than INT64_MAX */
};

enum lifetime_end { LIFETIME_SAME, LIFETIME_OTHER, LIFETIME_LIVE };

struct life_entry;
struct store_header;

/* SLOW. An object of this site is made, of which total_ns is the time of birth. What
 * outlives the process says so: it is told of changes and of the end by the object's
 * owner. May be NULL. */
struct life_entry *lifetime_begin(uint32_t site, const struct lifetime_sum *one);
void lifetime_change(struct life_entry *e, uint32_t site, const struct lifetime_sum *one);
void lifetime_forget(struct life_entry *e);
/* SLOW. An object of this site, made so long ago, is being freed. */
void lifetime_end(uint32_t site, uint64_t age_ns, enum lifetime_end how,
		  const struct lifetime_sum *one);
/*
 * DUMP. The samples of a lifetimes profile: of each site one for each range of lifetimes
 * that occurred. Labels: end=freed with freed_by=same|other and lifetime, or end=live
 * with age; both nanoseconds, the lower end of the range. Ranges are a quarter of a power
 * of two. pcs is scratch for a stack of max frames. False: memory ran out.
 */
bool lifetime_write(struct pprof *p, uintptr_t *pcs, int max);

/* DUMP. What a process that has ended left is what there is to write. Those that lived
 * are as old as they were when a lifetime began or ended last. */
void lifetime_adopt(const struct store_header *h);

/* The lower end of range number n, and its inverse. */
uint64_t lifetime_bound(unsigned n);
unsigned lifetime_range(uint64_t ns);

void lifetime_fork_prepare(void);
void lifetime_fork_done(bool child);
/* In a forked child, whose file is new. */
void lifetime_store_move(void);

#endif
