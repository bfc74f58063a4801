/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_free: free's slow path: full arrays, large objects, pages with sampled objects,
 * foreign pointers, and mistakes of the program.
 */
#include <stdlib.h>

#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/base/lock.h"
#include "preload/heap/heap.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/lcache.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/mheap.h"

static struct {
	uint64_t nforeign; /* atomic */
	uint32_t nyoung;   /* times heap_is_cached() was asked; atomic */
} frees;

void heap_fatal(const void *p, const char *format, ...)
{
	uint32_t index = 0;
	const struct mspan *s;
	va_list ap;

	va_start(ap, format);
	fatal_line(format, ap);
	va_end(ap);
	s = heap_find((uintptr_t)p, &index);
	if (heap_hooks.misuse)
		heap_hooks.misuse(s, index, p);
	abort();
}

/* To a program, or into a cache. */
static inline bool is_given_out(const struct mspan *s, uint32_t index)
{
	return atomic_load_relaxed(&s->alloc_bits[index / 64]) >> (index % 64) & 1;
}

void heap_check_object(const struct mspan *s, uint32_t index, const void *p,
		       const char *what)
{
	if (s->slot_size == 0) {
		if ((uintptr_t)p != s->base)
			heap_fatal(p, "invalid %s of %p: inside a large object", what, p);
		return;
	}
	if (index >= s->nslots || mspan_slot(s, index) != (uintptr_t)p)
		heap_fatal(p, "invalid %s of %p: inside an object (size class %u)", what,
			   p, s->sizeclass);
	if (!is_given_out(s, index))
		heap_fatal(p, "%s of freed block %p (size class %u)", what, p,
			   s->sizeclass);
}

/* A thread without an mcache gives straight to mcentral. */
static void free_to_central(unsigned c, void *p)
{
	mcentral_lock(c);
	mcentral_give_locked(c, &p, 1, false);
	mcentral_unlock(c);
}

/* FAST. The calling thread's mcache, which mostly is there. */
static inline struct mcache *own_mcache(void)
{
	return LIKELY(seep_tls.state == TLS_LIVE) ? mcache_self() : heap_thread_start();
}

static COLD void allow_fast(void)
{
	lock_acquire(&mheap_lock);
	arena_allow_fast();
	lock_release(&mheap_lock);
}

/* Is this one of the first frees? */
static bool grow_older(void)
{
	uint32_t n = atomic_add_relaxed(&frees.nyoung, 1u);

	if (n == HEAP_YOUTH)
		allow_fast();
	return n <= HEAP_YOUTH;
}

bool heap_is_cached(unsigned c, const void *p)
{
	return grow_older() && (mcache_any_holds(c, p) || mcentral_holds(c, p));
}

COLD void heap_check_slot(unsigned c, const void *p)
{
	const struct mspan *s = arena_span_of(p);
	uint32_t index = s ? mspan_index_of(s, (uintptr_t)p) : 0;

	if (!s || index >= s->nslots || mspan_slot(s, index) != (uintptr_t)p)
		heap_fatal(p, "invalid free of %p: inside an object (size class %u)", p,
			   c);
	if (!is_given_out(s, index))
		heap_fatal(p, "double free of %p (size class %u)", p, c);
}

/* Dies with a message when p, in a page of class c, is known to be no object. */
static COLD void look_closely(unsigned c, const void *p)
{
	heap_check_slot(c, p);
	if (heap_is_cached(c, p))
		heap_fatal(p, "double free of %p (size class %u)", p, c);
}

static NOINLINE void push(unsigned c, void *p)
{
	struct mcache *mc = own_mcache();
	void **top;

	if (UNLIKELY(heap_is_young()))
		look_closely(c, p);
	if (UNLIKELY(!mc)) {
		free_to_central(c, p);
		return;
	}
	top = mc->top[c];
	if (UNLIKELY(top[-1] == p) || UNLIKELY(top[-2] == p))
		heap_fatal(p, "double free of %p (size class %u)", p, c);
	if (UNLIKELY(top == mc->limit[c])) {
		if (mcache_open(mc, c, p))
			return;
		if (UNLIKELY(!mcache_flush(mc, c, p)))
			return;
		top = mc->top[c];
	}
	*top = p;
	atomic_store_release(&mc->top[c], top + 1);
}

/* The same; mostly there is room, as on the fast path. */
ALWAYS_INLINE void push_fast(unsigned c, void *p)
{
	struct mcache *mc = mcache_self();
	void **top = mc->top[c];

	if (UNLIKELY(top == mc->limit[c]) || UNLIKELY(top[-1] == p) ||
	    UNLIKELY(top[-2] == p)) {
		push(c, p);
		return;
	}
	*top = p;
	mc->top[c] = top + 1;
}

/* p is slot index of s, by its address. */
ALWAYS_INLINE void free_slot(struct mspan *s, uint32_t index, void *p)
{
	if (UNLIKELY(!is_given_out(s, index)))
		heap_fatal(p, "double free of %p (size class %u)", p, s->sizeclass);
	if (atomic_load_acquire(&s->samples) && heap_hooks.sample_free &&
	    UNLIKELY(!heap_hooks.sample_free(s, index, p)))
		heap_fatal(p, "double free of %p (size class %u)", p, s->sizeclass);
	push_fast(s->sizeclass, p);
}

static void free_small(struct mspan *s, uint32_t index, void *p)
{
	if (mspan_slot(s, index) != (uintptr_t)p)
		heap_fatal(p, "invalid free of %p: inside an object (size class %u)", p,
			   s->sizeclass);
	free_slot(s, index, p);
}

static NOINLINE void keep_large_slow(struct mspan *s)
{
	struct mcache *mc;

	/* What follows may take a while, and nobody has the address any more. */
	mspan_set_live(s, false);
	mc = own_mcache();
	lcache_free(mc ? &mc->large : &mcache_empty.large, s);
}

ALWAYS_INLINE void keep_large(struct mspan *s)
{
	if (UNLIKELY(!lcache_put_fast(&mcache_self()->large, s)))
		keep_large_slow(s);
}

static NOINLINE void free_sampled_large(struct mspan *s)
{
	void (*hook)(struct mspan * s) = heap_hooks.free_large;
	const void *p = (void *)s->base;

	FORGET(p); /* it is an object still, that nobody else knows */
	if (LIKELY(hook != NULL)) {
		hook(s);
		KEEP(p);
		keep_large(s);
		return;
	}
	if (heap_hooks.sample_free)
		heap_hooks.sample_free(s, 0, (void *)s->base);
	if (heap_hooks.release_samples)
		heap_hooks.release_samples(s);
	keep_large(s);
}

/* The live object of s. */
ALWAYS_INLINE void free_large(struct mspan *s)
{
	if (s->samples)
		free_sampled_large(s);
	else
		keep_large(s);
}

static COLD void free_unknown(const struct arena *a, void *p)
{
	const struct mspan *s = arena_span(a, (uintptr_t)p);

	if (s && (s->state == MSPAN_FREE || s->state == MSPAN_VICTIM ||
		  s->state == MSPAN_LARGE))
		heap_fatal(p, "double free of %p (its pages are free)", p);
	heap_fatal(p, "invalid free of %p: no object is there", p);
}

static COLD void free_foreign(void *p)
{
	atomic_add_relaxed(&frees.nforeign, 1u);
	if (heap_foreign.free)
		heap_foreign.free(p);
}

/* Class byte 0 and no small object starts at p: a large object, or a mistake. */
static NOINLINE void free_odd(const struct arena *a, void *p)
{
	uint32_t index;
	struct mspan *s = heap_find((uintptr_t)p, &index);

	if (!s)
		free_unknown(a, p);
	else if (s->state == MSPAN_LARGE)
		heap_fatal(p, "invalid free of %p: inside a large object", p);
	else
		free_small(s, index, p);
}

/* p is no large object's beginning; s is what its page points to. */
static NOINLINE void free_in_span(const struct arena *a, struct mspan *s, void *p)
{
	uintptr_t offset = (uintptr_t)p - s->base;
	uint64_t index = offset * s->magic >> MSPAN_MAGIC_SHIFT;

	if (UNLIKELY(s->state != MSPAN_SMALL) ||
	    UNLIKELY(index * s->slot_size != offset) || UNLIKELY(index >= s->nslots))
		free_odd(a, p);
	else
		free_slot(s, (uint32_t)index, p);
}

/* The class byte of p's page, in a, which points to s, is 0, or p no multiple of 16. */
ALWAYS_INLINE void free_unclassed(const struct arena *a, struct mspan *s, void *p)
{
	if (s->state == MSPAN_LARGE && LIKELY(s->base == (uintptr_t)p) &&
	    LIKELY(mspan_is_live(s)))
		free_large(s);
	else /* mostly a small object beside a sampled one, or in exact mode */
		free_in_span(a, s, p);
}

/* In exact mode the fast path would be of no use, and takes a little longer. */
static NOINLINE void free_counted_large(const struct arena *a, struct mspan *s, void *p)
{
	if (heap_is_young() && !mheap_has_slow_frees())
		grow_older();
	free_unclassed(a, s, p);
}

/* c is the class byte of p's page, in a, which points to s. */
ALWAYS_INLINE void free_in_page(const struct arena *a, unsigned c, struct mspan *s,
				void *p)
{
	if (c != 0 && LIKELY((uintptr_t)p % 16 == 0)) /* a full array, or no mcache */
		push(c, p);
	else if (UNLIKELY(!s))
		free_odd(a, p);
	else if (s->state == MSPAN_LARGE)
		free_counted_large(a, s, p);
	else
		free_in_span(a, s, p);
}

static NOINLINE void free_elsewhere(void *p)
{
	const struct arena *a = arena_of((uintptr_t)p);

	if (UNLIKELY(!a))
		free_foreign(p);
	else
		free_in_page(a, atomic_load_relaxed(arena_class(a, (uintptr_t)p)),
			     arena_span(a, (uintptr_t)p), p);
}

void heap_free_unclassed(void *p, size_t page)
{
	const struct arena *a = &arena_first;
	struct mspan *s;

	lock_assert_none();
	if (UNLIKELY(page >= atomic_load_relaxed(&a->end_page)) ||
	    UNLIKELY(!(s = atomic_load_acquire(&a->spans[page]))))
		free_elsewhere(p);
	else
		free_unclassed(a, s, p);
}

void heap_free_slow(void *p)
{
	size_t page = ((uintptr_t)p - arena_fast.base) >> PAGE_SHIFT;
	const struct arena *a = &arena_first;

	if (!p)
		return;
	lock_assert_none();
	if (LIKELY(page < atomic_load_relaxed(&a->end_page)) &&
	    LIKELY(page >= a->first_page))
		free_in_page(a, atomic_load_relaxed((uint8_t *)arena_fast.base + page),
			     atomic_load_acquire(&a->spans[page]), p);
	else
		free_elsewhere(p);
}

uint64_t heap_foreign_count(void)
{
	return atomic_load_relaxed(&frees.nforeign);
}
