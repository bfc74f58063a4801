/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run: what is known of the pages of a free run, or of one that is being cut or joined:
 * of the struct mspan only base, npages, ndirty, ntail are read and written. Nothing is
 * looked up, no lock is taken; the run is the caller's.
 *
 *   base                                      base + (npages << PAGE_SHIFT)
 *   | up to ndirty pages hold something, in any places | ntail are zero |
 *
 * ndirty is an upper bound; 0 means that every byte is zero. Of a run that holds
 * something ntail is what has been given back of it in parts: clean neighbours that it
 * takes in are not told apart from the rest, since as dirty as that they serve the next
 * large object, before what its thread keeps has to be given up.
 */
#ifndef PRELOAD_HEAP_RUN_H
#define PRELOAD_HEAP_RUN_H

#include "preload/heap/mspan.h"

/* npages is final; the other two may be too many for it. */
static inline void run_set_dirty(struct mspan *s, size_t ndirty, size_t ntail)
{
	s->ntail = ntail < s->npages ? ntail : s->npages;
	s->ndirty = ndirty < s->npages - s->ntail ? ndirty : s->npages - s->ntail;
	if (s->ndirty == 0)
		s->ntail = 0;
}

static inline void run_set_fresh(struct mspan *s, uintptr_t base, size_t npages)
{
	s->base = base;
	s->npages = npages;
	s->ndirty = s->ntail = 0;
}

/* All of it has been in use. */
static inline void run_soil(struct mspan *s)
{
	s->ndirty = s->npages;
	s->ntail = 0;
}

/* s takes in other, which lies just before or behind it. */
static inline void run_join(struct mspan *s, const struct mspan *other)
{
	if (other->base > s->base)
		s->ntail = other->ntail;
	else
		s->base = other->base;
	s->npages += other->npages;
	run_set_dirty(s, s->ndirty + other->ndirty, s->ntail);
}

/* The first npages of s become front. */
static inline void run_cut_front(struct mspan *s, struct mspan *front, size_t npages)
{
	size_t rest = s->npages - npages;

	front->base = s->base;
	front->npages = npages;
	run_set_dirty(front, s->ndirty, s->ntail > rest ? s->ntail - rest : 0);
	s->base += npages << PAGE_SHIFT;
	s->npages = rest;
	run_set_dirty(s, s->ndirty, s->ntail);
}

/* All but the first npages of s become back. */
static inline void run_cut_back(struct mspan *s, struct mspan *back, size_t npages)
{
	back->base = s->base;
	back->npages = s->npages;
	back->ndirty = s->ndirty;
	back->ntail = s->ntail;
	run_cut_front(back, s, npages);
}

/* The last npages before its zero ones have been given back. */
static inline void run_clean(struct mspan *s, size_t npages)
{
	run_set_dirty(s, s->ndirty, s->ntail + npages);
}

#endif
