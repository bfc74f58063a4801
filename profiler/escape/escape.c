/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escape: the bound form, see escape.h.
 *
 * An object remembers where the trail of its thread ended when it was made
 * (trail_mark()); what the trail still retains of that at its free is alive.
 *
 * Structure: a pool of followed objects. When it runs full, only one object in 2^k is
 * followed, with weight 2^k.
 * Concurrency: one lock for the pool and the table of results.
 */
#include "profiler/escape/escape.h"

#include <errno.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/tls.h"
#include "profiler/pprof/pprof.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"

#define POOL	  65536
#define MAX_DEPTH 24	 /* a greater depth is given as this */
#define RESULTS	  131072 /* of the table: (site, kind, depth) */
#define MAX_THIN  16

enum end_kind { END_SAME_THREAD, END_OTHER_THREAD, END_LIVE };

struct followed {
	uint32_t site;	 /* 0: free */
	uint32_t next;	 /* in the free list */
	uint32_t thread; /* who made it: low bits of seep_tls' address */
	uint32_t lg_weight;
	struct trail_mark made;
	size_t size;
	uint64_t weight; /* of the sampler, fixed point */
	uint64_t birth_ns;
};

struct result {
	uint32_t site; /* 0: empty */
	uint16_t depth;
	uint8_t kind;	  /* enum end_kind */
	uint64_t objects; /* fixed point */
	uint64_t bytes, lifetime_ns;
};

static struct {
	struct lock lock;
	bool on;
	struct followed *pool; /* [0] is not used */
	uint32_t fresh;	       /* first never used */
	uint32_t free;
	uint32_t nused;
	uint32_t lg_thin; /* follow one in 2^lg_thin */
	uint64_t random;
	struct result *results;
	uint32_t nresults;
	uint64_t lost; /* results that found no room */
} escape = { .lock = LOCK_INIT(LOCK_RANK_ESCAPE) };

void escape_init(void)
{
	escape.pool = meta_map(POOL * sizeof(*escape.pool), META_ESCAPE);
	escape.results = meta_map(RESULTS * sizeof(*escape.results), META_ESCAPE);
	escape.fresh = 1;
	escape.random = 0x9e3779b97f4a7c15u;
	escape.on = escape.pool && escape.results;
}

bool escape_is_on(void)
{
	return escape.on;
}

static uint32_t thread_mark(void)
{
	return (uint32_t)((uintptr_t)&seep_tls >> 4);
}

/* ---- the pool ---- */

/* Above half of the pool each further quarter halves what is followed. Needs the lock. */
static bool chosen(void)
{
	uint32_t want = 0;

	if (escape.nused > POOL / 2)
		want = (escape.nused - POOL / 2) / (POOL / 16) + 1;
	escape.lg_thin = want < MAX_THIN ? want : MAX_THIN;
	escape.random ^= escape.random << 13;
	escape.random ^= escape.random >> 7;
	escape.random ^= escape.random << 17;
	return (escape.random >> 20 & ((1u << escape.lg_thin) - 1)) == 0;
}

static uint32_t get_entry(void)
{
	uint32_t handle = escape.free;

	if (handle)
		escape.free = escape.pool[handle].next;
	else if (escape.fresh < POOL)
		handle = escape.fresh++;
	if (handle)
		escape.nused++;
	return handle;
}

static void put_entry(uint32_t handle)
{
	escape.pool[handle].site = SITE_NONE;
	escape.pool[handle].next = escape.free;
	escape.free = handle;
	escape.nused--;
}

uint32_t escape_begin(uint32_t site, size_t size, const struct trail *stack)
{
	uint32_t handle = 0;

	if (!escape.on || !stack)
		return 0;
	lock_acquire(&escape.lock);
	if (chosen())
		handle = get_entry();
	if (handle) {
		struct followed *f = &escape.pool[handle];

		f->site = site;
		f->size = size;
		f->weight = sample_weight(size);
		f->lg_weight = (uint16_t)escape.lg_thin;
		f->birth_ns = os_now_ns();
		f->thread = thread_mark();
		trail_mark(&f->made, stack);
	}
	lock_release(&escape.lock);
	return handle;
}

/* ---- results ---- */

static void add_result(const struct followed *f, enum end_kind kind, uint32_t depth,
		       uint64_t now)
{
	uint64_t weight = f->weight << f->lg_weight;
	uint32_t i = (f->site * 0x9e3779b1u ^ depth * 0x85ebca77u ^ kind) % RESULTS;
	struct result *r = &escape.results[i];

	if (escape.nresults > RESULTS / 2) {
		escape.lost++;
		return;
	}
	while (r->site && (r->site != f->site || r->depth != depth || r->kind != kind)) {
		i = (i + 1) % RESULTS;
		r = &escape.results[i];
	}
	if (r->site == SITE_NONE)
		escape.nresults++;
	r->site = f->site;
	r->depth = (uint16_t)depth;
	r->kind = (uint8_t)kind;
	r->objects += weight;
	r->bytes += (uint64_t)((uint128)f->size * weight >> SITE_SHIFT);
	r->lifetime_ns += (uint64_t)((uint128)(now - f->birth_ns) * weight >> SITE_SHIFT);
}

void escape_end(uint32_t handle, const struct trail *stack)
{
	struct followed *f = &escape.pool[handle];
	bool same = f->thread == thread_mark();
	uint64_t now = os_now_ns();
	uint32_t depth = 0;
	bool known = !same || (stack && trail_gone(&f->made, stack, MAX_DEPTH, &depth));

	lock_acquire(&escape.lock);
	if (known)
		add_result(f, same ? END_SAME_THREAD : END_OTHER_THREAD, depth, now);
	put_entry(handle);
	lock_release(&escape.lock);
}

void escape_drop(uint32_t handle)
{
	lock_acquire(&escape.lock);
	put_entry(handle);
	lock_release(&escape.lock);
}

/* ---- the profile ---- */

static void write_result(struct pprof *p, const struct result *r, uintptr_t *pcs, int max)
{
	const int64_t values[] = { (int64_t)(r->objects >> SITE_SHIFT), (int64_t)r->bytes,
				   (int64_t)r->lifetime_ns };
	static const char *const confidence[] = { "bound", "thread", "live" };
	const char *where = r->kind == END_OTHER_THREAD			  ? "thread"
			    : r->kind == END_SAME_THREAD && r->depth == 0 ? "none"
									  : "unknown";
	const struct pprof_label labels[] = {
		{ .key = "escape", .text = where },
		{ .key = "confidence", .text = confidence[r->kind] },
		{ .key = "depth", .number = r->depth, .unit = "frames" },
	};

	pprof_sample(p, pcs, site_stack(r->site, pcs, max), false, values, labels,
		     r->kind == END_SAME_THREAD ? 3 : 2);
}

/* Objects that are still there count as live, with the lifetime so far. */
static void count_live(void)
{
	uint64_t now = os_now_ns();

	for (uint32_t i = 1; i < escape.fresh; i++)
		if (escape.pool[i].site)
			add_result(&escape.pool[i], END_LIVE, 0, now);
}

int escape_write(const char *prefix)
{
	static const char *const comments[] = { "seep " SEEP_VERSION,
						"escape=bound: depth is a lower bound; "
						"frames are compared at malloc and free",
						NULL };
	size_t max = opt_get()->stack + 1;
	uintptr_t *pcs;
	struct pprof *p;
	int error;

	if (!escape.on)
		return -ENOMEM;
	pcs = meta_map(max * sizeof(*pcs), META_ESCAPE);
	if (!pcs)
		return -ENOMEM;
	error = pprof_begin(&p, &pprof_kind_escape, prefix,
			    sample_is_exact() ? 1 : (int64_t)opt_get()->sample, comments);
	if (error == 0) {
		lock_acquire(&escape.lock);
		count_live();
		lock_release(&escape.lock);
		for (uint32_t i = 0; i < RESULTS; i++)
			if (escape.results[i].site)
				write_result(p, &escape.results[i], pcs, (int)max);
		error = pprof_finish(p);
	}
	meta_unmap(pcs, max * sizeof(*pcs), META_ESCAPE);
	return error;
}

NO_LOCK_CHECK void escape_fork_prepare(void)
{
	lock_acquire(&escape.lock);
}

NO_LOCK_CHECK void escape_fork_done(bool child)
{
	if (child)
		lock_reset(&escape.lock);
	else
		lock_release(&escape.lock);
}
