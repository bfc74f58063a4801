/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escape: following objects, see escape.h.
 *
 * Structure: a pool of followed objects, named by handles that the sampler keeps beside
 * the object. Of sites that make many objects, and when the pool runs full, only one in
 * 2^k is followed, with weight 2^k. What has ended is added up in result.c.
 * Concurrency: one lock for the pool, the stubs and the results. It is held for short,
 * bounded work only: stacks are captured and compared outside.
 */
#include "profiler/escape/escape.h"

#include <errno.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/mcache.h"
#include "preload/heap/tls.h"
#include "profiler/escape/escape_int.h"
#include "profiler/escape/hijack.h"
#include "profiler/escape/where.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"

#define POOL 65536
/* Above THIN_FROM, each further step of entries halves what is followed: with bound,
 * which "seep run" has on, it is to cost little memory. */
#define THIN_FROM_EXACT (POOL / 2)
#define THIN_FROM_BOUND (POOL / 8)
#define POOL_STEP	(POOL / 32)
#define MAX_THIN	16
#define COUNTS		65536
#define COMMENT_BYTES	320

static struct {
	struct lock lock;
	bool on, exact;
	struct followed *pool; /* [0] is not used */
	uint32_t fresh;	       /* first never used */
	uint32_t free;
	uint32_t nused;
	uint32_t *counts; /* atomic: objects by site, several sites may share one */
	uint64_t random;  /* atomic */
	uint64_t start_ns;
} escape = { .lock = LOCK_INIT(LOCK_RANK_ESCAPE) };

void escape_init(void)
{
	escape.pool = meta_map(POOL * sizeof(*escape.pool), META_ESCAPE);
	escape.fresh = 1;
	escape.start_ns = os_now_ns();
	escape.random = 0x9e3779b97f4a7c15u;
	escape.counts = meta_map(COUNTS * sizeof(*escape.counts), META_ESCAPE);
	escape.on = escape.pool && escape.counts && result_init();
	if (!escape.on || opt_get()->escape != OPT_ESCAPE_EXACT)
		return;
	where_init();
	escape.exact = hijack_init();
	if (!escape.exact)
		log_line("escape=exact is not possible here; bound is used");
}

bool escape_is_on(void)
{
	return escape.on;
}

struct followed *followed_at(uint32_t handle)
{
	return &escape.pool[handle];
}

NO_LOCK_CHECK void escape_lock(void)
{
	lock_acquire(&escape.lock);
}

NO_LOCK_CHECK void escape_unlock(void)
{
	lock_release(&escape.lock);
}

/* ---- the pool ---- */

/* One in 2^lg, at random: a program's own rhythm must not choose. */
static bool toss(uint32_t lg)
{
	uint64_t z = atomic_add_relaxed(&escape.random, 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z >> 20 & ((1u << lg) - 1)) == 0;
}

/* Of a site that makes many objects, the first 2^ESCAPE_LG_ALL are followed, and of each
 * further doubling about half as many. */
static uint32_t site_thinning(uint32_t site)
{
	uint32_t n = atomic_add_relaxed(&escape.counts[site % COUNTS], 1u);

	n >>= ESCAPE_LG_ALL;
	return n == 0 ? 0 : 32 - (uint32_t)__builtin_clz(n);
}

/* When the pool runs full, for all sites. Needs the lock. */
static uint32_t pool_thinning(void)
{
	uint32_t from = escape.exact ? THIN_FROM_EXACT : THIN_FROM_BOUND, lg = 0;

	if (escape.nused > from)
		lg = (escape.nused - from) / POOL_STEP + 1;
	return lg < MAX_THIN ? lg : MAX_THIN;
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

/* The frames that the site of a captured stack is made of, as unwind_here() gives them.
 */
static int frames_of(const struct trail *t, struct frame *frames, int max)
{
	int base = (int)trail_base(t), n = 0;

	for (int i = (int)t->count - 1; i >= base && n < max; i--, n++)
		frames[n] = (struct frame){ .pc = t->places[i].pc,
					    .slot = t->places[i].slot };
	if (trail_is_cut(t) && n < max && frames[n - 1].pc > FRAME_PSEUDO_MAX)
		frames[n++] = (struct frame){ .pc = FRAME_TRUNCATED_PC };
	return n;
}

/* The calling thread's stack, in its scratch; t: the same, if it was captured. */
static int frames_here(const struct trail *t, struct frame **out)
{
	enum unwind_end end;
	int max;

	*out = unwind_scratch(&max);
	if (!*out)
		return 0;
	return t ? frames_of(t, *out, max) : unwind_here(*out, max, &end);
}

bool escape_chooses(uint32_t site, uint32_t *out_lg)
{
	*out_lg = site_thinning(site);
	return *out_lg == 0 || toss(*out_lg);
}

/* The new object could not be attached, since nothing was known of the code it returns
 * to: of a library opened lately. */
static NOINLINE void attach_again(uint32_t handle, uintptr_t unknown)
{
	if (!module_learn(unknown - 1))
		return;
	escape_lock();
	followed_at(handle)->refused = false;
	hijack_attach(handle);
	hijack_take_unknown();
	escape_unlock();
}

static uint32_t follow(struct followed *fresh, size_t size, uint32_t lg)
{
	uint32_t handle = 0;
	uintptr_t unknown = 0;

	fresh->thread = thread_serial();
	fresh->size = size;
	fresh->argument = mcache_argument();
	fresh->weight = sample_weight(size);
	fresh->birth_ns = os_now_ns();
	escape_lock();
	fresh->lg_weight = (uint16_t)(lg + pool_thinning());
	if (fresh->lg_weight == lg || toss(fresh->lg_weight - lg))
		handle = get_entry();
	if (handle) {
		*followed_at(handle) = *fresh;
		if (escape.exact) {
			where_begin(followed_at(handle));
			hijack_attach(handle);
			unknown = hijack_take_unknown();
		}
	}
	escape_unlock();
	if (UNLIKELY(unknown))
		attach_again(handle, unknown);
	return handle;
}

uint32_t escape_begin_at(const void *p, size_t size, uint32_t site,
			 const struct frame *frames, int count, uint32_t lg)
{
	struct followed fresh = { .site = site, .p = (uintptr_t)p };

	if (!escape.on)
		return 0;
	bound_keep(&fresh.stack, frames, count);
	return follow(&fresh, size, lg);
}

uint32_t escape_begin_one(const void *p, size_t size, uint32_t site,
			  const struct trail *stack, uint32_t lg)
{
	struct followed fresh = { .site = site, .p = (uintptr_t)p };

	if (!escape.on)
		return 0;
	if (!stack) {
		struct frame *frames;
		int count = frames_here(NULL, &frames);

		return escape_begin_at(p, size, site, frames, count, lg);
	}
	bound_keep_trail(&fresh.stack, stack);
	trail_mark(&fresh.made, stack);
	return follow(&fresh, size, lg);
}

uint32_t escape_begin(const void *p, size_t size, uint32_t site,
		      const struct trail *stack)
{
	uint32_t lg;

	if (!escape.on || !escape_chooses(site, &lg))
		return 0;
	return escape_begin_one(p, size, site, stack, lg);
}

/* ---- the end ---- */

static void add_result(const struct followed *f, enum end_kind end, uint32_t depth,
		       uintptr_t freed, uint64_t now)
{
	const struct result_key key = {
		.site = f->site,
		.depth = (uint16_t)depth,
		.end = (uint8_t)end,
		.place = f->place,
		.detail = f->detail,
		.freed = freed,
	};
	const struct ended e = {
		.size = f->size,
		.argument = f->argument,
		.weight = f->weight << f->lg_weight,
		.lifetime_ns = now - f->birth_ns,
		.grown = f->grown,
		.several = f->several,
		.scanned = f->scanned,
	};

	if (!f->inherited)
		result_add(&key, &e);
}

static void end_with(uint32_t handle, enum end_kind end, uint32_t depth, uintptr_t freed)
{
	uint64_t now = os_now_ns();

	escape_lock();
	add_result(followed_at(handle), end, depth, freed, now);
	put_entry(handle);
	escape_unlock();
}

/* The stack at the free has lost this many activations; BOUND_UNKNOWN: cannot tell. */
static void end_by_comparison(uint32_t handle, uint32_t depth, uintptr_t freed)
{
	const struct followed *f = followed_at(handle);

	if (f->thread != thread_serial()) {
		end_with(handle, END_THREAD, 0, freed);
		return;
	}
	if (depth == BOUND_UNKNOWN && f->level == 0) {
		end_with(handle, END_UNKNOWN, 0, freed);
		return;
	}
	if (depth == BOUND_UNKNOWN || depth < f->level)
		depth = f->level;
	end_with(handle, f->refused ? END_REFUSED : END_BOUND, depth, freed);
}

void escape_end_at(uint32_t handle, const struct frame *frames, int count)
{
	const struct followed *f = followed_at(handle);

	end_by_comparison(handle, bound_compare(&f->stack, f->site, frames, count),
			  count > 0 ? frames[0].pc : 0);
}

/* What the trail has seen change since the object was made tells activations apart that
 * look alike. It says nothing of another stack's, or when it was lost in between. */
static bool ask_trail(const struct followed *f, const struct trail *t,
		      uint32_t *out_depth)
{
	return f->stack.count > 0 && f->made.count > 0 && f->made.root == t->root &&
	       trail_gone(&f->made, t, f->stack.count, out_depth);
}

/* Takes the object from its stub. True: it waited there to the end, so that its depth is
 * known. */
static bool leave_stub(uint32_t handle)
{
	const struct followed *f = followed_at(handle);
	bool holds;

	if (!escape.exact)
		return false;
	escape_lock();
	holds = f->thread == thread_serial() && hijack_holds(f);
	hijack_detach(handle);
	escape_unlock();
	return holds;
}

/* Of a depth that is known, only who freed it is wanted. */
static void end_exact(uint32_t handle)
{
	const struct followed *f = followed_at(handle);

	end_with(handle, f->unwound ? END_EXC : END_EXACT, f->level, unwind_caller());
}

void escape_end(uint32_t handle)
{
	const struct followed *f = followed_at(handle);
	const struct trail *t;
	struct frame *frames;
	uint32_t depth = 0;
	int count;

	if (leave_stub(handle)) {
		end_exact(handle);
		return;
	}
	t = trail_capture();
	if (t && (f->thread != thread_serial() || ask_trail(f, t, &depth))) {
		end_by_comparison(handle, depth, t->places[t->count - 1].pc);
		return;
	}
	count = frames_here(t, &frames);
	escape_end_at(handle, frames, count);
}

void escape_resize(uint32_t handle, size_t size)
{
	struct followed *f = followed_at(handle);

	f->grown |= size > f->size;
	f->size = size;
	f->argument = mcache_argument(); /* of reallocarray */
}

/* Comes from a signal handler that may have interrupted a holder of the lock: then the
 * entry is given up. */
NO_LOCK_CHECK void escape_drop(uint32_t handle)
{
	followed_at(handle)->site = SITE_NONE;
	if (!lock_try_acquire(&escape.lock))
		return;
	hijack_detach(handle);
	put_entry(handle);
	lock_release(&escape.lock);
}

void escape_thread_end(uintptr_t sp)
{
	if (escape.exact)
		hijack_thread_end(sp);
	seep_tls.serial = 0;
}

/* ---- the profile ---- */

/* Objects that are still there count as live, with the lifetime so far. */
static void count_live(void)
{
	uint64_t now = os_now_ns();

	for (uint32_t i = 1; i < escape.fresh; i++)
		if (escape.pool[i].site)
			add_result(&escape.pool[i], END_LIVE, escape.pool[i].level, 0,
				   now);
}

static const char *describe(char *buf, size_t size)
{
	struct hijack_stats st;
	struct where_stats looks;

	if (!escape.exact)
		return "escape=bound: depth is a lower bound; frames are compared at "
		       "malloc and free";
	hijack_get_stats(&st);
	escape_lock();
	where_get_stats(&looks);
	escape_unlock();
	fmt_string(buf, size,
		   "escape=exact: stubs put %llu, shared %llu, returned %llu, unwound "
		   "%llu, left by longjmp %llu, refused %llu, none free %llu, in use %u; "
		   "looks %llu, %llu of %llu us of CPU time",
		   (unsigned long long)st.armed, (unsigned long long)st.shared,
		   (unsigned long long)st.returned, (unsigned long long)st.unwound,
		   (unsigned long long)st.left, (unsigned long long)st.refused,
		   (unsigned long long)st.full, st.in_use,
		   (unsigned long long)looks.looks,
		   (unsigned long long)looks.spent_ns / 1000,
		   (unsigned long long)looks.process_ns / 1000);
	return buf;
}

int escape_write(const char *prefix)
{
	char text[COMMENT_BYTES];
	int error;

	if (!escape.on)
		return -ENOMEM;
	escape_lock();
	result_clear_live();
	count_live();
	escape_unlock();
	error = result_write(prefix, describe(text, sizeof(text)), escape.start_ns);
	escape_lock();
	result_clear_live();
	escape_unlock();
	return error;
}

NO_LOCK_CHECK void escape_fork_prepare(void)
{
	lock_acquire(&escape.lock);
}

/* What the parent made is the parent's to report. */
NO_LOCK_CHECK void escape_fork_done(bool child)
{
	if (!child) {
		lock_release(&escape.lock);
		return;
	}
	if (escape.on) {
		for (uint32_t i = 1; i < escape.fresh; i++)
			escape.pool[i].inherited = true;
		result_clear();
		escape.start_ns = os_now_ns();
		if (escape.exact)
			where_start();
	}
	lock_reset(&escape.lock);
}
