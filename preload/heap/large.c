/* SPDX-License-Identifier: Apache-2.0 */
/*
 * large: see large.h.
 *
 * A large object that grows tries the free pages behind it first. One that must move and
 * is very big has its pages moved by the kernel instead of copied; each such move splits
 * a mapping, of which a process may have only some tens of thousands, so moves are
 * counted. A move is cheap only for huge pages that move whole: others are broken up, the
 * place left behind faults in again by small ones, and the new place keeps the old one's
 * advice. So what may be moved lies on a multiple of a huge page, and what is smaller is
 * copied.
 */
#include "preload/heap/large.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mheap.h"

#define MOVE_LEAST (32 * MIB) /* below, copying is cheaper */
#define HUGE_PAGE  (2 * MIB)
#define MOVES_MAX  8000 /* of the 65530 mappings that Linux allows by default */

static struct {
	uint32_t nmoves; /* atomic */
} large;

static size_t pages_of(size_t size)
{
	return (size + heap_padding + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

/* From the thread's lcache; NULL: there is none. */
static struct mspan *take_own(size_t npages, size_t align)
{
	struct lcache *own = &mcache_self()->large;
	struct mspan *s = NULL;

	if (npages <= LCACHE_PAGES && align <= PAGE_SIZE) {
		s = lcache_take_slow(own, npages);
		if (!s && lcache_fetch(own, npages)) {
			s = lcache_take(own, npages);
			if (!s)
				s = lcache_take_slow(own, npages);
		}
	}
	if (!s)
		return NULL;
	s->needs_zero = true;
	return s;
}

void *large_malloc(size_t size, size_t align)
{
	size_t npages = size ? pages_of(size) : 1;
	struct mspan *s;
	void *p;

	if (size > PTRDIFF_MAX || align > PTRDIFF_MAX)
		return NULL;
	s = take_own(npages, align);
	if (size >= MOVE_LEAST && align < HUGE_PAGE) /* so that huge pages move whole */
		s = mheap_alloc_large(npages, HUGE_PAGE);
	if (!s)
		s = mheap_alloc_large(npages, align);
	if (!s)
		return NULL;
	s->size_asked = size;
	p = (void *)s->base;
	FORGET(p); /* where a leak check finds it from now on */
	mspan_set_live(s, true);
	return p;
}

/* Moves or copies the bytes of from, size of them, to the fresh pages at to. */
static void move_bytes(void *to, const struct mspan *from, size_t size)
{
	size_t whole = align_down(size, OS_PAGE);

	if (size >= MOVE_LEAST && atomic_load_relaxed(&large.nmoves) < MOVES_MAX &&
	    os_move_pages((void *)from->base, to, whole)) {
		atomic_add_relaxed(&large.nmoves, 1u);
		memcpy((char *)to + whole, (char *)from->base + whole, size - whole);
		return;
	}
	memcpy(to, (const void *)from->base, size);
}

/* Room to grow into for an object that grows by realloc: an eighth more pages are asked
 * for and cut off again, so that they lie free behind it. */
static void *move_larger(struct mspan *s, size_t size)
{
	size_t old_bytes = s->npages << PAGE_SHIFT;
	size_t slack = pages_of(size) / 8;
	void *p = large_malloc(size + (slack << PAGE_SHIFT), PAGE_SIZE);
	struct mspan *to;

	if (!p)
		p = large_malloc(size, PAGE_SIZE);
	if (!p)
		return NULL;
	to = heap_find((uintptr_t)p, NULL);
	mheap_resize_large(to, pages_of(size));
	to->size_asked = size;
	move_bytes(p, s, old_bytes < size ? old_bytes : size);
	return p;
}

void *large_realloc(struct mspan *s, size_t size)
{
	void *p = (void *)s->base;
	size_t npages;

	FORGET(p); /* where a leak check finds it meanwhile */
	if (size > PTRDIFF_MAX)
		return NULL;
	npages = pages_of(size);
	/* Shrinking by less than an eighth keeps the pages, and so does growing. */
	if (npages <= s->npages &&
	    (s->npages - npages <= s->npages / 8 || size >= s->size_asked)) {
		s->size_asked = size;
		return p;
	}
	if ((npages > s->npages && lcache_extend(&mcache_self()->large, s, npages)) ||
	    mheap_resize_large(s, npages)) {
		s->size_asked = size;
		return p;
	}
	return move_larger(s, size);
}
