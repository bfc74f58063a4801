/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena: reservation and growth, see arena.h.
 *
 * A reservation is PROT_NONE, so it costs neither memory nor commit charge; the heap's
 * pages and the two tables in front of them are made usable as the end moves up. Huge
 * pages are advised for growth only: pages at the moving end are about to be filled
 * densely, while holes further down may be filled by many classes; only where they are
 * cheap, see hugeprice.h; and for large objects only where the program fills these.
 */
#include "preload/heap/arena.h"

#include <sys/mman.h>

#include "preload/base/check.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/hugeprice.h"

#define RESERVE_FIRST	(256 * GIB)
#define RESERVE_LEAST	(1 * MIB)
#define RESERVE_LIMITED (32 * MIB) /* under RLIMIT_AS: leave room for the program */
#define RESERVE_COSTLY	(1 * GIB)  /* where each page of it costs time and memory */
/* Under a limit, objects of this share of it have arenas of their own, which go back when
 * they are freed: with small ones in every arena none would, and soon none would fit. */
#define SINGLE_SHARE 32
#define SINGLE_LEAST (4 * MIB)	 /* what no thread keeps, see lcache.h */
#define GROW_SMALL   (256 * KIB) /* while the heap is small */
#define GROW_HUGE    HUGE_PAGE	 /* later */
/* Heap sizes from which huge pages are advised: the last one lies half empty. */
#define HUGE_AFTER (24 * MIB)
#define HUGE_LARGE (32 * MIB) /* for large objects */
#define DENSE_MOST (2 * MIB)  /* looked at */
/* From here the system is asked: it refuses at once what is more than the machine has,
 * and programs are told so, as by any malloc, before they begin to fill it. */
#define ASK_FROM (256 * MIB)

struct arena_fast arena_fast;
struct arena arena_first;

static struct {
	struct arena further[ARENA_MAX - 1];
	size_t narenas;	  /* atomic: release after the entry is filled */
	bool allows_fast; /* free()'s fast path; for good */
	size_t npages;	  /* committed in all */
	size_t limit;	  /* RLIMIT_AS when last seen, bytes */
	enum arena_huge huge;
	/* What large objects were given last in small pages, and how many bytes more they
	 * may have in huge ones before that is looked at again. */
	uintptr_t seen, seen_end;
	size_t trusted;
} arena;

void arena_set_huge(enum arena_huge mode)
{
	arena.huge = mode;
}

size_t arena_count(void)
{
	return atomic_load_acquire(&arena.narenas);
}

struct arena *arena_at(size_t i)
{
	return i == 0 ? &arena_first : &arena.further[i - 1];
}

struct arena *arena_of_further(uintptr_t addr)
{
	size_t n = arena_count();

	for (size_t i = 0; i < n; i++) {
		struct arena *a = arena_at(i);
		uint32_t version = atomic_load_acquire(&a->version);
		uintptr_t base = atomic_load_relaxed(&a->base);
		bool inside = addr >= atomic_load_relaxed(&a->start) &&
			      addr - base < atomic_load_relaxed(&a->size);

		atomic_fence_acquire();
		if (inside && version % 2 == 0 &&
		    atomic_load_relaxed(&a->version) == version)
			return a;
	}
	return NULL;
}

/* A large arena's first pages are left out, so that what the tables say of the next,
 * where a small heap lies, is in other sets of the L1 cache than the first bytes of
 * objects that begin on an OS page. Whole huge pages. */
#define PAST_HEADERS (6 * MIB >> PAGE_SHIFT)

/* Pages that the tables in front of an arena of npages take. */
static size_t table_pages(size_t npages)
{
	size_t classes = align_up(npages, OS_PAGE);
	size_t spans = align_up(npages * sizeof(struct mspan *), OS_PAGE);

	return align_up(classes + spans, PAGE_SIZE) >> PAGE_SHIFT;
}

static void *reserve(size_t *size, size_t least)
{
	while (*size >= least) {
		void *p = os_reserve(*size);

		if (p)
			return p;
		*size /= 2;
	}
	return NULL;
}

/* A slot of the table: a released arena's, or a new one. */
static struct arena *free_slot(void)
{
	for (size_t i = 0; i < arena.narenas; i++)
		if (arena_at(i)->size == 0)
			return arena_at(i);
	return arena.narenas < ARENA_MAX ? arena_at(arena.narenas) : NULL;
}

/* Reserves size bytes, or down to least, on a page boundary of ours. NULL: none. */
static struct arena *make_arena(size_t size, size_t least)
{
	struct arena *a = free_slot();
	uintptr_t raw, base;

	if (!a)
		return NULL;
	raw = (uintptr_t)reserve(&size, least);
	if (raw == 0)
		return NULL;
	base = align_up(raw, PAGE_SIZE);
	size = align_down(size - (base - raw), PAGE_SIZE);
	if (!meta_register_range(raw, size + (base - raw))) {
		os_unmap((void *)raw, size + (base - raw));
		return NULL;
	}
	atomic_store_relaxed(&a->version, a->version + 1);
	atomic_fence_release();
	atomic_store_relaxed(&a->base, base);
	a->npages = size >> PAGE_SHIFT;
	a->classes_end = a->spans_end = 0;
	a->single = false;
	a->spans = (struct mspan **)(base + align_up(a->npages, OS_PAGE));
	a->first_page = table_pages(a->npages) + (size > GIB ? PAST_HEADERS : 1);
	atomic_store_relaxed(&a->start, base + (a->first_page << PAGE_SHIFT));
	atomic_store_relaxed(&a->end_page, a->first_page);
	/* free() may read the class byte of any address in the arena. */
	os_call(SYS_mprotect, (long)base, (long)align_up(a->npages, OS_PAGE), PROT_READ,
		0, 0, 0);
	atomic_store_relaxed(&a->size, size);
	atomic_store_release(&a->version, a->version + 1);
	if (a == arena_at(arena.narenas))
		atomic_store_release(&arena.narenas, arena.narenas + 1);
	if (arena_fast.size == 0) {
		atomic_store_release(&arena_fast.base, base);
		atomic_store_release(&arena_fast.size, size);
	}
	return a;
}

/* free() reads the word without atomics, which would cost it an instruction: it may see
 * either value. */
__attribute__((no_sanitize("thread"))) void arena_allow_fast(void)
{
	arena.allows_fast = true;
	atomic_store_release(&arena_fast.units, arena_fast.size / 16);
}

static bool is_limited(void)
{
	return arena.limit < RESERVE_FIRST * 4;
}

static struct arena *make_first(void)
{
	size_t limit = os_address_space_limit();
	size_t size = os_is_emulated() ? RESERVE_COSTLY : RESERVE_FIRST;

	arena.limit = limit;
	if (is_limited())
		size = limit / 8 < RESERVE_LIMITED ? align_down(limit / 8, PAGE_SIZE)
						   : RESERVE_LIMITED;
	return make_arena(size, RESERVE_LEAST);
}

static void unmap_part(uintptr_t from, uintptr_t to)
{
	from = align_up(from, OS_PAGE);
	if (from >= to)
		return;
	meta_punch_range(from, to); /* first: what is mapped there next is not ours */
	os_unmap((void *)from, to - from);
}

/* Unmaps what lies more than keep bytes behind the end of a's committed pages, and the
 * tables' entries for it. */
static void shrink(struct arena *a, size_t keep)
{
	uintptr_t end = a->base + a->size;
	size_t npages = a->end_page + (align_up(keep, PAGE_SIZE) >> PAGE_SHIFT);
	size_t size = npages << PAGE_SHIFT;

	if (npages >= a->npages)
		return;
	if (a->base == arena_fast.base) {
		atomic_store_release(&arena_fast.size, size);
		if (arena.allows_fast)
			atomic_store_release(&arena_fast.units, size / 16);
	}
	atomic_store_release(&a->size, size);
	a->npages = npages;
	unmap_part(a->base + size, end);
	unmap_part(a->base + npages, (uintptr_t)a->spans);
	unmap_part((uintptr_t)(a->spans + npages),
		   a->base + (a->first_page << PAGE_SHIFT));
}

void arena_set_limit(size_t limit)
{
	arena.limit = limit;
	if (!is_limited())
		return;
	for (size_t i = 0; i < arena.narenas; i++)
		shrink(arena_at(i), limit / 8 / arena.narenas);
}

size_t arena_limit(void)
{
	return arena.limit;
}

static bool deserves_single(size_t npages, enum arena_for what)
{
	size_t bytes = npages << PAGE_SHIFT;

	return what == ARENA_FOR_LARGE && is_limited() && bytes > SINGLE_LEAST &&
	       bytes >= arena.limit / SINGLE_SHARE;
}

/* A further arena that holds npages. Each is half of all before it while that works, so
 * that ARENA_MAX of them are always enough. */
static struct arena *make_next(size_t npages, enum arena_for what)
{
	size_t need = (npages + table_pages(npages + npages / 64 + 64) + 8) << PAGE_SHIFT;
	size_t size = 0;
	struct arena *a;

	if (deserves_single(npages, what)) {
		a = make_arena(need, need);
		if (a)
			a->single = true;
		return a;
	}
	for (size_t i = 0; i < arena.narenas; i++)
		size += arena_at(i)->size / 2;
	if (size > arena.limit / 8)
		size = arena.limit / 8;
	if (size < RESERVE_LIMITED)
		size = RESERVE_LIMITED;
	a = size > need ? make_arena(align_down(size, PAGE_SIZE), need) : NULL;
	return a ? a : make_arena(need, need);
}

/* Makes the tables usable for pages below end_page. */
static bool commit_tables(struct arena *a, size_t end_page)
{
	size_t classes = align_up(end_page, OS_PAGE);
	size_t spans = align_up(end_page * sizeof(struct mspan *), OS_PAGE);

	if (classes > a->classes_end) {
		if (os_commit((char *)a->base + a->classes_end,
			      classes - a->classes_end) != 0)
			return false;
		a->classes_end = classes;
	}
	if (spans > a->spans_end) {
		if (os_commit((char *)a->spans + a->spans_end, spans - a->spans_end) != 0)
			return false;
		a->spans_end = spans;
	}
	return true;
}

/* A large object may hardly be touched: a buffer, a stack or a table for the worst case.
 * Then a huge page costs up to 512 times the memory. Does the program fill such objects?
 * It has done so if what they were given last in small pages is there. */
static bool fills_large(void)
{
	unsigned char in[DENSE_MOST / OS_PAGE];
	size_t npages = (arena.seen_end - arena.seen) / OS_PAGE, count = 0;

	if (npages == 0 ||
	    !os_resident((void *)arena.seen, arena.seen_end - arena.seen, in))
		return false;
	for (size_t i = 0; i < npages; i++)
		count += in[i] & 1;
	return count >= npages - npages / 4;
}

static bool want_huge(enum arena_for what)
{
	const size_t heap = arena.npages << PAGE_SHIFT;

	if (arena.huge != ARENA_HUGE_AUTO)
		return arena.huge == ARENA_HUGE_ALWAYS;
	if (what == ARENA_FOR_SMALL)
		return heap >= HUGE_AFTER;
	if (heap < HUGE_LARGE)
		return false;
	if (arena.trusted == 0 && fills_large())
		arena.trusted = heap;
	return arena.trusted > 0;
}

static void note_large(uintptr_t start, size_t bytes, bool huge)
{
	if (huge) {
		arena.trusted -= bytes < arena.trusted ? bytes : arena.trusted;
	} else {
		arena.seen = start;
		arena.seen_end = start + (bytes < DENSE_MOST ? bytes : DENSE_MOST);
	}
}

/* Bytes to grow by when npages are wanted: whole steps, to the step's boundary. */
static size_t growth(const struct arena *a, size_t npages, bool huge)
{
	size_t step = huge ? GROW_HUGE : GROW_SMALL;
	uintptr_t start = a->base + (a->end_page << PAGE_SHIFT);
	uintptr_t end = align_up(start + (npages << PAGE_SHIFT), step);
	uintptr_t most = a->base + a->size;

	if (a->single)
		return most - start;
	return (end < most ? end : most) - start;
}

static bool fits(const struct arena *a, size_t npages)
{
	return a->npages - a->end_page >= npages;
}

static uintptr_t extend(struct arena *a, size_t bytes, bool huge)
{
	uintptr_t start = a->base + (a->end_page << PAGE_SHIFT);
	size_t end_page = a->end_page + (bytes >> PAGE_SHIFT);
	uintptr_t lo = align_up(start, HUGE_PAGE);
	uintptr_t hi = align_down(start + bytes, HUGE_PAGE);
	/* Programs look at the byte before an empty text, wherever that lies, and at one
	 * behind the end. */
	size_t before = a->end_page == a->first_page ? OS_PAGE : 0;
	size_t behind = a->npages > end_page ? OS_PAGE : 0;

	if (!commit_tables(a, end_page) ||
	    os_commit((void *)(start - before), before + bytes + behind) != 0)
		return 0;
	if (huge && arena.huge == ARENA_HUGE_AUTO)
		hugeprice_advise(lo, hi, (arena.npages << PAGE_SHIFT) + bytes);
	else if (huge && lo < hi)
		os_hugepage((void *)lo, hi - lo, true);
	atomic_store_release(&a->end_page, end_page);
	arena.npages += bytes >> PAGE_SHIFT;
	return start;
}

static uintptr_t grow_in(struct arena *a, size_t npages, enum arena_for what,
			 size_t *out_npages)
{
	bool huge = want_huge(what);
	size_t bytes = growth(a, npages, huge);
	uintptr_t start = extend(a, bytes, huge);

	if (start == 0 && bytes > npages << PAGE_SHIFT) { /* memory is short */
		bytes = npages << PAGE_SHIFT;
		start = extend(a, bytes, huge);
	}
	*out_npages = start ? bytes >> PAGE_SHIFT : 0;
	if (start && what == ARENA_FOR_LARGE && arena.huge == ARENA_HUGE_AUTO)
		note_large(start, bytes, huge);
	return start;
}

static struct arena *find_room(size_t npages)
{
	for (size_t i = arena.narenas; i > 0; i--)
		if (!arena_at(i - 1)->single && fits(arena_at(i - 1), npages))
			return arena_at(i - 1);
	return NULL;
}

/* Of pages of ours. */
static bool may_have(size_t npages)
{
	if (npages > SIZE_MAX >> (PAGE_SHIFT + 1))
		return false;
	return npages < ASK_FROM >> PAGE_SHIFT || os_may_have(npages << PAGE_SHIFT);
}

uintptr_t arena_grow(size_t npages, enum arena_for what, size_t *out_npages)
{
	struct arena *a;
	uintptr_t start;

	*out_npages = 0;
	if (!may_have(npages) || (arena.narenas == 0 && !make_first()))
		return 0;
	a = find_room(npages);
	if (!a)
		a = make_next(npages, what);
	start = a ? grow_in(a, npages, what, out_npages) : 0;
	if (a && start == 0 && a->end_page == a->first_page && !arena_is_first(a))
		arena_release(a); /* which was made for this */
	return start;
}

bool arena_is_first(const struct arena *a)
{
	return a == &arena_first;
}

void arena_release(struct arena *a)
{
	size_t size = a->size;

	arena.npages -= a->end_page - a->first_page;
	arena.seen = arena.seen_end = 0;
	atomic_store_release(&a->size, (size_t)0);
	a->npages = a->first_page = 0;
	atomic_store_release(&a->end_page, (size_t)0);
	unmap_part(a->base, a->base + size);
}

void arena_start_at(struct arena *a, uintptr_t start)
{
	arena.npages -= (start - a->start) >> PAGE_SHIFT;
	a->first_page = arena_page(a, start);
	atomic_store_relaxed(&a->start, start);
}

bool arena_resize_single(struct arena *a, size_t npages)
{
	size_t end_page = a->first_page + npages;
	char *end = (char *)a->base + (end_page << PAGE_SHIFT);

	if (end_page > a->npages)
		return false;
	if (end_page > a->end_page &&
	    extend(a, (end_page - a->end_page) << PAGE_SHIFT, false) == 0)
		return false;
	if (end_page < a->end_page) {
		os_purge(end, (a->end_page - end_page) << PAGE_SHIFT);
		arena.npages -= a->end_page - end_page;
		atomic_store_release(&a->end_page, end_page);
	}
	return true;
}

void arena_set_span(const struct mspan *where, struct mspan *s, bool all)
{
	struct arena *a = arena_of(where->base);
	size_t first, last;

	CHECK(a);
	first = arena_page(a, where->base);
	last = first + where->npages - 1;
	if (all) {
		for (size_t i = first; i <= last; i++)
			atomic_store_release(&a->spans[i], s);
		return;
	}
	atomic_store_release(&a->spans[first], s);
	atomic_store_release(&a->spans[last], s);
}

void arena_set_class(const struct mspan *s, uint8_t sizeclass)
{
	struct arena *a = arena_of(s->base);
	uint8_t *classes;

	CHECK(a);
	classes = arena_class(a, s->base);
	for (size_t i = 0; i < s->npages; i++)
		atomic_store_relaxed(&classes[i], sizeclass);
}
