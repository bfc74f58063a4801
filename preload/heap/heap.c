/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap: the slow paths of malloc, calloc and memalign, and a thread's beginning and end.
 * The overview is in heap.h; realloc is in heap_realloc.c, free's slow path in
 * heap_free.c.
 *
 * A thread that has given its mcache back (its last thread-specific destructors are
 * running) shares one fallback mcache under a lock.
 */
#include "preload/heap/heap.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/heap/arena.h"
#include "preload/base/os.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/large.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/mheap.h"
#include "preload/heap/sizeclass.h"

/* Without samples: bytes allocated between looks at idle memory. */
#define TICK_BYTES (4 * (int64_t)MIB)

/* Objects that calloc clears in parts: such as glibc always maps afresh. How long these
 * are; what of each is looked at first; and how much of one may be there for it to be
 * given back: a fault costs as much as clearing some pages. */
#define CLEAR_PARTS (32 * MIB)
#define CLEAR_PART  (2 * MIB)
#define CLEAR_LOOK  (32 * KIB)
#define CLEAR_SHARE 4

struct heap_hooks heap_hooks;
struct heap_foreign heap_foreign;
__attribute__((weak)) bool (*heap_begin)(void); /* preload/api/init.c has it */

static struct {
	struct lock lock;
	struct mcache *fallback; /* guarded by lock */
	bool used;		 /* atomic: something was served */
} heap = { .lock = LOCK_INIT(LOCK_RANK_FALLBACK) };

/* ---- threads ---- */

static int64_t budget_without_hooks(void)
{
	return atomic_load_relaxed(&heap_begin) ? -1 : TICK_BYTES;
}

static void adopt(struct mcache *mc)
{
	mc->budget = heap_hooks.first_budget ? heap_hooks.first_budget()
					     : budget_without_hooks();
	mc->later = 0;
	seep_tls.cache_offset = (uintptr_t)mc - (uintptr_t)&mcache_empty;
	seep_tls.state = TLS_LIVE;
}

struct mcache *heap_thread_start(void)
{
	struct mcache *mc;

	if (seep_tls.state == TLS_LIVE)
		return mcache_self();
	if (seep_tls.state == TLS_DYING || seep_tls.in_start)
		return NULL;
	seep_tls.in_start = true; /* a signal handler may allocate in here */
	mc = mcache_new();
	if (mc)
		adopt(mc);
	seep_tls.in_start = false;
	if (mc && heap_hooks.thread_start)
		heap_hooks.thread_start();
	if (!atomic_load_relaxed(&heap.used))
		atomic_store_relaxed(&heap.used, true);
	return mc;
}

void heap_thread_exit(void)
{
	struct mcache *mc = mcache_self();

	if (seep_tls.state != TLS_LIVE) {
		seep_tls.state = TLS_DYING;
		return;
	}
	seep_tls.state = TLS_DYING;
	seep_tls.cache_offset = 0;
	mcache_release(mc);
}

/* The caller may be a signal handler that interrupted a flush, halfway. */
void heap_process_exit(void)
{
	if (seep_tls.state == TLS_LIVE && !lock_any_held())
		mcache_refuse_misused(mcache_self());
}

uintptr_t heap_thread_push(void)
{
	uintptr_t saved = seep_tls.cache_offset;
	struct mcache *mc, *old = mcache_self();

	if (seep_tls.state != TLS_LIVE)
		return 0;
	mc = mcache_new();
	if (!mc)
		return 0;
	mc->budget = old->budget;
	mc->later = 0;
	mc->below = old;
	seep_tls.cache_offset = (uintptr_t)mc - (uintptr_t)&mcache_empty;
	return saved;
}

void heap_thread_pop(uintptr_t saved)
{
	struct mcache *mc = mcache_self();

	if (saved == 0 || seep_tls.state != TLS_LIVE)
		return;
	seep_tls.cache_offset = saved;
	mc->below = NULL; /* which is used again */
	mcache_release(mc);
}

/* The fallback is nobody's in particular: it samples everything (exact mode) or nothing.
 */
static int64_t fallback_budget(void)
{
	int64_t first = heap_hooks.first_budget ? heap_hooks.first_budget() : 0;

	return first < 0 ? first : INT64_MAX / 2;
}

/* The mcache to work with: the thread's own, else the fallback, locked. NULL: no memory.
 */
static COLD NO_LOCK_CHECK struct mcache *borrow_fallback(bool *out_locked)
{
	struct mcache *mc = heap_thread_start();

	if (mc)
		return mc;
	lock_acquire(&heap.lock);
	if (!heap.fallback) {
		heap.fallback = mcache_new();
		if (heap.fallback)
			heap.fallback->budget = fallback_budget();
	}
	if (!heap.fallback)
		lock_release(&heap.lock);
	else
		*out_locked = true;
	return heap.fallback;
}

static inline struct mcache *borrow(bool *out_locked)
{
	*out_locked = false;
	return LIKELY(seep_tls.state == TLS_LIVE) ? mcache_self()
						  : borrow_fallback(out_locked);
}

static NO_LOCK_CHECK void give_back(bool locked)
{
	if (locked)
		lock_release(&heap.lock);
}

bool heap_was_used(void)
{
	return atomic_load_relaxed(&heap.used);
}

/* ---- sampling ---- */

void heap_set_budget(int64_t bytes)
{
	if (seep_tls.state != TLS_LIVE)
		return;
	mcache_self()->later = 0;
	mcache_self()->budget = bytes;
}

#define REDRAW_LOOKS	2
#define REDRAW_PAUSE_NS 1000000u

static void redraw(int64_t (*draw)(void), int64_t limit)
{
	lock_acquire(&heap.lock);
	lock_acquire(&mcache_lock);
	for (struct mcache *mc = mcache_list(); mc; mc = mc->next) {
		atomic_store_relaxed(&mc->later, (int64_t)0);
		if (mc == heap.fallback)
			mc->budget = fallback_budget();
		else if (atomic_load_relaxed(&mc->budget) > limit)
			atomic_store_relaxed(&mc->budget, draw());
	}
	lock_release(&mcache_lock);
	lock_release(&heap.lock);
}

/* A thread that is just charging its budget may overwrite ours: hence the second look. */
void heap_redraw_budgets(int64_t (*draw)(void), int64_t limit)
{
	static const uint32_t never;

	redraw(draw, INT64_MIN);
	for (int look = 1; look < REDRAW_LOOKS; look++) {
		os_futex_wait(&never, 0, REDRAW_PAUSE_NS);
		redraw(draw, limit);
	}
}

/* The process has not begun to profile. If it does now, the object is what the fresh
 * budget is charged with first. */
static COLD void begin_with(bool (*begin)(void), void *p, size_t size)
{
	if (!begin())
		return; /* it tries again with the next */
	if (!heap_hooks.sample_malloc)
		heap_set_budget(TICK_BYTES);
	else if (seep_tls.state == TLS_LIVE && heap_charge(mcache_self(), size))
		heap_hooks.sample_malloc(p, size);
}

ALWAYS_INLINE void *sampled(void *p, size_t size, bool due)
{
	bool (*begin)(void);

	if (due && LIKELY(p != NULL)) {
		if (LIKELY(heap_hooks.sample_malloc != NULL)) {
			heap_hooks.sample_malloc(p, size);
		} else {
			begin = atomic_load_acquire(&heap_begin);
			if (begin) {
				begin_with(begin, p, size);
				return p;
			}
			heap_set_budget(TICK_BYTES);
		}
		/* A program may need nothing but its mcache for a long time. */
		if (mcache_self()->budget >= 0 && LIKELY(seep_tls.state == TLS_LIVE))
			mcache_tick_sample(mcache_self());
	}
	return p;
}

void *heap_sampled(void *p, size_t size, bool due)
{
	return sampled(p, size, due);
}

/* ---- malloc ---- */

size_t heap_padding;
uint32_t heap_neighbours = 4;

static inline void *pop(struct mcache *mc, unsigned c)
{
	if (!mc->top[c][-1] && UNLIKELY(!mcache_refill(mc, c)))
		return mcache_take_one(mc, c);
	return *--mc->top[c];
}

/* One slot of class c for size bytes asked. */
ALWAYS_INLINE void *malloc_class(unsigned c, size_t size)
{
	bool locked, due;
	struct mcache *mc = borrow(&locked);
	void *p;

	if (!mc)
		return NULL;
	due = locked ? mc->budget < 0 : heap_charge(mc, size);
	p = pop(mc, c);
	give_back(locked);
	return sampled(p, size, due);
}

void *heap_malloc_class(unsigned c, size_t size)
{
	return malloc_class(c, size);
}

void *heap_sample_large(struct mspan *s, size_t size)
{
	uint64_t (*hook)(struct mspan * s, size_t size) = heap_hooks.sample_large;
	void *p = (void *)s->base;

	FORGET(p); /* where a leak check finds it meanwhile */
	if (UNLIKELY(mcache_self()->later != 0) && mcache_take_back(mcache_self()))
		return p;
	if (UNLIKELY(!hook))
		return sampled(p, size, true);
	mcache_tick_at(mcache_self(), hook(s, size));
	return p;
}

static unsigned class_for(size_t align, size_t size)
{
	if (size > SIZECLASS_MAX_SIZE - heap_padding)
		return 0;
	return align <= 16 ? sizeclass_of(size + heap_padding)
			   : sizeclass_of_aligned(size + heap_padding, align);
}

size_t heap_usable_size_of(size_t align, size_t size)
{
	const unsigned c = class_for(align, size);

	if (c != 0)
		return sizeclass_info[c].slot_size;
	return size > PTRDIFF_MAX || align > PTRDIFF_MAX
		       ? 0
		       : align_up(size + heap_padding, PAGE_SIZE);
}

static NOINLINE void *malloc_large(size_t size, size_t align)
{
	bool due = heap_charge_own(size);
	void *p = large_malloc(size, align);

	return due && p ? heap_sample_large(arena_span_of(p), size) : p;
}

void *heap_malloc_large_slow(size_t size)
{
	struct mcache *mc = mcache_self();
	size_t npages = (size + heap_padding + PAGE_SIZE - 1) >> PAGE_SHIFT;
	struct mspan *s = NULL;

	lock_assert_none();
	if (size <= LCACHE_PAGES << PAGE_SHIFT)
		s = lcache_take_slow(&mc->large, npages);
	return s ? mcache_give_large(mc, s, size) : malloc_large(size, 1);
}

static NOINLINE void *malloc_any(size_t size)
{
	if (size > SIZECLASS_MAX_SIZE - heap_padding)
		return heap_malloc_large(size);
	return malloc_class(sizeclass_of(size + heap_padding), size);
}

/* The short way for what most calls want in sampled mode, a slot to be sampled, and in
 * exact mode: the fast path would have found one but for the budget. */
void *heap_malloc_slow(size_t size)
{
	struct mcache *mc = mcache_self();
	void **top, *p;
	unsigned c;

	lock_assert_none();
	if (mc->budget >= 0 || UNLIKELY(mc->later != 0) || seep_tls.state != TLS_LIVE ||
	    UNLIKELY(size > SIZECLASS_MAX_SIZE - heap_padding))
		return malloc_any(size);
	c = sizeclass_of(size + heap_padding);
	top = mc->top[c];
	p = top[-1];
	if (UNLIKELY(!p) || UNLIKELY(!heap_hooks.sample_malloc))
		return malloc_any(size);
	mc->top[c] = top - 1;
	heap_hooks.sample_malloc(p, size);
	if (mc->budget >= 0) /* see sampled() */
		mcache_tick_sample(mc);
	else
		mcache_tick_call(mc);
	return p;
}

/* p is a fresh object of the calling thread. */
static bool may_hold_something(const void *p, size_t size)
{
	const struct mspan *s;

	if (size <= SIZECLASS_MAX_SIZE - heap_padding)
		return true;
	s = heap_find((uintptr_t)p, NULL);
	return !s || s->slot_size > 0 || s->needs_zero;
}

static bool is_zero(const char *page)
{
	const uint64_t *words = (const uint64_t *)(uintptr_t)page;
	uint64_t any = 0;

	for (size_t i = 0; i < OS_PAGE / sizeof(*words) && any == 0; i += 8)
		any = words[i] | words[i + 1] | words[i + 2] | words[i + 3] |
		      words[i + 4] | words[i + 5] | words[i + 6] | words[i + 7];
	return any == 0;
}

/* Where much was only read, the system's page of zeroes is seen, which stays. */
static void clear_pages(char *p, size_t size)
{
	if (!is_zero(p)) {
		memset(p, 0, size);
		return;
	}
	for (size_t at = OS_PAGE; at < size; at += OS_PAGE)
		if (!is_zero(p + at))
			memset(p + at, 0, OS_PAGE);
}

/* OS pages of size bytes at p that have memory behind them; all of them, if that is not
 * known. */
static size_t resident_pages(char *p, size_t size)
{
	unsigned char in[CLEAR_PART / OS_PAGE];
	size_t npages = size / OS_PAGE, count = 0;

	if (!os_resident(p, size, in))
		return npages;
	for (size_t i = 0; i < npages; i++)
		count += in[i] & 1;
	return count;
}

/* Of a large object that was used before mostly nobody knows which pages hold memory. A
 * table that is hardly filled must not become resident by being cleared again and again:
 * parts with little memory behind them are given back instead. */
static void clear_part(char *p, size_t size)
{
	size_t first = size < CLEAR_LOOK ? size : CLEAR_LOOK;

	if (resident_pages(p, first) == first / OS_PAGE ||
	    resident_pages(p, size) > size / OS_PAGE / CLEAR_SHARE || !os_purge(p, size))
		clear_pages(p, size);
}

static void clear(char *p, size_t size)
{
	if (size < CLEAR_PARTS) {
		memset(p, 0, size);
		return;
	}
	for (size_t at = 0; at < size; at += CLEAR_PART)
		clear_part(p + at, size - at < CLEAR_PART ? size - at : CLEAR_PART);
}

void *heap_calloc_slow(size_t size)
{
	void *p = heap_malloc_slow(size);

	if (p && may_hold_something(p, size))
		clear(p, heap_usable_size(p));
	return p;
}

void *heap_calloc(size_t count, size_t size)
{
	size_t bytes;

	return __builtin_mul_overflow(count, size, &bytes) ? NULL
							   : heap_calloc_slow(bytes);
}

static void *memalign_slow(size_t align, size_t size)
{
	unsigned c;

	lock_assert_none();
	if (align <= 16)
		return heap_malloc_slow(size);
	c = class_for(align, size);
	if (c != 0)
		return malloc_class(c, size);
	return malloc_large(size, align);
}

void *heap_memalign_slow(size_t align, size_t size)
{
	void *p;

	mcache_note_argument(align);
	p = memalign_slow(align, size);
	mcache_note_argument(0);
	return p;
}

/* ---- all locks ---- */

NO_LOCK_CHECK void heap_lock_all(void)
{
	lock_acquire(&heap.lock);
	lock_acquire(&mcache_lock);
	mcentral_lock_all();
	lock_acquire(&mheap_lock);
}

NO_LOCK_CHECK void heap_unlock_all(void)
{
	lock_release(&mheap_lock);
	mcentral_unlock_all();
	lock_release(&mcache_lock);
	lock_release(&heap.lock);
}

void heap_fork_prepare(void)
{
	heap_lock_all();
}

void heap_fork_done(bool child)
{
	struct mcache *own;

	if (!child) {
		heap_unlock_all();
		return;
	}
	lock_reset(&mheap_lock);
	mcentral_reset_locks();
	lock_reset(&mcache_lock);
	lock_reset(&heap.lock);
	lock_forget_held();
	own = mcache_self();
	heap.fallback = NULL; /* its holder may have been in the middle of it */
	mcache_reap_others(own);
}

bool heap_trim(void)
{
	bool locked;
	struct mcache *mc = borrow(&locked);

	if (mc) {
		mcache_empty_out(mc);
		give_back(locked);
	}
	mcentral_trim();
	if (heap_hooks.trim)
		heap_hooks.trim(); /* what spans had that went */
	return mheap_trim() > 0;
}

void heap_limit_space(size_t limit)
{
	lock_acquire(&mheap_lock);
	arena_set_limit(limit);
	lock_release(&mheap_lock);
	meta_limit_space(limit);
}

void *heap_alloc_unseen(void)
{
	struct mspan *s = mheap_alloc_unseen();

	if (!s)
		return NULL;
	s->size_asked = PAGE_SIZE;
	return (void *)s->base;
}
