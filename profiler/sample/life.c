/* SPDX-License-Identifier: Apache-2.0 */
/*
 * life: what is recorded from when on: the settings at the start, their changes while the
 * program runs, parts of the program that hide, and fork.
 */
#include <errno.h>

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/base/lock.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/tls.h"
#include "profiler/sample/block.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/share.h"
#include "profiler/site/store.h"

#define WAIT_NS 10000000u
#define ODDS	64 /* no budget is larger than so many periods: e^-64 */

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
		heap_set_budget(sample_draw_budget());
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

/* A thread may hide before it has allocated anything: then it is now getting its mcache.
 */
static int64_t first_budget(void)
{
	return seep_tls.hiding && seep_tls.in_start ? -1 : sample_draw_budget();
}

/* The hooks for what is recorded from now on. Objects recorded by others' rules are
 * known to all. */
static void install(bool exact)
{
	bool simple = !sampler.clear && !sampler.labels && !sampler.lifetimes;
	bool plain = exact && simple && sampler.record_size == RECORD_SHORT;
	bool followed = exact && simple && sampler.packed;
	bool lean =
		!exact && simple && sampler.sparse && sampler.record_size == RECORD_BIRTH;

	heap_hooks.sample_malloc = plain      ? plain_on_malloc
				   : followed ? plain_on_malloc_followed
				   : lean     ? lean_on_malloc
					      : sample_on_malloc;
	heap_hooks.sample_free = plain	    ? plain_on_free
				 : followed ? plain_on_free_followed
				 : lean	    ? lean_on_free
					    : sample_on_free;
	heap_hooks.sample_large = lean ? lean_on_malloc_large : NULL;
	heap_hooks.free_large = lean ? lean_on_free_large : NULL;
	heap_hooks.misuse = misuse_describe;
	heap_hooks.sample_resize = sample_on_resize;
	heap_hooks.release_samples = sample_on_release;
	heap_hooks.trim = sample_trim;
	heap_hooks.first_budget = first_budget;
}

static void redraw_budgets(void)
{
	heap_redraw_budgets(sample_draw_budget, !sampler.on ? INT64_MAX
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
	sampler.lifetimes = o->lifetimes;
	sampler.labels = o->label_thread || o->label_size;
	/* Samples are few: their age costs nothing, and a live check shows it. */
	sampler.packed = sample_hooks.begin && sampler.exact && !o->lifetimes;
	sampler.record_size = sampler.packed				  ? RECORD_PACKED
			      : o->lifetimes && store_is_open()		  ? RECORD_STORED
			      : sample_hooks.begin || o->lifetimes	  ? RECORD_ESCAPE
			      : o->leak != OPT_LEAK_OFF || !sampler.exact ? RECORD_BIRTH
									  : RECORD_SHORT;
	sampler.sparse = !sampler.exact;
	sampler.clear = sampler.exact && o->leak != OPT_LEAK_OFF;
	heap_padding = sampler.clear;
	period_first((struct period){
		.sample = o->sample, .on = sampler.on, .exact = sampler.exact });
	if (!sampler.on)
		return;
	install(sampler.exact);
	if (o->lifetimes)
		store_note_time(os_now_ns());
	if (sampler.exact) {
		set_exact();
		heap_neighbours = 8;
		sampler.whole = !has_other_threads();
	}
	if (sampler.whole) {
		heap_hooks.mark_head = offsetof(struct block, records);
		atomic_store_relaxed(&heap_hooks.mark_size, sampler.record_size);
	}
	heap_set_budget(sample_draw_budget());
	if (has_other_threads())
		redraw_budgets();
}

uint64_t sample_count(void)
{
	return atomic_load_relaxed(&sampler.samples) + share_recorded();
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
	atomic_store_relaxed(&sampler.whole, false);
	atomic_store_relaxed(&heap_hooks.mark_size, 0u);
	atomic_store_relaxed(&sampler.period, sample);
	atomic_store_relaxed(&sampler.exact, p.exact);
	atomic_store_relaxed(&sampler.on, p.on);
	install(p.exact);
	redraw_budgets();
	return 0;
}

bool sample_is_whole(void)
{
	return atomic_load_relaxed(&sampler.whole);
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
	out->samples = sample_count();
	out->dropped = atomic_load_relaxed(&sampler.dropped);
	out->truncated = atomic_load_relaxed(&sampler.truncated);
}

bool sample_has_inherited(void)
{
	return sampler.epoch != 0;
}

NO_LOCK_CHECK void sample_fork_prepare(void)
{
	for (unsigned i = 0; i < SAMPLE_STRIPES; i++)
		lock_acquire_nested(&sampler.stripes[i].lock);
	lifetime_fork_prepare();
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
	lifetime_fork_done(child);
	for (unsigned i = SAMPLE_STRIPES; i > 0; i--) {
		if (child)
			lock_reset(&sampler.stripes[i - 1].lock);
		else
			lock_release(&sampler.stripes[i - 1].lock);
	}
	if (child) {
		sampler.epoch++;
		period_stamp();
	}
}
