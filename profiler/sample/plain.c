/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain: recording in exact mode with short records, which is what most profiles need.
 * Nearly every object meets a stack, a site and a span that are known; that way has no
 * branch for what other modes want, and leaves the rest to sample.c.
 */
#include <string.h>

#include "preload/heap/arena.h"
#include "preload/heap/tls.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/trail.h"

/* One store. */
static inline void put_short_record(struct sample_record *r, uint32_t site, size_t size)
{
	uint64_t word = site | (uint64_t)(uint16_t)size << 32 |
			(uint64_t)sampler.epoch << 48 | (uint64_t)period_number() << 56;

	_Static_assert(RECORD_SHORT == sizeof(word) &&
			       offsetof(struct sample_record, size) == 4 &&
			       offsetof(struct sample_record, epoch) == 6 &&
			       offsetof(struct sample_record, period) == 7,
		       "the fields of a word");
	memcpy(r, &word, sizeof(word));
}

void plain_on_malloc(void *p, size_t size)
{
	uint32_t site;
	struct mspan *s = arena_span_of(p);
	struct block *b = atomic_load_acquire(&s->samples);
	struct site_counters *c;

	if (UNLIKELY(seep_tls.internal > 0) || UNLIKELY(!b) ||
	    UNLIKELY(!store_is_own())) {
		sample_on_malloc(p, size);
		return;
	}
	seep_tls.internal = 1;
	site = trail_capture_node(__builtin_frame_address(0));
	c = site_counters_if_any(site);
	if (UNLIKELY(!c)) {
		seep_tls.internal = 0;
		sample_on_malloc(p, size);
		return;
	}
	put_short_record((void *)&b->records[(size_t)mspan_index_of(s, (uintptr_t)p) *
					     RECORD_SHORT],
			 site, size);
	peak_grow(c, size);
	thread_add_two(&c->alloc_objects, (uint64_t)1 << SITE_SHIFT, &c->alloc_bytes,
		       size);
	thread_add(&sampler.samples, 1);
	seep_tls.internal = 0;
}

/* What is freed may have been recorded under other settings. */
bool plain_on_free(struct mspan *s, uint32_t index, void *p)
{
	struct block *b = s->samples;
	struct sample_record *r = (void *)&b->records[(size_t)index * RECORD_SHORT];
	uint32_t site = r->site;
	struct site_counters *c;
	size_t size;

	if (site == SITE_NONE)
		return true;
	if (UNLIKELY(site >= HIDDEN_SITE) || UNLIKELY(!period_nth(r->period)->exact) ||
	    UNLIKELY(!s->slot_size) || UNLIKELY(!store_is_own()))
		return sample_on_free(s, index, p);
	r->site = site | SAMPLE_FREED;
	c = site_counters_if_any(site);
	if (UNLIKELY(!c))
		return true;
	size = r->size;
	peak_shrink(c, size);
	thread_add_two(&c->free_objects, (uint64_t)1 << SITE_SHIFT, &c->free_bytes, size);
	return true;
}
