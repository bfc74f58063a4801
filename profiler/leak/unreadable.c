/* SPDX-License-Identifier: Apache-2.0 */
/* unreadable: see unreadable.h. */
#include "profiler/leak/unreadable.h"

#include <errno.h>
#include <sys/mman.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"

bool unreadable_init(struct unreadable *u, size_t capacity)
{
	*u = (struct unreadable){ .capacity = capacity };
	u->ranges = meta_map(capacity * sizeof(*u->ranges), META_LEAK);
	return u->ranges != NULL;
}

void unreadable_free(struct unreadable *u)
{
	meta_unmap(u->ranges, u->capacity * sizeof(*u->ranges), META_LEAK);
	u->ranges = NULL;
}

/* A system call that reads there and has no other effect. */
bool unreadable_is_not(uintptr_t page)
{
	return os_call(SYS_rt_sigprocmask, -1, (long)page, 0, 8, 0, 0) != -EFAULT;
}

static bool protect(uintptr_t lo, uintptr_t hi, int protection)
{
	return os_call(SYS_mprotect, (long)lo, (long)(hi - lo), protection, 0, 0, 0) == 0;
}

static void open_range(struct unreadable *u, uintptr_t lo, uintptr_t hi, int protection)
{
	if (lo == hi)
		return;
	if (u->only_look) {
		u->met = true;
		return;
	}
	if (u->count == u->capacity || !protect(lo, hi, PROT_READ))
		u->full = true;
	else
		u->ranges[u->count++] = (struct unreadable_range){ lo, hi, protection };
}

/* The part of [*lo, *hi) that a's spans may lie in. */
static bool clip(const struct arena *a, uintptr_t *lo, uintptr_t *hi)
{
	uintptr_t first = a->base + (a->first_page << PAGE_SHIFT);
	uintptr_t end = a->base + (atomic_load_acquire(&a->end_page) << PAGE_SHIFT);

	if (*lo < first)
		*lo = first;
	if (*hi > end)
		*hi = end;
	return *lo < *hi;
}

/* Runs of OS pages that belong to objects and, if asked, are not readable. */
static void open_runs(struct unreadable *u, uintptr_t lo, uintptr_t hi, int protection,
		      bool ask)
{
	uintptr_t start = lo;

	for (; lo < hi && !u->full; lo += OS_PAGE) {
		if (heap_find(lo, NULL) && !(ask && unreadable_is_not(lo)))
			continue;
		open_range(u, start, lo, protection);
		start = lo + OS_PAGE;
	}
	open_range(u, start, lo, protection);
}

void unreadable_open(struct unreadable *u, uintptr_t lo, uintptr_t hi, int protection)
{
	for (size_t i = 0; i < arena_count(); i++) {
		uintptr_t at = lo, end = hi;

		/* Beside a running program the heap may have grown there since. */
		if (clip(arena_at(i), &at, &end))
			open_runs(u, at, end, protection, u->only_look);
	}
}

void unreadable_open_all(struct unreadable *u)
{
	for (size_t i = 0; i < arena_count(); i++) {
		uintptr_t at = 0, end = UINTPTR_MAX;

		if (clip(arena_at(i), &at, &end))
			open_runs(u, at, end, PROT_NONE, true);
	}
}

bool unreadable_open_others(struct unreadable *u, uintptr_t lo, uintptr_t hi)
{
	if (u->only_look) {
		u->met = true;
		return true;
	}
	if (u->count == u->capacity || !protect(lo, hi, PROT_READ))
		return false;
	u->ranges[u->count++] = (struct unreadable_range){ lo, hi, PROT_NONE };
	return true;
}

void unreadable_close(struct unreadable *u)
{
	for (; u->count > 0; u->count--) {
		const struct unreadable_range *r = &u->ranges[u->count - 1];

		protect(r->lo, r->hi, r->protection);
	}
}
