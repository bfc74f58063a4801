/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: recording, see sample.h.
 *
 * Structure: a span with recorded objects has a block beside it: for sampled mode a count
 * of them per page, then one record a slot. The block is made when the span's first
 * object is recorded and goes when the span does. Records are as long as the options need
 * them: 8 bytes, 16 with the time of birth, 24 with a handle of profiler/escape.
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

#include <errno.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/mcache.h"
#include "preload/heap/sizeclass.h"
#include "preload/heap/tls.h"
#include "profiler/sample/maths.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/thread.h"

#define HIDDEN_SITE UINT32_MAX /* of sample_hide_enter(); no stack has it */
#define STRIPES	    16
#define MAX_PAGES   32 /* of a small span, see sizeclass.c */

struct block {
	uint16_t page_count[MAX_PAGES];
	char records[]; /* of sampler.record_size bytes each */
};
_Static_assert(sizeof(struct block) % 8 == 0, "records are aligned");

#define STRIPE                              \
	{                                   \
		LOCK_INIT(LOCK_RANK_SAMPLE) \
	}
#define FOUR_STRIPES STRIPE, STRIPE, STRIPE, STRIPE

#define WAIT_NS	     10000000u
#define NEVER	     (INT64_MAX / 4) /* a budget that is not spent */
#define ODDS	     64		     /* no budget is larger than so many periods: e^-64 */

static struct {
	bool on, exact;	      /* atomic: sample_change() writes, any thread reads */
	bool slow_frees;      /* no count of pages is needed any more; atomic, one way */
	bool clear;	      /* new objects: no stale pointer may hide a leak */
	uint32_t record_size; /* frozen by sample_init(): RECORD_* */
	size_t period;	      /* atomic, as on */
	uint64_t random;      /* atomic: splitmix64's counter */
	struct {
		struct lock lock;
	} stripes[STRIPES];
	struct lock pool_lock;
	struct fixalloc pools[SIZECLASS_COUNT]; /* by class; 0: large; guarded */
	uint8_t epoch; /* forks between the first process and this one, modulo 256 */
	/* atomic totals */
	uint64_t samples, dropped, truncated;
	uint32_t any_hidden; /* atomic */
} sampler = { .stripes = { FOUR_STRIPES, FOUR_STRIPES, FOUR_STRIPES, FOUR_STRIPES },
	      .pool_lock = LOCK_INIT(LOCK_RANK_SAMPLE_POOL) };

struct sample_hooks sample_hooks;

#define RECORD_SHORT  offsetof(struct sample_record, birth_ns)
#define RECORD_BIRTH  offsetof(struct sample_record, escape)
#define RECORD_ESCAPE sizeof(struct sample_record)

static struct sample_record *record_at(const struct block *b, uint32_t index)
{
	return (struct sample_record *)((uintptr_t)b->records +
					(uintptr_t)index * sampler.record_size);
}

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

	if (!atomic_load_relaxed(&sampler.on))
		return NEVER;
	if (atomic_load_relaxed(&sampler.exact))
		return -1;
	u = (double)((next_random() >> 11) + 1) / 9007199254740993.0; /* (0, 1) */
	return (int64_t)(-maths_ln(u) * (double)atomic_load_relaxed(&sampler.period));
}

static uint64_t weight(size_t size, const struct period *at)
{
	const double one = (double)((uint64_t)1 << SITE_SHIFT);
	double x;

	if (at->exact || at->sample <= 1)
		return (uint64_t)1 << SITE_SHIFT;
	x = (double)(size ? size : 1) / (double)at->sample;
	return (uint64_t)(one * maths_inverse_share(x) + 0.5);
}

uint64_t sample_weight(size_t size)
{
	return weight(size, period_latest());
}

static uint64_t scaled_bytes(size_t size, uint64_t weight)
{
	if (weight == (uint64_t)1 << SITE_SHIFT)
		return size;
	return (uint64_t)((uint128)size * weight >> SITE_SHIFT);
}

/* ---- blocks and records ---- */

static struct fixalloc *pool_of(const struct mspan *s)
{
	struct fixalloc *f = &sampler.pools[s->sizeclass];

	if (f->size == 0) {
		f->size = align_up(sizeof(struct block) +
					   s->nslots * (size_t)sampler.record_size,
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

	if (atomic_load_relaxed(&sampler.slow_frees) || s->slot_size == 0)
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

	return b && record_at(b, index)->site ? record_at(b, index) : NULL;
}

static size_t record_size(const struct mspan *s, const struct sample_record *r)
{
	return s->slot_size ? r->size : s->size_asked;
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

static void count_alloc(uint32_t site, size_t size, uint8_t period)
{
	struct site_counters *c = site_counters(site);
	uint64_t objects = weight(size, period_nth(period));
	uint64_t bytes = scaled_bytes(size, objects);

	if (!c)
		return;
	thread_add(&c->alloc_objects, objects);
	thread_add(&c->alloc_bytes, bytes);
	if (!sample_is_exact()) /* else they are the objects */
		thread_add(&c->samples, 1);
	peak_grow(bytes);
}

static void count_free(uint32_t site, size_t size, uint8_t period)
{
	struct site_counters *c = site_counters_if_any(site);
	uint64_t objects = weight(size, period_nth(period));
	uint64_t bytes = scaled_bytes(size, objects);

	if (!c)
		return;
	peak_shrink(bytes);
	thread_add(&c->free_objects, objects);
	thread_add(&c->free_bytes, bytes);
}

static bool capture(struct capture *out)
{
	bool ok = capture_here(out);

	if (ok && UNLIKELY(out->truncated))
		atomic_add_relaxed(&sampler.truncated, 1u);
	return ok;
}

static void fill_record(struct sample_record *r, uint32_t site, size_t size)
{
	r->site = site;
	r->size = (uint16_t)size;
	r->epoch = sampler.epoch;
	r->period = period_number();
	if (sampler.record_size >= RECORD_BIRTH)
		r->birth_ns = os_now_ns();
	if (sampler.record_size >= RECORD_ESCAPE)
		r->escape = 0;
}

static bool record(void *p, size_t size, const struct capture *c)
{
	uint32_t index;
	struct mspan *s = heap_find((uintptr_t)p, &index);
	struct block *b = s ? atomic_load_acquire(&s->samples) : NULL;
	struct sample_record *r;

	if (!s || (!b && !(b = make_block(s))))
		return false;
	r = record_at(b, index);
	fill_record(r, c->site, size);
	if (sampler.record_size >= RECORD_ESCAPE && sample_hooks.begin)
		r->escape = sample_hooks.begin(p, size, c->site, c->trail);
	count_page(s, b, p, true);
	count_alloc(c->site, size, r->period);
	return true;
}

/* A record of an object that is not to be reported: no stack, and no counter counts it.
 */
static void hide(void *p, size_t size)
{
	uint32_t index;
	struct mspan *s = heap_find((uintptr_t)p, &index);
	struct block *b = s ? atomic_load_acquire(&s->samples) : NULL;

	heap_set_budget(-1); /* the next, too */
	if (!s || (!b && !(b = make_block(s))))
		return;
	fill_record(record_at(b, index), HIDDEN_SITE, size);
	count_page(s, b, p, true);
	atomic_store_relaxed(&sampler.any_hidden, 1u);
}

static void on_malloc(void *p, size_t size)
{
	struct capture c;

	if (UNLIKELY(seep_tls.hiding > 0) && !sample_is_exact()) {
		hide(p, size);
		return;
	}
	if (!sample_is_exact())
		heap_set_budget(draw_budget());
	if (sampler.clear)
		clear_object(p, size);
	if (seep_tls.internal > 0 || !atomic_load_relaxed(&sampler.on) || !store_is_own())
		return;
	seep_tls.internal++;
	if (LIKELY(capture(&c)) && LIKELY(record(p, size, &c)))
		thread_add(&sampler.samples, 1);
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
	struct sample_record *r = record_at(b, index);
	uint32_t site = r->site, handle = 0;

	if (site == SITE_NONE)
		return;
	r->site = SITE_NONE;
	if (sampler.record_size >= RECORD_ESCAPE) {
		handle = r->escape;
		r->escape = 0;
	}
	count_page(s, b, p, false);
	if (site == HIDDEN_SITE || !store_is_own())
		return;
	count_free(site, record_size(s, r), r->period);
	end_escape(handle);
}

/* Grown or shrunk in place: counts as a free of the old size and an allocation of the new
 * one, at the present stack in exact mode, at the old site in sampled mode (whether to
 * sample was decided when the object was made). */
static void on_resize(struct mspan *s, uint32_t index, void *p, size_t size)
{
	struct block *b = s->samples;
	struct sample_record *r = record_at(b, index);
	uint32_t site = r->site;
	struct capture c;

	if (sampler.clear)
		clear_tail(s, (uintptr_t)p, size);
	if (site == SITE_NONE || site == HIDDEN_SITE || !store_is_own())
		return;
	count_free(site, record_size(s, r), r->period);
	if (sample_is_exact() && seep_tls.internal == 0) {
		seep_tls.internal++;
		if (capture(&c))
			site = c.site;
		seep_tls.internal--;
	}
	if (sampler.record_size >= RECORD_ESCAPE && r->escape)
		sample_hooks.resize(r->escape, size);
	r->site = site;
	r->size = (uint16_t)size;
	count_alloc(site, size, r->period);
}

/* ---- hiding ---- */

void sample_hide_enter(void)
{
	seep_tls.hiding++;
	if (sampler.exact)
		seep_tls.internal++;
	else if (sampler.on)
		heap_set_budget(-1);
}

bool sample_hide_leave(void)
{
	if (seep_tls.hiding == 0)
		return false;
	seep_tls.hiding--;
	if (sampler.exact)
		seep_tls.internal--;
	else if (sampler.on && seep_tls.hiding == 0)
		heap_set_budget(draw_budget());
	return true;
}

bool sample_is_hidden(const struct sample_record *r)
{
	return r->site == HIDDEN_SITE;
}

bool sample_has_hidden(void)
{
	return atomic_load_relaxed(&sampler.any_hidden);
}

/* ---- life ---- */

static void install(void)
{
	heap_hooks.sample_malloc = on_malloc;
	heap_hooks.sample_free = on_free;
	heap_hooks.sample_resize = on_resize;
	heap_hooks.release_samples = on_release;
	heap_hooks.first_budget = draw_budget;
}

static void redraw_budgets(void)
{
	heap_redraw_budgets(draw_budget, !sampler.on ? INT64_MAX
					 : sampler.exact
						 ? -1
						 : (int64_t)sampler.period * ODDS);
}

/* Made by constructors that ran before ours: their threads have no budget. */
static bool has_other_threads(void)
{
	const struct mcache *first = mcache_list();

	return first && first->next;
}

static void set_exact(void)
{
	atomic_store_relaxed(&sampler.slow_frees, true);
	heap_slow_frees();
}

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
	/* Samples are few: their age costs nothing, and a live check shows it. */
	sampler.record_size = sample_hooks.begin			  ? RECORD_ESCAPE
			      : o->leak != OPT_LEAK_OFF || !sampler.exact ? RECORD_BIRTH
									  : RECORD_SHORT;
	sampler.clear = sampler.exact && o->leak != OPT_LEAK_OFF;
	heap_padding = sampler.clear;
	period_first((struct period){
		.sample = o->sample, .on = sampler.on, .exact = sampler.exact });
	if (!sampler.on)
		return;
	install();
	if (sampler.exact)
		set_exact();
	heap_set_budget(draw_budget());
	if (has_other_threads())
		redraw_budgets();
}

uint64_t sample_count(void)
{
	return atomic_load_relaxed(&sampler.samples);
}

void sample_set_origin(uint64_t period, uint64_t samples)
{
	sampler.exact = period <= 1;
	sampler.period = period;
	period_first(
		(struct period){ .sample = period, .on = true, .exact = period <= 1 });
	sampler.samples = samples;
}

/* Nobody wakes us. */
static void wait_a_little(void)
{
	static const uint32_t never;
	uint64_t until = os_now_ns() + WAIT_NS;

	while (os_now_ns() < until)
		os_futex_wait(&never, 0, WAIT_NS);
}

int sample_change(enum opt_mode mode, size_t sample)
{
	struct period p = { .sample = sample,
			    .on = mode != OPT_MODE_OFF,
			    .exact = mode == OPT_MODE_EXACT };

	if (!period_add(p))
		return -ENOSPC;
	if (p.exact) {
		set_exact();
		wait_a_little(); /* a thread may be about to restore a page's class */
		set_exact();
	}
	atomic_store_relaxed(&sampler.period, sample);
	atomic_store_relaxed(&sampler.exact, p.exact);
	atomic_store_relaxed(&sampler.on, p.on);
	install();
	redraw_budgets();
	return 0;
}

bool sample_is_on(void)
{
	return atomic_load_relaxed(&sampler.on);
}

bool sample_is_exact(void)
{
	return atomic_load_relaxed(&sampler.exact);
}

bool sample_was_on(void)
{
	return heap_hooks.sample_malloc != NULL;
}

enum opt_mode sample_mode(void)
{
	if (!sample_is_on())
		return OPT_MODE_OFF;
	return sample_is_exact() ? OPT_MODE_EXACT : OPT_MODE_SAMPLED;
}

size_t sample_period(void)
{
	return atomic_load_relaxed(&sampler.period);
}

void sample_add_counts(struct sample_total *out)
{
	out->samples = atomic_load_relaxed(&sampler.samples);
	out->dropped = atomic_load_relaxed(&sampler.dropped);
	out->truncated = atomic_load_relaxed(&sampler.truncated);
}

bool sample_has_inherited(void)
{
	return sampler.epoch != 0;
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
		sampler.epoch++;
}
