/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_realloc: realloc and malloc_usable_size, which ask for an object that is there.
 *
 * An object that becomes smaller may stay where it is when there is no memory to move it.
 */
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/large.h"
#include "preload/heap/mcache.h"
#include "preload/heap/sizeclass.h"

/* Would an object of size bytes stay where it is? Slots are kept as long as at least half
 * of them is used, so that small back and forth costs nothing. */
static bool stays(const struct mspan *s, size_t size)
{
	return size <= s->slot_size - heap_padding &&
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

	if (size <= old_bytes || room - heap_padding <= size || room > SIZECLASS_MAX_SIZE)
		return heap_malloc(size);
	c = sizeclass_of(room);
	p = LIKELY(seep_tls.state == TLS_LIVE) ? mcache_pop(mc, c, size) : NULL;
	return LIKELY(p != NULL) ? p : heap_malloc_class(c, size);
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

/* Names p when it is one of the two slots of its class that were freed last, or any of
 * them in youth. */
ALWAYS_INLINE void refuse_cached(const struct mspan *s, const void *p, const char *what)
{
	void **top = mcache_self()->top[s->sizeclass];

	if (UNLIKELY(top[-1] == p) || UNLIKELY(top[-2] == p) ||
	    (UNLIKELY(heap_is_young()) && s->sizeclass != 0 &&
	     heap_is_cached(s->sizeclass, p)))
		freed_block(s, p, what);
}

/* FAST. The word of heap_hooks.mark_size. */
ALWAYS_INLINE uint32_t mark_of(const struct mspan *s, uint32_t index)
{
	const char *marks = atomic_load_acquire(&s->samples);
	const size_t size = atomic_load_relaxed(&heap_hooks.mark_size);

	if (UNLIKELY(!marks) || UNLIKELY(size == 0))
		return 0;
	return atomic_load_relaxed((const uint32_t *)(const void *)(marks +
								    heap_hooks.mark_head +
								    index * size));
}

/* The small slot that begins at p; NULL: none does, or it is not known. */
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
	if (UNLIKELY(index * s->slot_size != at) || UNLIKELY(index >= s->nslots))
		return NULL; /* not in s, too: the entry may be stale */
	*out_index = (uint32_t)index;
	return s;
}

ALWAYS_INLINE bool is_given_out(const struct mspan *s, uint32_t index)
{
	return atomic_load_relaxed(&s->alloc_bits[index / 64]) >> (index % 64) & 1;
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

	if ((UNLIKELY(!s) || UNLIKELY(!is_given_out(s, *out_index))) &&
	    !(s = object_slow(p, out_index, what)))
		return NULL;
	refuse_cached(s, p, what);
	if (UNLIKELY(mark_of(s, *out_index) > INT32_MAX))
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
	return heap_sampled(p, size, heap_charge(mc, size - old_size));
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
	return heap_sampled(fresh, size, heap_charge_own(size));
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

/* Is p, slot index of s, an object in a span with nothing sampled? False: it is not
 * known.
 */
ALWAYS_INLINE bool is_surely_plain(const struct mspan *s, uint32_t index, const void *p)
{
	void **top = mcache_self()->top[s->sizeclass];

	return !s->samples && is_given_out(s, index) && LIKELY(top[-1] != p) &&
	       LIKELY(top[-2] != p) && LIKELY(!heap_is_young());
}

static NOINLINE size_t usable_size_any(const void *p)
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

/* Some programs ask for every object that they make and free: where nothing is wrong, no
 * frame of its own is needed. */
size_t heap_usable_size(const void *p)
{
	uint32_t index;
	const struct mspan *s = slot_at(p, &index);

	if (UNLIKELY(!s) || (mark_of(s, index) - 1 >= INT32_MAX &&
			     UNLIKELY(!is_surely_plain(s, index, p))))
		return usable_size_any(p);
	return s->slot_size;
}
