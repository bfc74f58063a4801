/* SPDX-License-Identifier: Apache-2.0 */
/* absent: see absent.h. */
#include "profiler/leak/absent.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "profiler/leak/unreadable.h"

#define ENTRIES 64 /* of the kernel's list that are read at once */
/* Of an entry. A page that is only marked as write-protected, and is otherwise empty,
 * looks like one that is swapped out. */
#define PRESENT ((uint64_t)1 << 63)
#define SWAPPED ((uint64_t)1 << 62)
#define MARKED	((uint64_t)1 << 57)
#define GUARD	((uint64_t)1 << 58) /* Linux 6.15 */

bool absent_init(struct absent *a, size_t capacity)
{
	*a = (struct absent){ .capacity = capacity };
	a->ranges = meta_map(capacity * sizeof(*a->ranges), META_LEAK);
	return a->ranges != NULL;
}

void absent_free(struct absent *a)
{
	meta_unmap(a->ranges, a->capacity * sizeof(*a->ranges), META_LEAK);
	a->ranges = NULL;
}

void absent_forget(struct absent *a)
{
	*a = (struct absent){ .ranges = a->ranges, .capacity = a->capacity };
}

/* If an object lies there. */
static bool note_page(struct absent *a, uintptr_t page)
{
	struct absent_range *last = a->count ? &a->ranges[a->count - 1] : NULL;

	if (!heap_find(page, NULL))
		return false;
	if (last && last->hi == page)
		last->hi += OS_PAGE;
	else if (a->count == a->capacity)
		a->full = true;
	else
		a->ranges[a->count++] = (struct absent_range){ page, page + OS_PAGE };
	return true;
}

void absent_note(struct absent *a, uintptr_t page)
{
	note_page(a, page);
}

/* The part of [*lo, *hi) that the i-th arena's spans may lie in. */
static bool clip(size_t i, uintptr_t *lo, uintptr_t *hi)
{
	const struct arena *a = arena_at(i);
	uintptr_t first = a->base + (a->first_page << PAGE_SHIFT);
	uintptr_t end = a->base + (atomic_load_acquire(&a->end_page) << PAGE_SHIFT);

	if (*lo < first)
		*lo = first;
	if (*hi > end)
		*hi = end;
	return *lo < *hi;
}

/* Each page, if asked only those that cannot be read. */
static void note_pages(struct absent *a, uintptr_t lo, uintptr_t hi, bool ask)
{
	for (size_t i = 0; i < arena_count(); i++) {
		uintptr_t at = lo, end = hi;

		if (!clip(i, &at, &end))
			continue;
		for (at = align_down(at, OS_PAGE); at < end; at += OS_PAGE)
			if (!ask || !unreadable_is_not(at))
				note_page(a, at);
	}
}

static bool read_entries(struct absent *a, int pagemap, uintptr_t lo, uintptr_t hi)
{
	uint64_t entries[ENTRIES];

	while (lo < hi) {
		size_t left = (hi - lo) / OS_PAGE, n = left < ENTRIES ? left : ENTRIES;
		long bytes = (long)(n * sizeof(entries[0]));

		if (os_call(SYS_pread64, pagemap, (long)entries, bytes,
			    (long)(lo / OS_PAGE * sizeof(entries[0])), 0, 0) != bytes)
			return false;
		for (size_t i = 0; i < n; i++, lo += OS_PAGE) {
			if (entries[i] & GUARD)
				note_page(a, lo);
			else if (!(entries[i] & PRESENT ||
				   (entries[i] & SWAPPED && !(entries[i] & MARKED))))
				a->supplied |= note_page(a, lo);
		}
	}
	return true;
}

static bool see_supplied(struct absent *a, int pagemap, uintptr_t lo, uintptr_t hi)
{
	for (size_t i = 0; i < arena_count(); i++) {
		uintptr_t at = lo, end = hi;

		if (clip(i, &at, &end) && !read_entries(a, pagemap, at, end))
			return false;
	}
	return true;
}

/* Files may be shorter than their mapping; of devices nothing is known. Where pages are
 * supplied, none that is not there may be touched to see. */
void absent_see(struct absent *a, const struct os_mapping *m, int pagemap)
{
	if (a->seen)
		note_pages(a, a->seen, m->lo, false);
	a->seen = m->hi;
	if (pagemap >= 0) {
		size_t before = a->count;

		a->full |= !see_supplied(a, pagemap, m->lo, m->hi);
		/* Shared pages may be elsewhere, and swapped out. */
		a->unsure |= m->shared && a->count > before;
	}
	if (pagemap < 0 && m->readable && m->path && m->path[0] == '/')
		note_pages(a, m->lo, m->hi, strncmp(m->path, "/dev/", 5) != 0);
}

struct look {
	const struct absent *a;
	uintptr_t lo, hi; /* of the mapping whose lines are read */
	bool awaited;
};

static bool see_flags(char *line, void *arg)
{
	struct look *l = arg;
	struct os_mapping m;
	uintptr_t lo = l->lo, end;

	if (os_parse_mapping(line, &m)) {
		l->lo = m.lo;
		l->hi = m.hi;
		return true;
	}
	if (strncmp(line, "VmFlags:", 8) != 0 ||
	    (!strstr(line, " um") && !strstr(line, " ui")))
		return true;
	/* Some of it is not to be read. */
	l->awaited = !absent_next(l->a, &lo, l->hi, &end) || lo != l->lo || end != l->hi;
	return !l->awaited;
}

bool absent_is_awaited(const struct absent *a)
{
	struct look l = { .a = a };

	if (!a->supplied || a->unsure)
		return a->unsure;
	return os_each_line("/proc/thread-self/smaps", see_flags, &l) != 0 || l.awaited;
}

bool absent_next(const struct absent *a, uintptr_t *lo, uintptr_t hi, uintptr_t *out_end)
{
	size_t first = 0, end = a->count;

	while (first < end) { /* the first range that ends behind *lo */
		size_t middle = (first + end) / 2;

		if (a->ranges[middle].hi <= *lo)
			first = middle + 1;
		else
			end = middle;
	}
	while (first < a->count && a->ranges[first].lo <= *lo)
		*lo = a->ranges[first++].hi;
	*out_end =
		first < a->count && a->ranges[first].lo < hi ? a->ranges[first].lo : hi;
	return *lo < hi;
}

bool absent_has_not(const struct absent *a, uintptr_t lo, size_t size)
{
	uintptr_t at = lo, end;

	return !a ||
	       (absent_next(a, &at, lo + size, &end) && at == lo && end == lo + size);
}
