/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: recording, see sample.h.
 *
 * Structure: a span with recorded objects has a block of records beside it, see block.h.
 * It is made when the span's first object is recorded and goes when the span does.
 * Records are as long as the options need them: 8 bytes, 16 with the time of birth, in
 * exact mode also with a handle of profiler/escape, 24 with all that lifetimes need.
 *
 * Sampled mode keeps frees of other objects fast: a page with a recorded object has class
 * byte 0, so only frees there come here; the count per page restores the byte. In exact
 * mode all class bytes are 0 for good.
 *
 * A freed object's record keeps the site, marked SAMPLE_FREED, until the record is used
 * again. A program that was exact from its first object on records every one, so that
 * such a slot is free for certain: freeing it again is a double free.
 *
 * Concurrency: a record is touched by the thread that allocates or frees its object,
 * which the program orders. Page counts are guarded by a stripe of locks, pools by
 * another. Totals are atomic.
 */
#include "profiler/sample/sample.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/sizeclass.h"
#include "preload/heap/tls.h"
#include "profiler/sample/block.h"
#include "profiler/sample/count.h"
#include "profiler/sample/draw.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define STRIPE                              \
	{                                   \
		LOCK_INIT(LOCK_RANK_SAMPLE) \
	}
#define FOUR_STRIPES STRIPE, STRIPE, STRIPE, STRIPE

#define NEVER	     (INT64_MAX / 4) /* a budget that is not spent */
#define CERTAIN	     16		     /* periods: an object as large is missed by e^-16 */

struct sampler sampler = { .stripes = { FOUR_STRIPES, FOUR_STRIPES, FOUR_STRIPES,
					FOUR_STRIPES },
			   .pool_lock = LOCK_INIT(LOCK_RANK_SAMPLE_POOL) };

struct sample_hooks sample_hooks;

/* ---- when ---- */

NOINLINE uint64_t sample_random(void)
{
	return draw_mix(atomic_add_relaxed(&sampler.random, DRAW_GOLDEN));
}

static double next_variate(void)
{
	struct mcache *mc = mcache_self();

	if (UNLIKELY(seep_tls.state != TLS_LIVE))
		return maths_exponential(sample_random());
	if (UNLIKELY(mc->random == 0)) {
		mc->random = sample_random();
		mc->variate = maths_exponential(sample_random());
	}
	return draw_variate(mc);
}

/* Bytes to the next sample: exponential with the period as mean. */
int64_t sample_draw_budget(void)
{
	if (!atomic_load_relaxed(&sampler.on))
		return NEVER;
	if (atomic_load_relaxed(&sampler.exact))
		return -1;
	return (int64_t)(next_variate() *
			 (double)(int64_t)atomic_load_relaxed(&sampler.period));
}

NOINLINE uint64_t sample_weight_of(size_t size, const struct period *at)
{
	const double one = (double)((uint64_t)1 << SITE_SHIFT);
	double x;

	if (at->exact || size / CERTAIN >= at->sample)
		return (uint64_t)1 << SITE_SHIFT;
	x = (double)(int64_t)(size + (size == 0)) * at->inverse;
	return (uint64_t)(int64_t)(one * maths_inverse_share(x) + 0.5);
}

NOINLINE struct draw_share sample_share_anew(struct mcache *mc, size_t size,
					     uint8_t number, bool large, bool keep)
{
	struct draw_share share;

	share.objects =
		large ? draw_large_weight(size, number) : draw_weight(size, number);
	share.bytes = draw_scaled_bytes(size, share.objects);
	if (keep) {
		uint64_t key = ((uint64_t)size << 8 | number) + 1;

		atomic_store_relaxed(&mc->share_objects, share.objects);
		atomic_store_relaxed(&mc->share_bytes, share.bytes);
		atomic_store_relaxed(&mc->share_check, key ^ share.objects ^ share.bytes);
	}
	return share;
}

uint64_t sample_weight(size_t size)
{
	return sample_weight_of(size, period_latest());
}

/* ---- records ---- */

static struct lock *stripe_of(const struct mspan *s)
{
	return &sampler.stripes[(s->base >> PAGE_SHIFT) % SAMPLE_STRIPES].lock;
}

/* A recorded object appears on, or leaves, the page of p, beside other threads. */
void sample_count_page_locked(struct mspan *s, uint16_t *count, const void *p, int more)
{
	struct lock *l = stripe_of(s);
	uint16_t was;

	lock_acquire(l);
	was = *count;
	*count = (uint16_t)(was + more);
	if (was == 0 || *count == 0)
		arena_set_page(p, *count > 0 ? 0 : s->sizeclass);
	lock_release(l);
}

static struct sample_record *find(const struct mspan *s, uint32_t index)
{
	const struct block *b = atomic_load_acquire(&s->samples);

	return b ? block_find(s, b, index) : NULL;
}

const struct sample_record *sample_find(const struct mspan *s, uint32_t index)
{
	const struct sample_record *r = find(s, index);

	return r && (int32_t)r->site > 0 ? r : NULL;
}

/* Is the slot known to be free? As heap_hooks.mark_size says to the heap. */
static bool is_freed(const struct mspan *s, uint32_t index)
{
	return atomic_load_relaxed(&sampler.whole) && find(s, index)->site & SAMPLE_FREED;
}

uint32_t sample_last_site(const struct mspan *s, uint32_t index)
{
	const struct block *b = atomic_load_acquire(&s->samples);
	const struct sample_record *r = sample_find(s, index);
	uint32_t site = SITE_NONE;

	if (r)
		site = r->site;
	else if (b)
		site = block_last_site(s, b, index);
	return site >= HIDDEN_SITE ? SITE_NONE : record_site(site);
}

size_t sample_size_asked(const struct mspan *s, uint32_t index)
{
	const struct sample_record *r = sample_find(s, index);

	if (r)
		return record_size(s, r);
	return s->slot_size ? s->slot_size : s->size_asked;
}

uint32_t sample_site(const struct sample_record *r)
{
	if (!r || r->site == HIDDEN_SITE)
		return r ? HIDDEN_SITE : SITE_NONE;
	return sampler.labels ? label_read(r->site, NULL) : record_site(r->site);
}

uint64_t sample_birth_ns(const struct sample_record *r)
{
	if (sampler.packed)
		return record_birth_ns(r->packed.birth, os_coarse_ns());
	return sampler.record_size >= RECORD_BIRTH ? r->birth_ns : 0;
}

bool sample_is_inherited(const struct sample_record *r)
{
	return r->epoch != sampler.epoch;
}

/* ---- clearing ---- */

/* What lies behind size bytes of a slot. Pages that read as zero are not written to. */
static void clear_tail(const struct mspan *s, uintptr_t base, size_t size)
{
	uintptr_t end = base + mspan_slot_bytes(s);
	uintptr_t words = align_up(base + size, sizeof(uintptr_t));

	if (words > end)
		return;
	memset((void *)(base + size), 0, words - (base + size));
	for (; words + sizeof(uintptr_t) <= end; words += sizeof(uintptr_t))
		if (*(uintptr_t *)words)
			*(uintptr_t *)words = 0;
}

/* A new object, with what its bytes held before. Of large ones only what was not asked
 * for: they may be mostly untouched, and realloc has filled them already. */
static void clear_object(void *p, size_t size)
{
	const struct mspan *s = heap_find((uintptr_t)p, NULL);

	if (!s)
		return;
	if (s->slot_size)
		memset(p, 0, s->slot_size);
	else
		clear_tail(s, s->base, size);
}

/* ---- events ---- */

/* What an object of this size stood for when these were the settings. */
ALWAYS_INLINE uint64_t objects_then(size_t size, uint8_t period)
{
	return LIKELY(period_nth(period)->exact) ? (uint64_t)1 << SITE_SHIFT
						 : draw_weight(size, period);
}

/* Of an object whose record is just made, and of one that has one. */
ALWAYS_INLINE uint64_t new_weight(const struct mspan *s, struct block *b, size_t size,
				  uint8_t period)
{
	if (s->slot_size)
		return objects_then(size, period);
	b->number = 0;
	b->weight = LIKELY(period_nth(period)->exact) ? (uint64_t)1 << SITE_SHIFT
						      : draw_large_weight(size, period);
	return b->weight;
}

ALWAYS_INLINE uint64_t old_weight(const struct mspan *s, const struct block *b,
				  const struct sample_record *r)
{
	return s->slot_size ? objects_then(r->size, r->period) : b->weight;
}

/* Exact mode's alone: what others count has a fraction. */
static bool count_few(uint32_t site, size_t size, uint64_t objects)
{
	return sample_is_exact() && objects == (uint64_t)1 << SITE_SHIFT &&
	       count_alloc_few(site, size) != 0;
}

ALWAYS_INLINE void count_alloc(uint32_t site, size_t size, uint64_t objects)
{
	struct site_counters *c = site_counters_if_any(site);
	uint64_t bytes = draw_scaled_bytes(size, objects);

	if (UNLIKELY(!c)) {
		if (count_few(site, size, objects))
			return;
		c = site_counters(site);
		if (!c)
			return;
	}
	peak_grow(c, bytes);
	thread_add_two(&c->alloc_objects, objects, &c->alloc_bytes, bytes);
	if (!sample_is_exact()) /* else they are the objects */
		thread_add(&c->samples, 1);
}

ALWAYS_INLINE void count_free(uint32_t site, size_t size, uint64_t objects)
{
	struct site_counters *c = site_counters_if_any(site);
	uint64_t bytes = draw_scaled_bytes(size, objects);

	if (UNLIKELY(!c)) {
		if (count_free_few(site, size))
			return;
		c = site_counters_if_any(site);
		if (!c)
			return;
	}
	peak_shrink(c, bytes);
	thread_add_two(&c->free_objects, objects, &c->free_bytes, bytes);
}

static NOINLINE bool capture_any(struct capture *out)
{
	bool ok = capture_here(out);

	if (ok && UNLIKELY(out->truncated))
		atomic_add_relaxed(&sampler.truncated, 1u);
	return ok;
}

ALWAYS_INLINE bool capture(struct capture *out)
{
	const struct trail *t = trail_capture_from(__builtin_frame_address(0));

	if (UNLIKELY(!t) || UNLIKELY(trail_is_cut(t)))
		return capture_any(out);
	out->trail = t;
	out->site = t->nodes[t->count - 1].node;
	if (UNLIKELY(out->site == SITE_NONE))
		out->site = capture_site(t);
	return LIKELY(out->site != SITE_NONE);
}

void sample_measure(const struct mspan *s, const struct sample_record *r, uint64_t age_ns,
		    struct lifetime_sum *out)
{
	size_t size = record_size(s, r);
	uint64_t objects = sample_weight_of(size, period_nth(r->period));

	out->objects = objects;
	out->bytes = draw_scaled_bytes(size, objects);
	out->slack = draw_scaled_bytes(mspan_slot_bytes(s) - size, objects);
	out->total_ns = draw_scaled_bytes(age_ns, objects);
}

void sample_describe_life(const struct mspan *s, const struct sample_record *r,
			  struct lifetime_sum *out)
{
	sample_measure(s, r, 0, out);
	out->total_ns = r->birth_ns;
}

static void begin_lifetime(const struct mspan *s, struct sample_record *r, uint32_t site)
{
	struct lifetime_sum one;

	r->thread = thread_serial();
	if (sampler.record_size < RECORD_STORED)
		return;
	r->entry = NULL;
	if (site == HIDDEN_SITE)
		return;
	sample_describe_life(s, r, &one);
	r->entry = lifetime_begin(site, &one);
}

ALWAYS_INLINE void fill_record(const struct mspan *s, struct sample_record *r,
			       uint32_t site, size_t size)
{
	const uint32_t bytes = sampler.record_size;

	r->size = (uint16_t)size;
	r->epoch = sampler.epoch;
	r->period = period_number();
	if (sampler.packed)
		r->packed.birth = record_birth_now();
	else if (bytes >= RECORD_BIRTH)
		r->birth_ns = bytes > RECORD_BIRTH || sample_is_exact() ? os_now_ns()
									: os_coarse_ns();
	if (record_has_handle())
		*record_handle(r) = 0;
	if (UNLIKELY(sampler.lifetimes))
		begin_lifetime(s, r, site);
	atomic_store_release(&r->site, site);
}

ALWAYS_INLINE bool record(void *p, size_t size, const struct capture *c)
{
	struct mspan *s = arena_span_of(p);
	struct block *b = atomic_load_acquire(&s->samples);
	struct sample_record *r;
	uint32_t site = c->site;

	if (UNLIKELY(!b) && !(b = block_make(s)))
		return false;
	if (UNLIKELY(sampler.labels))
		site = label_site(site, mspan_slot_bytes(s));
	r = block_claim(s, b, mspan_index_of(s, (uintptr_t)p));
	if (UNLIKELY(!r))
		return false;
	fill_record(s, r, site, size);
	if (record_has_handle() && sample_hooks.begin)
		*record_handle(r) = sample_hooks.begin(p, size, c->site, c->trail);
	sample_count_page(s, b, p, 1);
	count_alloc(site, size, new_weight(s, b, size, r->period));
	return true;
}

/* A record of an object that is not to be reported: no stack, and no counter counts it.
 * False: memory is out. */
static bool put_hidden(struct mspan *s, uint32_t index, const void *p, size_t size)
{
	struct block *b = atomic_load_acquire(&s->samples);
	struct sample_record *r;

	if (!b && !(b = block_make(s)))
		return false;
	r = block_claim(s, b, index);
	if (!r)
		return false;
	fill_record(s, r, HIDDEN_SITE, size);
	sample_count_page(s, b, p, 1);
	atomic_store_relaxed(&sampler.any_hidden, 1u);
	return true;
}

static void hide(void *p, size_t size)
{
	uint32_t index;
	struct mspan *s = heap_find((uintptr_t)p, &index);

	heap_set_budget(-1); /* the next, too */
	if (s)
		put_hidden(s, index, p, size);
}

/* Counters count one that has a record, and go on doing so: it is only as if a parent had
 * made it. */
bool sample_ignore(struct mspan *s, uint32_t index)
{
	struct block *b = atomic_load_acquire(&s->samples);
	struct sample_record *r = b ? block_find(s, b, index) : NULL;
	uintptr_t base = s->slot_size ? mspan_slot(s, index) : s->base;

	if (!sample_was_on())
		return true; /* nor is it looked for */
	if (!r || (int32_t)atomic_load_relaxed(&r->site) <= 0)
		return put_hidden(s, index, (const void *)base, mspan_slot_bytes(s));
	r->epoch = (uint8_t)(sampler.epoch - 1);
	atomic_store_relaxed(&sampler.any_hidden, 1u);
	return true;
}

/* p gets no record: the one of the object before it would say that p is free. */
static COLD void forget_freed(void *p)
{
	uint32_t index;
	struct mspan *s = heap_find((uintptr_t)p, &index);
	struct sample_record *r;

	if (sampler.sparse)
		return; /* nothing is said of slots without a record */
	r = s ? find(s, index) : NULL;
	if (r && r->site & SAMPLE_FREED)
		r->site = SITE_NONE;
}

void sample_on_malloc(void *p, size_t size)
{
	struct capture c;

	if (UNLIKELY(seep_tls.hiding > 0) && !sample_is_exact()) {
		hide(p, size);
		return;
	}
	if (!sample_is_exact() && LIKELY(seep_tls.state == TLS_LIVE))
		mcache_self()->budget = sample_draw_budget();
	if (sampler.clear)
		clear_object(p, size);
	if (seep_tls.internal > 0 || !atomic_load_relaxed(&sampler.on) ||
	    !store_is_own()) {
		forget_freed(p);
		return;
	}
	seep_tls.internal++;
	if (LIKELY(capture(&c)) && LIKELY(record(p, size, &c))) {
		thread_add(&sampler.samples, 1);
		if (!sample_is_exact() && LIKELY(seep_tls.state == TLS_LIVE))
			mcache_self()->sampled = p;
	} else {
		forget_freed(p);
		atomic_add_relaxed(&sampler.dropped, 1u);
	}
	seep_tls.internal--;
}

void sample_end_escape(uint32_t handle)
{
	if (!handle)
		return;
	if (seep_tls.internal > 0) {
		sample_hooks.drop(handle);
		return;
	}
	seep_tls.internal++;
	sample_hooks.end(handle);
	seep_tls.internal--;
}

static void end_lifetime(const struct mspan *s, const struct sample_record *r,
			 uint32_t site)
{
	uint64_t now_ns = os_now_ns(), age_ns = now_ns - r->birth_ns;
	struct lifetime_sum one;

	sample_measure(s, r, age_ns, &one);
	store_note_time(now_ns);
	lifetime_end(site, age_ns,
		     r->thread == thread_serial() ? LIFETIME_SAME : LIFETIME_OTHER, &one);
	if (sampler.record_size >= RECORD_STORED)
		lifetime_forget(r->entry);
}

static void change_lifetime(const struct mspan *s, const struct sample_record *r,
			    uint32_t site)
{
	struct lifetime_sum one;

	sample_describe_life(s, r, &one);
	lifetime_change(r->entry, site, &one);
}

/* Where an object is freed: with its stack, but only one frame of one that goes before
 * the next is sampled, else a program that makes and frees one at a time would pay for
 * its samples twice. */
NOINLINE void sample_note_end(void *p, uint32_t site)
{
	struct capture c;

	if (p == mcache_self()->sampled || seep_tls.internal > 0) {
		misuse_note_free((uintptr_t)p, site, SITE_NONE, unwind_caller());
		return;
	}
	seep_tls.internal++;
	if (capture_here(&c))
		misuse_note_free((uintptr_t)p, site, c.site, 0);
	seep_tls.internal--;
}

/* Large objects, whose records go with them, and sampled ones but for those small ones
 * that go before the next is sampled. In exact mode a stack for each of the others would
 * cost as much as that of its birth. */
ALWAYS_INLINE bool has_noted_end(const struct mspan *s, const void *p)
{
	return UNLIKELY(s->slot_size == 0) ||
	       (!sample_is_exact() && p != mcache_self()->sampled);
}

bool sample_on_free(struct mspan *s, uint32_t index, void *p)
{
	struct block *b = s->samples;
	struct sample_record *r = block_find(s, b, index);
	uint32_t word = r ? atomic_load_relaxed(&r->site) : SITE_NONE, handle = 0, site;
	uint64_t objects;
	size_t size;

	if ((int32_t)word <= 0)
		return word == SITE_NONE || !is_freed(s, index);
	site = record_site(word);
	if (record_has_handle()) {
		handle = *record_handle(r);
		*record_handle(r) = 0;
	}
	if (UNLIKELY(site == HIDDEN_SITE) || !store_is_own()) {
		atomic_store_release(&r->site, site == HIDDEN_SITE ? SITE_NONE
								   : word | SAMPLE_FREED);
		sample_count_page(s, b, p, -1);
		return true;
	}
	size = record_size(s, r);
	objects = old_weight(s, b, r);
	if (UNLIKELY(sampler.lifetimes))
		end_lifetime(s, r, site);
	/* From here on the record may be another object's. */
	atomic_store_release(&r->site, word | SAMPLE_FREED);
	sample_count_page(s, b, p, -1);
	count_free(site, size, objects);
	if (has_noted_end(s, p))
		sample_note_end(p, site);
	sample_end_escape(handle);
	return true;
}

/* Does an object that became smaller keep its record? It is to have one as often as one
 * that was made in its new size. */
static bool is_kept(uint64_t old_objects, uint64_t objects)
{
	return (uint64_t)((uint128)sample_random() * objects >> 64) < old_objects;
}

/* The object lives on without a record. */
static COLD void drop_record(struct mspan *s, struct block *b, struct sample_record *r,
			     const void *p)
{
	if (record_has_handle() && *record_handle(r)) {
		sample_hooks.drop(*record_handle(r));
		*record_handle(r) = 0;
	}
	if (sampler.record_size >= RECORD_STORED)
		lifetime_forget(r->entry);
	atomic_store_release(&r->site, SITE_NONE);
	sample_count_page(s, b, p, -1);
	if (s->slot_size == 0)
		s->samples = NULL;
}

/* Grown or shrunk in place: counts as a free of the old size and an allocation of the new
 * one at the present stack. */
void sample_on_resize(struct mspan *s, uint32_t index, void *p, size_t size)
{
	struct block *b = s->samples;
	struct sample_record *r = block_find(s, b, index);
	uint32_t site = r ? atomic_load_relaxed(&r->site) : SITE_NONE;
	uint64_t objects;
	struct capture c;

	if (sampler.clear)
		clear_tail(s, (uintptr_t)p, size);
	if ((int32_t)site <= 0 || site == HIDDEN_SITE || !store_is_own())
		return;
	site = record_site(site);
	objects = old_weight(s, b, r);
	count_free(site, record_size(s, r), objects);
	if (size < record_size(s, r) &&
	    !is_kept(objects, sample_weight_of(size, period_nth(r->period)))) {
		drop_record(s, b, r, p);
		return;
	}
	if (seep_tls.internal == 0) {
		seep_tls.internal++;
		if (capture(&c))
			site = c.site;
		seep_tls.internal--;
	}
	if (UNLIKELY(sampler.labels))
		site = label_site(label_read(site, NULL), mspan_slot_bytes(s));
	if (record_has_handle() && *record_handle(r))
		sample_hooks.resize(*record_handle(r), size);
	r->size = (uint16_t)size;
	if (UNLIKELY(sampler.record_size >= RECORD_STORED))
		change_lifetime(s, r, site);
	atomic_store_release(&r->site, site);
	count_alloc(site, size, new_weight(s, b, size, r->period));
}
