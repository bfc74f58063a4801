/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mheap_int: what the parts of the page heap share: mheap.c, the lists' owner, and
 * mheap_room.c. All functions need the lock.
 */
#ifndef PRELOAD_HEAP_MHEAP_INT_H
#define PRELOAD_HEAP_MHEAP_INT_H

#include "preload/heap/arena.h"
#include "preload/heap/mspan.h"

/* The free run of the lists that addr, in a or just outside, lies in; NULL: none. */
static inline struct mspan *mheap_free_run(const struct arena *a, uintptr_t addr)
{
	struct mspan *s = arena_span(a, addr);

	if (!s || s->state != MSPAN_FREE)
		return NULL;
	if (addr < s->base || addr >= s->base + (s->npages << PAGE_SHIFT))
		return NULL;
	return s;
}

/* Is s, in no list, all that there is in an arena made for it? */
static inline bool mheap_is_single(const struct mspan *s)
{
	const struct arena *a = arena_of(s->base);

	return a->single && s->base == a->start &&
	       s->npages == a->end_page - a->first_page;
}

/* The victim becomes a free run like others. */
void mheap_retire_victim_locked(void);
/* Takes a run off the lists: its pages are no more. */
void mheap_forget_run_locked(struct mspan *s);

/* Gives up what is wholly free of the further arenas, which there are only where address
 * space is short. True: some were. */
bool mheap_release_arenas_locked(void);
/* The same of those that hold no memory any more: nobody has wanted them for a while. */
void mheap_release_idle_locked(void);

#endif
