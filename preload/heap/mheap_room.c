/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mheap_room: address space goes back. The first arena is for good; further ones are made
 * where a limit (RLIMIT_AS) keeps it small, and count against that limit: for a larger
 * one of ours, for what the program maps, for threads' stacks.
 */
#include "preload/heap/freelist.h"
#include "preload/heap/heap.h"
#include "preload/heap/mheap.h"
#include "preload/heap/mheap_int.h"

/* The one run that all pages of a are in, if they are free. */
static struct mspan *whole_run(const struct arena *a)
{
	uintptr_t start = a->base + (a->first_page << PAGE_SHIFT);
	struct mspan *s = a->size > 0 ? mheap_free_run(a, start) : NULL;

	return s && s->base == start && s->npages == a->end_page - a->first_page ? s
										 : NULL;
}

static bool release(bool dirty)
{
	bool any = false;

	for (size_t i = 0; i < arena_count(); i++) {
		struct arena *a = arena_at(i);
		struct mspan *s = arena_is_first(a) ? NULL : whole_run(a);

		if (!s || (s->ndirty > 0 && !dirty))
			continue;
		mheap_forget_run_locked(s);
		arena_release(a);
		any = true;
	}
	return any;
}

bool mheap_release_arenas_locked(void)
{
	mheap_retire_victim_locked();
	return release(true);
}

void mheap_release_idle_locked(void)
{
	release(false);
}

bool heap_make_room(void)
{
	return arena_count() > 1 && heap_trim();
}
