/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap: the slow paths of malloc, calloc, realloc and memalign, and a thread's beginning
 * and end. The overview is in heap.h; free's slow path is in heap_free.c.
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
		mcache_refuse_doubles(mcache_self());
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
	if (seep_tls.state == TLS_LIVE)
		mcache_self()->budget = bytes;
}

#define REDRAW_LOOKS	2
#define REDRAW_PAUSE_NS 1000000u

static void redraw(int64_t (*draw)(void), int64_t limit)
{
	lock_acquire(&heap.lock);
	lock_acquire(&mcache_lock);
	for (struct mcache *mc = mcache_list(); mc; mc = mc->next) {
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

/* Charges size to the budget, unless it is spent already: then the fast path charged it.
 * True: sample. */
static inline bool charge(struct mcache *mc, size_t size)
{
	int64_t bytes = size < (size_t)(INT64_MAX / 4) ? (int64_t)size : INT64_MAX / 4;

	if (mc->budget >= 0)
		mc->budget -= bytes;
	return mc->budget < 0;
}

/* The same for an object that did not come through an mcache. */
static inline bool charge_own(size_t size)
{
	struct mcache *mc =
		LIKELY(seep_tls.state == TLS_LIVE) ? mcache_self() : heap_thread_start();

	return mc && charge(mc, size);
}

/* The process has not begun to profile. If it does now, the object is what the fresh
 * budget is charged with first. */
static COLD void begin_with(bool (*begin)(void), void *p, size_t size)
{
	if (!begin())
		return; /* it tries again with the next */
	if (!heap_hooks.sample_malloc)
		heap_set_budget(TICK_BYTES);
	else if (seep_tls.state == TLS_LIVE && charge(mcache_self(), size))
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
			mcache_tick(mcache_self());
	}
	return p;
}

/* ---- malloc ---- */

size_t heap_padding;
uint32_t heap_neighbours = 4;

static inline void *pop(struct mcache *mc, unsigned c)
{
	if (mc->top[c] == mc->base[c] && !mcache_refill(mc, c))
		return NULL;
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
	due = locked ? mc->budget < 0 : charge(mc, size);
	p = pop(mc, c);
	give_back(locked);
	return sampled(p, size, due);
}

void *heap_sample_large(struct mspan *s, size_t size)
{
	uint64_t (*hook)(struct mspan * s, size_t size) = heap_hooks.sample_large;

	if (UNLIKELY(!hook))
		return sampled((void *)s->base, size, true);
	mcache_tick_at(mcache_self(), hook(s, size));
	return (void *)s->base;
}

static NOINLINE void *malloc_large(size_t size, size_t align)
{
	bool due = charge_own(size);
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
	if (mc->budget >= 0 || seep_tls.state != TLS_LIVE ||
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
		mcache_tick(mc);
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

void *heap_calloc_slow(size_t size)
{
	void *p = heap_malloc_slow(size);

	if (p && may_hold_something(p, size))
		memset(p, 0, heap_usable_size(p));
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
	c = size <= SIZECLASS_MAX_SIZE ? sizeclass_of_aligned(size + heap_padding, align)
				       : 0;
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

/* ---- realloc ----
 *
 * An object that becomes smaller may stay where it is when there is no memory to move it.
 */

/* Would an object of size bytes stay where it is? Slots are kept as long as at least half
 * of them is used, so that small back and forth costs nothing. */
static bool stays(const struct mspan *s, size_t size)
{
	return size + heap_padding <= s->slot_size &&
	       (size >= s->slot_size / 2 || sizeclass_of(size) == s->sizeclass);
}

static void *resized(struct mspan *s, uint32_t index, void *p, size_t size)
{
	if (s->samples && heap_hooks.sample_resize)
		heap_hooks.sample_resize(s, index, p, size);
	return p;
}

/* An object that is to grow probably grows again: its new slot is a quarter larger than
 * the old one, if that is small, so that many small steps are few copies. */
static void *malloc_to_grow(size_t old_bytes, size_t size)
{
	size_t room = old_bytes + old_bytes / 4;
	struct mcache *mc = mcache_self();
	unsigned c;
	void *p;

	if (size <= old_bytes || room <= size + heap_padding || room > SIZECLASS_MAX_SIZE)
		return heap_malloc(size);
	c = sizeclass_of(room);
	p = LIKELY(seep_tls.state == TLS_LIVE) ? mcache_pop(mc, c, size) : NULL;
	return LIKELY(p != NULL) ? p : malloc_class(c, size);
}

/* Slots are multiples of 16 bytes, so that much may be copied more than is asked for. */
#define COPY_INLINE 128 /* bytes; above, a call of memcpy is faster than a loop */

static inline void copy_slot(void *to, const void *from, size_t bytes)
{
	typedef long long sixteen __attribute__((vector_size(16), may_alias));
	const sixteen *in = from;
	sixteen *out = to, *end = out + (bytes + 15) / 16;

	if (bytes > COPY_INLINE) {
		memcpy(to, from, bytes);
		return;
	}
	do {
		*out++ = *in++;
		__asm__("" : "+r"(in)); /* or gcc makes it a call of memcpy */
	} while (out < end);
}

static NOINLINE void *realloc_by_copy(struct mspan *s, uint32_t index, void *p,
				      size_t size)
{
	size_t old_bytes = mspan_slot_bytes(s);
	void *fresh = malloc_to_grow(old_bytes, size);

	if (!fresh)
		return size <= old_bytes ? resized(s, index, p, size) : NULL;
	copy_slot(fresh, p, old_bytes < size ? old_bytes : size);
	heap_free(p);
	return fresh;
}

/* p is an allocated slot of a page with nothing sampled: its span; NULL: not, or unknown.
 * A page whose class byte is set has a span. */
static struct mspan *plain_span(const void *p)
{
	uintptr_t offset = (uintptr_t)p - arena_fast.base;
	struct mspan *s;
	uint64_t at, index;

	if (offset >= arena_fast.size ||
	    ((const uint8_t *)arena_fast.base)[offset >> PAGE_SHIFT] == 0)
		return NULL;
	s = atomic_load_relaxed(&arena_first.spans[offset >> PAGE_SHIFT]);
	at = (uintptr_t)p - s->base;
	index = at * s->magic >> MSPAN_MAGIC_SHIFT;
	if (index * s->slot_size != at ||
	    !(atomic_load_relaxed(&s->alloc_bits[index / 64]) >> (index % 64) & 1))
		return NULL;
	return s;
}

static COLD NOINLINE void freed_block(const struct mspan *s, const void *p,
				      const char *what)
{
	heap_fatal(p, "%s of freed block %p (size class %u)", what, p, s->sizeclass);
}

/* Names p when it is one of the two slots of its class that were freed last. */
ALWAYS_INLINE void refuse_cached(const struct mspan *s, const void *p, const char *what)
{
	void **top = mcache_self()->top[s->sizeclass];

	if (UNLIKELY(top[-1] == p) || UNLIKELY(top[-2] == p))
		freed_block(s, p, what);
}

/* The small allocated slot that begins at p; NULL: none does, or it is not known. */
ALWAYS_INLINE struct mspan *slot_at(const void *p, uint32_t *out_index)
{
	const struct arena *a = &arena_first;
	size_t page = ((uintptr_t)p - arena_fast.base) >> PAGE_SHIFT;
	struct mspan *s;
	uint64_t at, index;

	if (UNLIKELY(page >= atomic_load_relaxed(&a->end_page)) ||
	    UNLIKELY(page < a->first_page))
		return NULL;
	s = atomic_load_acquire(&a->spans[page]);
	if (UNLIKELY(!s) || UNLIKELY(atomic_load_acquire(&s->state) != MSPAN_SMALL))
		return NULL;
	at = (uintptr_t)p - s->base;
	index = at * s->magic >> MSPAN_MAGIC_SHIFT;
	if (UNLIKELY(at >= s->npages << PAGE_SHIFT) ||
	    UNLIKELY(index * s->slot_size != at) || UNLIKELY(index >= s->nslots) ||
	    UNLIKELY(!(atomic_load_relaxed(&s->alloc_bits[index / 64]) >> (index % 64) &
		       1)))
		return NULL;
	*out_index = (uint32_t)index;
	return s;
}

static NOINLINE struct mspan *object_slow(const void *p, uint32_t *out_index,
					  const char *what)
{
	struct mspan *s = heap_find((uintptr_t)p, out_index);

	if (s)
		heap_check_object(s, *out_index, p, what);
	else if (arena_of((uintptr_t)p))
		heap_fatal(p, "%s of freed block %p", what, p);
	return s;
}

/* The object of p, which must be one. NULL: not ours. */
ALWAYS_INLINE struct mspan *object_of(const void *p, uint32_t *out_index,
				      const char *what)
{
	struct mspan *s = slot_at(p, out_index);

	if (UNLIKELY(!s) && !(s = object_slow(p, out_index, what)))
		return NULL;
	refuse_cached(s, p, what);
	if (s->samples && heap_hooks.is_freed && heap_hooks.is_freed(s, *out_index))
		freed_block(s, p, what);
	return s;
}

/* An object that was not sampled is charged with what it grows by: so it is sampled as
 * often as one that was made in this size. In exact mode the budget is spent. */
static void *grown(void *p, size_t old_size, size_t size)
{
	struct mcache *mc = mcache_self();

	if (size <= old_size || mc->budget < 0 || seep_tls.state != TLS_LIVE)
		return p;
	return sampled(p, size, charge(mc, size - old_size));
}

static void *realloc_large(struct mspan *s, void *p, size_t size)
{
	void *fresh;
	size_t old_asked = s->size_asked;

	if (size <= SIZECLASS_MAX_SIZE)
		return realloc_by_copy(s, 0, p, size);
	fresh = large_realloc(s, size);
	if (!fresh)
		return size <= old_asked ? resized(s, 0, p, size) : NULL;
	if (fresh == p) {
		s->size_asked = old_asked; /* the hook compares the two */
		resized(s, 0, p, size);
		s->size_asked = size;
		return s->samples ? p : grown(p, old_asked, size);
	}
	heap_free_slow(p);
	return sampled(fresh, size, charge_own(size));
}

static NOINLINE void *realloc_any(void *p, size_t size)
{
	uint32_t index;
	struct mspan *s = object_of(p, &index, "realloc");

	if (!s) {
		if (!heap_foreign.realloc)
			heap_fatal(p, "invalid realloc of %p: no block of ours", p);
		return heap_foreign.realloc(p, size);
	}
	if (s->slot_size == 0)
		return realloc_large(s, p, size);
	if (stays(s, size))
		return resized(s, index, p, size);
	return realloc_by_copy(s, index, p, size);
}

/* The quick way needs no frame of its own. */
void *heap_realloc(void *p, size_t size)
{
	struct mspan *s = plain_span(p);

	lock_assert_none();
	if (UNLIKELY(!s))
		return realloc_any(p, size);
	refuse_cached(s, p, "realloc");
	if (stays(s, size))
		return p;
	return realloc_by_copy(s, mspan_index_of(s, (uintptr_t)p), p, size);
}

size_t heap_usable_size(const void *p)
{
	uint32_t index;
	struct mspan *s;

	if (!p)
		return 0;
	s = object_of(p, &index, "malloc_usable_size");
	if (s)
		return mspan_slot_bytes(s);
	return heap_foreign.usable_size ? heap_foreign.usable_size(p) : 0;
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
