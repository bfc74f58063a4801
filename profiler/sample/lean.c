/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lean: recording in sampled mode, with nothing else asked for. As in plain.c, nearly
 * every object meets a stack, a site and a span that are known; that way has no branch
 * for what other modes want, and leaves the rest to sample.c.
 *
 * Of objects that are larger than some periods every one is a sample, so that programs
 * which make and free such all the time pay for little else: they have a way of their
 * own.
 */
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/mcache.h"
#include "preload/heap/tls.h"
#include "profiler/sample/block.h"
#include "profiler/sample/count.h"
#include "profiler/sample/draw.h"
#include "profiler/site/store.h"
#include "profiler/stack/trail_fast.h"

/* The calling thread's budget; false: it is not to be drawn here. */
ALWAYS_INLINE bool draw_budget(struct mcache *mc)
{
	double period = (double)(int64_t)atomic_load_relaxed(&sampler.period);

	if (UNLIKELY(mc->random == 0))
		return false;
	mc->budget = (int64_t)(draw_variate(mc) * period);
	return true;
}

/* Is it no plain case? */
ALWAYS_INLINE bool is_odd(void)
{
	return UNLIKELY((seep_tls.hiding | seep_tls.internal) != 0) ||
	       UNLIKELY(seep_tls.state != TLS_LIVE) || UNLIKELY(!store_is_own()) ||
	       UNLIKELY(!atomic_load_relaxed(&sampler.on));
}

ALWAYS_INLINE void count_alloc(uint32_t number, uint64_t objects, uint64_t bytes)
{
	struct site_counters *c;

	if (UNLIKELY(atomic_load_relaxed(&thread_are_many))) {
		count_sample_beside(number, objects, bytes);
		return;
	}
	c = site_counters_at(number);
	count_alloc_alone(c, objects, bytes);
	thread_add_alone(&c->samples, 1);
}

ALWAYS_INLINE void count_free(uint32_t number, uint64_t objects, uint64_t bytes)
{
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		count_sample_free_beside(number, objects, bytes);
	else
		count_free_alone(site_counters_at(number), objects, bytes);
}

/* The number of the counters of the present stack, also in *out_site; 0: it is not known.
 */
ALWAYS_INLINE uint32_t find_number(const uintptr_t *fp, uint32_t *out_site)
{
	struct trail_found found;

	seep_tls.internal = 1;
	found = trail_capture_node(fp);
	if (UNLIKELY(found.number == 0))
		found = count_find_anew(found);
	seep_tls.internal = 0;
	*out_site = found.node;
	return found.number;
}

/* The same of a record's site; 0: it has none. */
ALWAYS_INLINE uint32_t number_of(uint32_t site)
{
	return LIKELY(site - 1 < HIDDEN_SITE - 1) ? site_number(site) : 0;
}

/* ---- small objects ---- */

void lean_on_malloc(void *p, size_t size)
{
	struct mspan *s = arena_span_of(p);
	struct block *b = atomic_load_acquire(&s->samples);
	struct mcache *mc = mcache_self();
	struct sample_record *r;
	uint16_t stamp = count_stamp();
	uint8_t period = (uint8_t)(stamp >> 8);
	struct draw_share share;
	uint32_t site, number;

	if (is_odd() || UNLIKELY(!b) || UNLIKELY(s->slot_size == 0) ||
	    !(number = find_number(__builtin_frame_address(0), &site)) ||
	    !draw_budget(mc) ||
	    UNLIKELY(!(r = block_claim_few(s, b, mspan_index_of(s, (uintptr_t)p),
					   RECORD_BIRTH)))) {
		sample_on_malloc(p, size);
		return;
	}
	r->birth_ns = os_coarse_ns();
	count_put_record(r, site, size, stamp);
	sample_count_page(s, b, p, 1);
	share = draw_share(mc, size, period, false, true);
	count_alloc(number, share.objects, share.bytes);
	mc->sampled = p;
}

static NOINLINE bool free_recorded(struct mspan *s, uint32_t index, void *p,
				   struct sample_record *r)
{
	uint32_t site = atomic_load_relaxed(&r->site), number = number_of(site);
	struct mcache *mc = mcache_self();
	struct draw_share share;

	if (UNLIKELY(number == 0) || is_odd())
		return sample_on_free(s, index, p);
	share = draw_share(mc, r->size, r->period, false, false);
	/* From here on the record may be another object's. */
	atomic_store_release(&r->site, site | SAMPLE_FREED);
	sample_count_page(s, s->samples, p, -1);
	count_free(number, share.objects, share.bytes);
	if (p != mc->sampled)
		sample_note_end(p, site);
	return true;
}

/* Mostly of an object without a record, which only lies beside one that has. */
bool lean_on_free(struct mspan *s, uint32_t index, void *p)
{
	struct sample_record *r;

	if (UNLIKELY(s->slot_size == 0))
		return sample_on_free(s, index, p);
	r = block_find_few(s->samples, index, RECORD_BIRTH);
	return !r || free_recorded(s, index, p, r);
}

/* ---- large objects ---- */

uint64_t lean_on_malloc_large(struct mspan *s, size_t size)
{
	struct block *b = mspan_room(s);
	struct sample_record *r = (void *)b->records;
	struct mcache *mc = mcache_self();
	uint16_t stamp = count_stamp();
	uint8_t period = (uint8_t)(stamp >> 8);
	struct draw_share share;
	uint32_t site, number;
	uint64_t now;

	if (is_odd() || !(number = find_number(__builtin_frame_address(0), &site)) ||
	    !draw_budget(mc)) {
		sample_on_malloc((void *)s->base, size);
		return os_coarse_ns();
	}
	now = os_coarse_ns();
	count_put_record(r, site, size, stamp);
	r->birth_ns = now;
	share = draw_share(mc, size, period, true, true);
	b->weight = share.objects;
	b->bytes = share.bytes;
	b->number = number;
	atomic_store_release(&s->samples, (void *)b);
	count_alloc(number, share.objects, share.bytes);
	mc->sampled = (void *)s->base;
	return now;
}

void lean_on_free_large(struct mspan *s)
{
	const struct block *b = s->samples;
	const struct sample_record *r = (const void *)b->records;
	uint32_t site = r->site, number = b->number;

	if (UNLIKELY(number == 0) || is_odd()) {
		sample_on_free(s, 0, (void *)s->base);
	} else {
		count_free(number, b->weight, b->bytes);
		if ((void *)s->base == mcache_self()->sampled)
			misuse_note_free(s->base, site, SITE_NONE,
					 walk_own_caller(__builtin_frame_address(0)));
		else
			sample_note_end((void *)s->base, site);
	}
	s->samples = NULL;
}
