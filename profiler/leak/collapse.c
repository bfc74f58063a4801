/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collapse: see collapse.h. The kernel's list of mapped pages (PAGEMAP_SCAN) tells which
 * are huge; MADV_COLLAPSE makes a huge page of small ones. It is asked for only where all
 * of them are there: what the heap has given back must stay so.
 *
 * Concurrency: one agent at a time.
 */
#include "profiler/leak/collapse.h"

#include <sys/resource.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "profiler/leak/pagemap.h"

#define HUGE	      (2 * MIB)
#define MAX_BLOCKS    65536 /* 128 GiB */
#define NICE	      10
#define MOSTLY_HUGE   128	  /* blocks: what is small beside them counts */
#define SMALL_HEAD    (544 * MIB) /* of an arena: too early, or too dear, for huge pages */

#define OWN_MOST      (128 * MIB) /* a range of our own */

#define COLLAPSE      25 /* MADV_COLLAPSE */
#define FEW_SPLIT     64 /* blocks: to copy their entries takes a millisecond or two */
#define COLLAPSE_BUSY 64 /* blocks in a row that could not be had: memory is short */

static struct {
	uintptr_t *blocks; /* that were huge, or should be; NULL: none noted */
	size_t count;
} collapse;

static void note_region(uintptr_t lo, uintptr_t hi, void *arg)
{
	(void)arg;
	for (lo = align_up(lo, HUGE); lo + HUGE <= hi; lo += HUGE)
		if (collapse.count < MAX_BLOCKS)
			collapse.blocks[collapse.count++] = lo;
}

/* A snapshot copies an entry for each small page. Those that a large heap began with, and
 * its table of spans, cost as much as half a gigabyte of huge ones. */
static void note_small(const struct arena *a, size_t end)
{
	const uintptr_t head = a->base + (a->first_page << PAGE_SHIFT);

	note_region(head, head + SMALL_HEAD, NULL);
	note_region((uintptr_t)(a->spans + a->first_page), (uintptr_t)(a->spans + end),
		    NULL);
}

/* Pieces of our own memory lie side by side; the arenas are among them. */
static bool note_own(uintptr_t start, size_t size, void *arg)
{
	const uintptr_t end = align_up(start + size, HUGE);

	(void)arg;
	start = align_down(start, HUGE);
	if (start == collapse.blocks[collapse.count - 1])
		start += HUGE;
	if (size <= OWN_MOST)
		note_region(start, end, NULL);
	return true;
}

void collapse_note(void)
{
	int pagemap;

	if (!collapse.blocks)
		collapse.blocks =
			meta_map(MAX_BLOCKS * sizeof(*collapse.blocks), META_LEAK);
	collapse.count = 0;
	pagemap = collapse.blocks ? pagemap_open() : -1;
	if (pagemap < 0)
		return;
	for (size_t i = 0; i < arena_count(); i++) {
		const struct arena *a = arena_at(i);
		size_t end = atomic_load_acquire(&a->end_page);

		pagemap_each(pagemap, a->base + (a->first_page << PAGE_SHIFT),
			     a->base + (end << PAGE_SHIFT), PAGEMAP_HUGE, note_region,
			     NULL);
		if (collapse.count >= MOSTLY_HUGE)
			note_small(a, end);
	}
	if (collapse.count >= MOSTLY_HUGE)
		meta_each_range(note_own, NULL);
	os_close(pagemap);
}

static void add_bytes(uintptr_t lo, uintptr_t hi, void *arg)
{
	*(size_t *)arg += hi - lo;
}

/* All of it is there, in small pages. */
static bool is_split(int pagemap, uintptr_t block)
{
	size_t present = 0, huge = 0;

	return pagemap_each(pagemap, block, block + HUGE, PAGEMAP_HUGE, add_bytes,
			    &huge) &&
	       huge == 0 &&
	       pagemap_each(pagemap, block, block + HUGE, PAGEMAP_PRESENT, add_bytes,
			    &present) &&
	       present == HUGE;
}

/* How many could not be had. */
static size_t restore_all(int pagemap)
{
	unsigned failed = 0;
	size_t left = 0;

	for (size_t i = 0; i < collapse.count; i++) {
		uintptr_t block = collapse.blocks[i];

		if (!is_split(pagemap, block))
			continue;
		if (failed < COLLAPSE_BUSY &&
		    os_call(SYS_madvise, (long)block, HUGE, COLLAPSE, 0, 0, 0) == 0) {
			failed = 0;
		} else {
			failed++;
			left++;
		}
	}
	return left;
}

bool collapse_again(void)
{
	const int pagemap = collapse.blocks ? pagemap_open() : -1;
	size_t left = 0;

	if (pagemap >= 0) {
		left = restore_all(pagemap);
		os_close(pagemap);
	}
	return left <= FEW_SPLIT;
}

void collapse_restore(void)
{
	if (!collapse.blocks)
		return;
	os_call(SYS_setpriority, PRIO_PROCESS, 0, NICE, 0, 0, 0);
	collapse_again();
	meta_unmap(collapse.blocks, MAX_BLOCKS * sizeof(*collapse.blocks), META_LEAK);
	collapse.blocks = NULL;
	collapse.count = 0;
}

void collapse_fork_child(void)
{
	collapse.blocks = NULL;
	collapse.count = 0;
}
