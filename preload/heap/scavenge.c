/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scavenge: the policy of scavenge.h.
 */
#include "preload/heap/scavenge.h"

#include "preload/base/os.h"
#include "preload/heap/freelist.h"
#include "preload/heap/mspan.h"

#define TICK_NS	     100000000u
#define SLOW_TICK_NS 1000000000u
#define TICK_PAGES   (16 * MIB >> PAGE_SHIFT)
#define KEEP_PAGES   (1 * MIB >> PAGE_SHIFT) /* too little to bother */

static struct {
	size_t least_dirty; /* since the last tick */
	size_t traffic;	    /* pages since the last tick */
	uint64_t last_tick_ns;
	uint64_t purged;
} scavenge;

void scavenge_note_locked(size_t npages)
{
	size_t dirty = freelist_dirty_pages();

	scavenge.traffic += npages;
	if (dirty < scavenge.least_dirty)
		scavenge.least_dirty = dirty;
}

/* The longest dirty run is taken out of the lists. The victim is the last to go, since it
 * is what comes and goes. NULL: nothing is dirty. */
static struct mspan *take_longest(bool *out_victim)
{
	struct mspan *s = freelist_longest_dirty();

	*out_victim = !s;
	if (s)
		freelist_remove(s);
	else if (freelist_victim() && freelist_victim()->ndirty > 0)
		s = freelist_take_victim();
	return s;
}

/* Purges the longest dirty runs until npages are given back; the count given back. */
static size_t purge(size_t npages)
{
	size_t done = 0;
	bool ok = true;

	while (ok && done < npages) {
		bool victim;
		struct mspan *s = take_longest(&victim);

		if (!s)
			break;
		/* forbidden (seccomp) or locked: they stay dirty */
		ok = os_purge((void *)s->base, s->npages << PAGE_SHIFT);
		if (ok) {
			done += s->ndirty;
			s->ndirty = 0;
		}
		if (victim)
			freelist_set_victim(s);
		else
			freelist_insert(s);
	}
	scavenge.purged += done;
	return done;
}

void scavenge_tick_locked(void)
{
	size_t idle = scavenge.least_dirty;
	uint64_t now = os_coarse_ns();
	uint64_t elapsed = now - scavenge.last_tick_ns;
	size_t share;

	scavenge.last_tick_ns = now;
	scavenge.traffic = 0;
	/* A quarter a tick; a long pause counts as the many ticks that it was. */
	share = elapsed > 4 * (uint64_t)SLOW_TICK_NS ? idle : idle / 4 + KEEP_PAGES / 4;
	if (idle > KEEP_PAGES)
		purge(share < idle ? share : idle);
	scavenge.least_dirty = freelist_dirty_pages();
}

/* Has so much come and gone that what was never needed meanwhile may be called idle? A
 * program that builds and frees a big heap over and over has used all of it by then. */
static bool is_busy(void)
{
	return scavenge.traffic >= TICK_PAGES &&
	       scavenge.traffic / 2 >= freelist_dirty_pages();
}

bool scavenge_is_due_locked(void)
{
	uint64_t elapsed = os_coarse_ns() - scavenge.last_tick_ns;

	return elapsed >= SLOW_TICK_NS || (elapsed >= TICK_NS && is_busy());
}

size_t scavenge_all_locked(void)
{
	size_t done = purge(SIZE_MAX);

	scavenge.least_dirty = 0;
	return done;
}

uint64_t scavenge_purged_pages(void)
{
	return scavenge.purged;
}
