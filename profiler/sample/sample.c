/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: recording, see sample.h.
 *
 * Structure: a span with recorded objects has a block beside it: for sampled mode a count
 * of them per page, then one record a slot. The block is made when the span's first
 * object is recorded and goes when the span does.
 *
 * Sampled mode keeps frees of other objects fast: a page with a recorded object has class
 * byte 0, so only frees there come here; the count per page restores the byte. In exact
 * mode all class bytes are 0 for good.
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
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/sizeclass.h"
#include "preload/heap/tls.h"
#include "profiler/sample/maths.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/site.h"
#include "profiler/stack/unwind.h"

#define STRIPES		 16
#define MAX_PAGES	 32 /* of a small span, see sizeclass.c */
#define BIRTH_UNIT_SHIFT 6  /* births are kept in units of 64 ns */

struct block {
	uint16_t page_count[MAX_PAGES];
	struct sample_record records[];
};

#define STRIPE                              \
	{                                   \
		LOCK_INIT(LOCK_RANK_SAMPLE) \
	}
#define FOUR_STRIPES STRIPE, STRIPE, STRIPE, STRIPE

static struct {
	bool on, exact;
	size_t period;
	uint64_t random; /* atomic: splitmix64's counter */
	struct {
		struct lock lock;
	} stripes[STRIPES];
	struct lock pool_lock;
	struct fixalloc pools[SIZECLASS_COUNT]; /* by class; 0: large; guarded */
	uint64_t epoch_ns;			/* of a forked child */
	/* atomic totals */
	uint64_t samples, dropped, truncated;
} sampler = { .stripes = { FOUR_STRIPES, FOUR_STRIPES, FOUR_STRIPES, FOUR_STRIPES },
	      .pool_lock = LOCK_INIT(LOCK_RANK_SAMPLE_POOL) };

struct sample_hooks sample_hooks;

/* ---- when ---- */

static uint64_t next_random(void)
{
	uint64_t z = atomic_add_relaxed(&sampler.random, 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* Bytes to the next sample: exponential with the period as mean. */
static int64_t draw_budget(void)
{
	double u;

	if (sampler.exact)
		return -1;
	u = (double)((next_random() >> 11) + 1) / 9007199254740993.0; /* (0, 1) */
	return (int64_t)(-maths_ln(u) * (double)sampler.period);
}

uint64_t sample_weight(size_t size)
{
	double p;

	if (sampler.exact || sampler.period <= 1)
		return (uint64_t)1 << SITE_SHIFT;
	p = maths_one_minus_exp((double)(size ? size : 1) / (double)sampler.period);
	return (uint64_t)((double)((uint64_t)1 << SITE_SHIFT) / p + 0.5);
}

static uint64_t scaled_bytes(size_t size, uint64_t weight)
{
	return (uint64_t)((uint128)size * weight >> SITE_SHIFT);
}

/* ---- blocks and records ---- */

static struct fixalloc *pool_of(const struct mspan *s)
{
	struct fixalloc *f = &sampler.pools[s->sizeclass];

	if (f->size == 0) {
		f->size = align_up(sizeof(struct block) +
					   s->nslots * sizeof(struct sample_record),
				   16);
		f->tag = META_SAMPLE;
	}
	return f;
}

static struct block *make_block(struct mspan *s)
{
	struct block *b;

	lock_acquire(&sampler.pool_lock);
	b = atomic_load_acquire(&s->samples);
	if (!b) {
		b = fixalloc_get(pool_of(s));
		atomic_store_release(&s->samples, (void *)b);
	}
	lock_release(&sampler.pool_lock);
	return b;
}

static void on_release(struct mspan *s)
{
	lock_acquire(&sampler.pool_lock);
	fixalloc_put(pool_of(s), s->samples);
	s->samples = NULL;
	lock_release(&sampler.pool_lock);
}

static struct lock *stripe_of(const struct mspan *s)
{
	return &sampler.stripes[(s->base >> PAGE_SHIFT) % STRIPES].lock;
}

/* A recorded object appears on, or leaves, the page of p. */
static void count_page(struct mspan *s, struct block *b, const void *p, bool more)
{
	size_t page = ((uintptr_t)p - s->base) >> PAGE_SHIFT;
	struct lock *l = stripe_of(s);

	if (sampler.exact || s->slot_size == 0)
		return;
	lock_acquire(l);
	if (more && b->page_count[page]++ == 0)
		heap_page_sampled(s, p, true);
	else if (!more && --b->page_count[page] == 0)
		heap_page_sampled(s, p, false);
	lock_release(l);
}

const struct sample_record *sample_find(const struct mspan *s, uint32_t index)
{
	const struct block *b = atomic_load_acquire(&s->samples);

	return b && b->records[index].site ? &b->records[index] : NULL;
}

static size_t record_size(const struct mspan *s, const struct sample_record *r)
{
	return s->slot_size ? (size_t)(r->birth_and_size & 0xffff) : s->size_asked;
}

size_t sample_size_asked(const struct mspan *s, uint32_t index)
{
	const struct sample_record *r = sample_find(s, index);

	if (r)
		return record_size(s, r);
	return s->slot_size ? s->slot_size : s->size_asked;
}

uint64_t sample_birth_ns(const struct sample_record *r)
{
	return r->birth_and_size >> 16 << BIRTH_UNIT_SHIFT;
}

static uint64_t pack_birth(uint64_t now_ns, size_t size)
{
	return now_ns >> BIRTH_UNIT_SHIFT << 16 | (size & 0xffff);
}

/* ---- events ---- */

static void count_alloc(uint32_t site, size_t size)
{
	struct site_counters *c = site_counters(site);
	uint64_t weight = sample_weight(size);
	uint64_t bytes = scaled_bytes(size, weight);

	if (!c)
		return;
	atomic_add_relaxed(&c->alloc_objects, weight);
	atomic_add_relaxed(&c->alloc_bytes, bytes);
	atomic_add_relaxed(&c->samples, 1u);
	peak_grow(bytes);
}

static void count_free(uint32_t site, size_t size)
{
	struct site_counters *c = site_counters_if_any(site);
	uint64_t weight = sample_weight(size);
	uint64_t bytes = scaled_bytes(size, weight);

	if (!c)
		return;
	peak_shrink(bytes);
	atomic_add_relaxed(&c->free_objects, weight);
	atomic_add_relaxed(&c->free_bytes, bytes);
}

/* The calling thread's stack as a site; frames stay in the scratch array. */
static uint32_t capture(struct frame **out_frames, int *out_count)
{
	enum unwind_end end;
	int max;
	struct frame *frames = unwind_scratch(&max);
	int n = frames ? unwind_here(frames, max, &end) : 0;

	*out_frames = frames;
	*out_count = n;
	if (n == 0)
		return SITE_NONE;
	if (end == UNWIND_TRUNCATED || end == UNWIND_BAD_STACK)
		atomic_add_relaxed(&sampler.truncated, 1u);
	return site_intern(frames, n);
}

static bool record(void *p, size_t size, uint32_t site, const struct frame *frames, int n)
{
	uint32_t index;
	struct mspan *s = heap_find((uintptr_t)p, &index);
	struct block *b = s ? atomic_load_acquire(&s->samples) : NULL;

	if (!s || (!b && !(b = make_block(s))))
		return false;
	b->records[index].birth_and_size = pack_birth(os_now_ns(), size);
	b->records[index].escape =
		sample_hooks.begin ? sample_hooks.begin(p, size, site, frames, n) : 0;
	b->records[index].site = site;
	count_page(s, b, p, true);
	count_alloc(site, size);
	return true;
}

static void on_malloc(void *p, size_t size)
{
	struct frame *frames;
	uint32_t site;
	int n;

	heap_set_budget(draw_budget());
	if (seep_tls.internal > 0)
		return;
	seep_tls.internal++;
	site = capture(&frames, &n);
	if (site && record(p, size, site, frames, n))
		atomic_add_relaxed(&sampler.samples, 1u);
	else
		atomic_add_relaxed(&sampler.dropped, 1u);
	seep_tls.internal--;
}

static void end_escape(uint32_t handle)
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

static void on_free(struct mspan *s, uint32_t index, void *p)
{
	struct block *b = s->samples;
	struct sample_record *r = &b->records[index];
	uint32_t site = r->site, handle = r->escape;
	size_t size = record_size(s, r);

	if (site == SITE_NONE)
		return;
	r->site = SITE_NONE;
	r->escape = 0;
	count_page(s, b, p, false);
	count_free(site, size);
	end_escape(handle);
}

/* Grown or shrunk in place: counts as a free of the old size and an allocation of the new
 * one, at the present stack in exact mode, at the old site in sampled mode (whether to
 * sample was decided when the object was made). */
static void on_resize(struct mspan *s, uint32_t index, void *p, size_t size)
{
	struct block *b = s->samples;
	struct sample_record *r = &b->records[index];
	uint32_t site = r->site;
	struct frame *frames;
	int n;

	(void)p;
	if (site == SITE_NONE)
		return;
	count_free(site, record_size(s, r));
	if (sampler.exact && seep_tls.internal == 0) {
		uint32_t fresh;

		seep_tls.internal++;
		fresh = capture(&frames, &n);
		seep_tls.internal--;
		site = fresh ? fresh : site;
	}
	if (r->escape)
		sample_hooks.resize(r->escape, size);
	r->site = site;
	r->birth_and_size = (r->birth_and_size & ~(uint64_t)0xffff) | (size & 0xffff);
	count_alloc(site, size);
}

/* ---- life ---- */

void sample_init(void)
{
	const struct options *o = opt_get();
	uint64_t seed = o->seed;

	if (seed == 0)
		os_random(&seed, sizeof(seed));
	sampler.random = seed;
	sampler.period = o->sample;
	sampler.exact = o->mode == OPT_MODE_EXACT;
	sampler.on = o->mode != OPT_MODE_OFF;
	if (!sampler.on)
		return;
	heap_hooks.sample_malloc = on_malloc;
	heap_hooks.sample_free = on_free;
	heap_hooks.sample_resize = on_resize;
	heap_hooks.release_samples = on_release;
	heap_hooks.first_budget = draw_budget;
	if (sampler.exact)
		heap_slow_frees();
	heap_set_budget(draw_budget());
}

bool sample_is_on(void)
{
	return sampler.on;
}

bool sample_is_exact(void)
{
	return sampler.exact;
}

void sample_add_counts(struct sample_total *out)
{
	out->samples = atomic_load_relaxed(&sampler.samples);
	out->dropped = atomic_load_relaxed(&sampler.dropped);
	out->truncated = atomic_load_relaxed(&sampler.truncated);
}

uint64_t sample_epoch_ns(void)
{
	return sampler.epoch_ns;
}

NO_LOCK_CHECK void sample_fork_prepare(void)
{
	for (unsigned i = 0; i < STRIPES; i++)
		lock_acquire_nested(&sampler.stripes[i].lock);
	peak_fork_prepare();
}

NO_LOCK_CHECK void sample_pool_fork_prepare(void)
{
	lock_acquire(&sampler.pool_lock);
}

NO_LOCK_CHECK void sample_pool_fork_done(bool child)
{
	if (child)
		lock_reset(&sampler.pool_lock);
	else
		lock_release(&sampler.pool_lock);
}

NO_LOCK_CHECK void sample_fork_done(bool child)
{
	peak_fork_done(child);
	for (unsigned i = STRIPES; i > 0; i--) {
		if (child)
			lock_reset(&sampler.stripes[i - 1].lock);
		else
			lock_release(&sampler.stripes[i - 1].lock);
	}
	if (child)
		sampler.epoch_ns = os_now_ns();
}
