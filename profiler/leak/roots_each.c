/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roots_each: the pieces of memory that lists of ranges make, by address: what is
 * included and not excluded, what a stop has bared, and what is in neither list.
 */
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "profiler/leak/roots.h"

typedef void (*piece_fn)(uintptr_t lo, uintptr_t hi, void *arg);

/* What [lo, hi) has that the list has not; both by address. *at: where to go on in the
 * list, for what lies behind. */
static void subtract(const struct root_range *list, size_t n, size_t *at, uintptr_t lo,
		     uintptr_t hi, piece_fn fn, void *arg)
{
	while (*at < n && list[*at].hi <= lo)
		++*at;
	for (size_t k = *at; k < n && list[k].lo < hi; k++) {
		if (list[k].lo > lo)
			fn(lo, list[k].lo, arg);
		if (list[k].hi > lo)
			lo = list[k].hi;
	}
	if (lo < hi)
		fn(lo, hi, arg);
}

static void each_piece(const struct roots *r, const struct root_range *list, size_t n,
		       piece_fn fn, void *arg)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++)
		subtract(r->exclude, r->nexclude, &at, list[i].lo, list[i].hi, fn, arg);
}

void roots_each_bared(const struct roots *r, piece_fn fn, void *arg)
{
	each_piece(r, r->before, r->nbefore, fn, arg);
}

struct others {
	const struct roots *r;
	size_t at; /* in the list of what is excluded */
	piece_fn fn;
	void *arg;
};

static void see_other(uintptr_t lo, uintptr_t hi, void *arg)
{
	const struct others *o = arg;

	for (uintptr_t next; lo < hi; lo = next) {
		next = align_down(lo, OS_PAGE) + OS_PAGE;
		if (!arena_of(lo) && unreadable_is_not(lo))
			o->fn(lo, next < hi ? next : hi, o->arg);
	}
}

static void see_not_included(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct others *o = arg;

	subtract(o->r->exclude, o->r->nexclude, &o->at, lo, hi, see_other, o);
}

void roots_each_other(const struct roots *r, const struct root_range *list, size_t n,
		      piece_fn fn, void *arg)
{
	struct others o = { .r = r, .fn = fn, .arg = arg };
	size_t at = 0;

	for (size_t i = 0; i < n; i++)
		subtract(r->include, r->ninclude, &at, list[i].lo, list[i].hi,
			 see_not_included, &o);
}

void roots_each(const struct roots *r, void (*fn)(uintptr_t lo, uintptr_t hi, void *arg),
		void *arg)
{
	each_piece(r, r->include, r->ninclude, fn, arg);
}

void roots_each_code(const struct roots *r,
		     void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg)
{
	each_piece(r, r->code, r->ncode, fn, arg);
}
