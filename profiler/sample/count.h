/* SPDX-License-Identifier: Apache-2.0 */
/*
 * count: what recorded objects are counted in, for plain.c and lean.c, whose sites have
 * counters already. One thread adds without a locked instruction; beside others each adds
 * in its own share (profiler/site/share.h), if it has one.
 */
#ifndef PROFILER_SAMPLE_COUNT_H
#define PROFILER_SAMPLE_COUNT_H

#include "preload/base/atomic.h"
#include "profiler/sample/sample_int.h"
#include "profiler/stack/trail.h"

typedef uint64_t __attribute__((may_alias)) record_word;
_Static_assert(RECORD_SHORT == sizeof(record_word) &&
		       offsetof(struct sample_record, size) == 4 &&
		       offsetof(struct sample_record, epoch) == 6 &&
		       offsetof(struct sample_record, period) == 7,
	       "the fields of a word");

/* FAST. The epoch and, in the upper byte, the period of a record that is made now. */
static inline uint16_t count_stamp(void)
{
	return (uint16_t)atomic_load_acquire(&sampler.stamp);
}

/* FAST. All that a record of RECORD_SHORT has, in one store, released. */
static inline void count_put_record(struct sample_record *r, uint32_t site, size_t size,
				    uint16_t stamp)
{
	uint64_t word = site | (uint64_t)(uint16_t)size << 32 | (uint64_t)stamp << 48;

	atomic_store_release((record_word *)r, word);
}

/* FAST. The program has one thread. */
static inline void count_alloc_alone(struct site_counters *c, uint64_t objects,
				     uint64_t bytes)
{
	peak_grow_alone(c, bytes);
	thread_add_alone(&c->alloc_objects, objects);
	thread_add_alone(&c->alloc_bytes, bytes);
	thread_add_alone(&sampler.samples, 1);
}

static inline void count_free_alone(struct site_counters *c, uint64_t objects,
				    uint64_t bytes)
{
	peak_shrink_alone(c, bytes);
	thread_add_alone(&c->free_objects, objects);
	thread_add_alone(&c->free_bytes, bytes);
}

/* SLOW. The stack that trail_capture_node() has just captured, if it could: its site, and
 * the number of its counters, which the trail knows from now on, so that captures of the
 * same stack find them. 0: the general way has to do it. */
struct trail_found count_find_anew(struct trail_found found);

/* SLOW. Counts a new whole object of a site that has made few, with one thread or more.
 * Returns how many those are now; 0: they do not count as few any more. */
uint32_t count_alloc_few(uint32_t site, uint64_t bytes);
/* SLOW. A freed one; false: the site has counters, or made nothing. */
bool count_free_few(uint32_t site, uint64_t bytes);

/* count_alloc_alone() and the like beside other threads; objects in fixed point. Returns
 * how many were made in what the thread counts in. */
uint64_t count_alloc_beside(uint32_t number, uint64_t objects, uint64_t bytes);
/* Always true, for who ends with it. */
bool count_free_beside(uint32_t number, uint64_t objects, uint64_t bytes);
/* For samples, which are few: a thread gets a share when it has made many. */
void count_sample_beside(uint32_t number, uint64_t objects, uint64_t bytes);
void count_sample_free_beside(uint32_t number, uint64_t objects, uint64_t bytes);

#endif
