/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain: recording in exact mode, with nothing else asked for but that some objects are
 * followed (profiler/escape), which is what most profiles need. Nearly every object meets
 * a stack, a site and a span that are known; that way has no branch for what other modes
 * want, and leaves the rest to sample.c.
 *
 * Which objects of a site are followed, its counter says: of many, one in 2^k.
 */
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/mcache.h"
#include "preload/heap/tls.h"
#include "profiler/sample/block.h"
#include "profiler/sample/count.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/trail_fast.h"

#define ONE ((uint64_t)1 << SITE_SHIFT)

/* ---- following ---- */

/* xorshift64's next, of the thread. 0 lg: heads. */
ALWAYS_INLINE bool toss(uint32_t lg)
{
	struct mcache *mc = mcache_self();
	uint64_t x;

	if (UNLIKELY(seep_tls.state != TLS_LIVE))
		return sample_random() >> (64 - lg) == 0;
	x = mc->coin;
	if (UNLIKELY(x == 0))
		x = sample_random() | 1;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	mc->coin = x;
	return x >> (64 - lg) == 0;
}

static NOINLINE void follow(struct sample_record *r, const void *p, size_t size,
			    uint32_t lg)
{
	r->packed.escape =
		sample_hooks.begin_one(p, size, record_site(r->site), trail_latest(), lg);
}

/* The object whose record this is is the latest of so many, fixed point. */
ALWAYS_INLINE void may_follow(struct sample_record *r, const void *p, size_t size,
			      uint64_t objects)
{
	uint64_t doublings = objects >> (SITE_SHIFT + sample_hooks.lg_all);
	uint32_t lg = 0;

	if (LIKELY(doublings > 0)) {
		lg = 64 - (uint32_t)__builtin_clzll(doublings);
		if (LIKELY(!toss(lg)))
			return;
	}
	follow(r, p, size, lg);
}

/* ---- events ---- */

/* The stack has no counters that the trail knows of. An object of a site that has made
 * few is counted here, and *out_objects is their number, fixed point. False: the general
 * way has to do it. */
static NOINLINE bool alloc_few(struct trail_found *found, size_t size,
			       uint64_t *out_objects)
{
	if (found->node == TRAIL_UNKNOWN) {
		found->node = capture_site(trail_latest());
		if (found->node)
			trail_set_latest(*found);
	}
	if (found->node == SITE_NONE)
		return false;
	*out_objects = (uint64_t)count_alloc_few(found->node, size) << SITE_SHIFT;
	if (*out_objects) {
		thread_add(&sampler.samples, 1);
		return true;
	}
	*found = count_find_anew(*found);
	return found->number != 0;
}

ALWAYS_INLINE uint64_t alloc_more(uint32_t number, size_t size)
{
	struct site_counters *c;

	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		return count_alloc_beside(number, ONE, size);
	c = site_counters_at(number);
	count_alloc_alone(c, ONE, size);
	return c->alloc_objects;
}

ALWAYS_INLINE void on_malloc(void *p, size_t size, bool followed)
{
	const size_t record_size = followed ? RECORD_PACKED : RECORD_SHORT;
	struct sample_record *r;
	struct trail_found found;
	uint64_t objects;
	struct mspan *s = arena_span_of(p);
	struct block *b = atomic_load_acquire(&s->samples);

	if (UNLIKELY(seep_tls.internal > 0) || UNLIKELY(!b) ||
	    UNLIKELY(!store_is_own())) {
		sample_on_malloc(p, size);
		return;
	}
	r = (void *)&b->records[(size_t)mspan_index_of(s, (uintptr_t)p) * record_size];
	__builtin_prefetch(r, 1); /* the capture takes as long as that */
	seep_tls.internal = 1;
	found = trail_capture_node(__builtin_frame_address(0));
	if (UNLIKELY(found.number == 0) && !alloc_few(&found, size, &objects)) {
		seep_tls.internal = 0;
		sample_on_malloc(p, size);
		return;
	}
	if (LIKELY(found.number != 0)) {
		count_put_record(r, found.number | SAMPLE_NUMBER, size, count_stamp());
		objects = alloc_more(found.number, size);
	} else {
		count_put_record(r, found.node, size, count_stamp());
	}
	if (followed) {
		r->packed.birth = record_birth_now();
		r->packed.escape = 0;
		may_follow(r, p, size, objects);
	}
	seep_tls.internal = 0;
}

void plain_on_malloc(void *p, size_t size)
{
	on_malloc(p, size, false);
}

void plain_on_malloc_followed(void *p, size_t size)
{
	on_malloc(p, size, true);
}

/* True. */
ALWAYS_INLINE bool free_more(uint32_t number, size_t size)
{
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		return count_free_beside(number, ONE, size);
	count_free_alone(site_counters_at(number), ONE, size);
	return true;
}

/* The object was made when its site had made few, and may have made more by now. */
static NOINLINE bool free_few(uint32_t site, size_t size)
{
	uint32_t number = count_free_few(site, size) ? 0 : site_number(site);

	return number == 0 || free_more(number, size);
}

/* What is freed may have been recorded under other settings, or in a parent. */
ALWAYS_INLINE bool on_free(struct mspan *s, uint32_t index, void *p, bool followed)
{
	const size_t record_size = followed ? RECORD_PACKED : RECORD_SHORT;
	struct block *b = s->samples;
	struct sample_record *r = (void *)&b->records[(size_t)index * record_size];
	const uint64_t word = atomic_load_relaxed((record_word *)r);
	const uint32_t site = (uint32_t)word;
	const size_t size = (uint16_t)(word >> 32);
	uint32_t handle = 0;

	if (site == SITE_NONE)
		return true;
	if (UNLIKELY(site >= HIDDEN_SITE) ||
	    UNLIKELY(word >> 48 != atomic_load_relaxed(&sampler.exact_stamp)) ||
	    UNLIKELY(!s->slot_size) || UNLIKELY(!store_is_own()))
		return sample_on_free(s, index, p);
	r->site = site | SAMPLE_FREED;
	if (followed) {
		handle = r->packed.escape;
		r->packed.escape = 0;
	}
	if (followed && UNLIKELY(handle))
		sample_end_escape(handle);
	if (LIKELY(site & SAMPLE_NUMBER))
		return free_more(site & ~SAMPLE_NUMBER, size);
	return free_few(site, size);
}

bool plain_on_free(struct mspan *s, uint32_t index, void *p)
{
	return on_free(s, index, p, false);
}

bool plain_on_free_followed(struct mspan *s, uint32_t index, void *p)
{
	return on_free(s, index, p, true);
}
