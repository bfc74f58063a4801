/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scavenge: the policy of scavenge.h.
 */
#include "preload/heap/scavenge.h"

#include "preload/base/os.h"
#include "preload/heap/freelist.h"
#include "preload/heap/hugeprice.h"
#include "preload/heap/mspan.h"
#include "preload/heap/run.h"

#define TICK_NS	     100000000u
#define SLOW_TICK_NS 1000000000u
#define MS_NS	     1000000u
#define IDLE_TICKS   4 /* slow ones; after as many all of what is idle goes */
#define IDLE_MS	     (IDLE_TICKS * SLOW_TICK_NS / MS_NS)
#define TICK_PAGES   (16 * MIB >> PAGE_SHIFT)
/* Given back in one go, and by how many such parts for each OWED_TICK_NS: the caller of
 * malloc waits for it, and all who need the page heap. */
#define OWED_TICK_NS 25000000u
#define PART_PAGES   (16 * MIB >> PAGE_SHIFT)
#define PARTS_MOST   8
#define KEEP_PAGES   (1 * MIB >> PAGE_SHIFT) /* too little to bother */
/* Of holes, where the heap still grows; in a larger one they would be in huge pages. */
#define MAKE_UP_MOST  (24 * MIB >> PAGE_SHIFT)
#define MAKE_UP_KEEP  (128 * KIB >> PAGE_SHIFT)
#define MAKE_UP_SHARE 128
#define MAKE_UP_HOLES 8 /* more is what the program has just freed */

static struct {
	size_t least_dirty; /* since the last tick */
	size_t traffic;	    /* pages since the last tick */
	size_t owed;	    /* idle pages that are still to go back */
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

/* The pages to give back of s, the last before its tail, to get rid of most dirty ones:
 * all if it has no more. Huge pages go as a whole. */
static size_t pages_to_clean(const struct mspan *s, size_t most)
{
	size_t npages = s->npages - s->ntail;
	uintptr_t end = s->base + (npages << PAGE_SHIFT), from;

	if (s->ndirty <= most)
		return npages;
	from = align_down(end - (most << PAGE_SHIFT), HUGE_PAGE);
	return from > s->base ? (end - from) >> PAGE_SHIFT : npages;
}

/* Gives most pages of s back, or about as many, which is in no list; how many. 0:
 * forbidden (seccomp) or locked: they stay dirty. */
static size_t purge_run(struct mspan *s, size_t most)
{
	const size_t npages = pages_to_clean(s, most), ndirty = s->ndirty;
	const uintptr_t end = s->base + ((s->npages - s->ntail) << PAGE_SHIFT);
	size_t bytes = npages << PAGE_SHIFT;

	if (!os_purge((void *)(end - bytes), bytes))
		return 0;
	run_clean(s, npages);
	scavenge.purged += ndirty - s->ndirty;
	return npages < ndirty ? npages : ndirty;
}

/* Purges the longest dirty runs until npages are given back; the count given back. */
static size_t purge(size_t npages)
{
	size_t done = 0;
	size_t got = 1;

	while (got > 0 && done < npages) {
		bool victim;
		struct mspan *s = take_longest(&victim);

		if (!s)
			break;
		got = purge_run(s, npages - done);
		done += got;
		if (victim)
			freelist_set_victim(s);
		else
			freelist_insert(s);
	}
	return done;
}

/* A quarter of what is idle a tick, or a second: programs with little to do come by
 * seldom. Of the longest run all of it. */
static size_t share_of(size_t idle, uint64_t elapsed)
{
	const struct mspan *longest = freelist_longest_dirty();
	size_t share;

	if (idle <= KEEP_PAGES)
		return 0;
	if (elapsed >= IDLE_TICKS * (uint64_t)SLOW_TICK_NS)
		share = idle;
	else if (elapsed > SLOW_TICK_NS)
		share = idle * (size_t)(elapsed / MS_NS) / IDLE_MS + KEEP_PAGES / 4;
	else
		share = idle / IDLE_TICKS + KEEP_PAGES / 4;
	if (longest && longest->ndirty > share)
		share = longest->ndirty;
	return share < idle ? share : idle;
}

void scavenge_tick_locked(void)
{
	size_t idle = scavenge.least_dirty;
	uint64_t now = os_coarse_ns();
	uint64_t elapsed = now - scavenge.last_tick_ns;
	uint64_t nparts = elapsed / OWED_TICK_NS;
	size_t part;

	scavenge.last_tick_ns = now;
	scavenge.traffic = 0;
	if (scavenge.owed > idle)
		scavenge.owed = idle; /* somebody wanted it after all */
	if (scavenge.owed == 0 || elapsed >= SLOW_TICK_NS)
		scavenge.owed = share_of(idle, elapsed);
	part = PART_PAGES * (size_t)(nparts < PARTS_MOST ? nparts : PARTS_MOST);
	if (part > scavenge.owed)
		part = scavenge.owed;
	scavenge.owed = part > 0 && purge(part) > 0 ? scavenge.owed - part : 0;
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

	return elapsed >= SLOW_TICK_NS || (elapsed >= TICK_NS && is_busy()) ||
	       (elapsed >= OWED_TICK_NS && scavenge.owed > 0);
}

bool scavenge_owes_locked(void)
{
	return scavenge.owed > 0;
}

void scavenge_make_up_locked(size_t npages, size_t ninuse)
{
	size_t dirty = freelist_dirty_pages();
	size_t keep = MAKE_UP_KEEP + ninuse / MAKE_UP_SHARE;

	if (ninuse > MAKE_UP_MOST || dirty <= keep || dirty > ninuse / MAKE_UP_HOLES)
		return;
	npages = npages < dirty - keep ? npages : dirty - keep;
	for (size_t done = 0; done < npages;) {
		struct mspan *s = freelist_dirty_hole();
		size_t got;

		if (!s)
			break;
		freelist_remove(s);
		got = purge_run(s, SIZE_MAX);
		freelist_insert(s);
		if (got == 0)
			break;
		done += got;
	}
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
