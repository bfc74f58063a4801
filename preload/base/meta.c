/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta: our own memory, see meta.h.
 *
 * Structure: the bump arena grows by chunks of CHUNK bytes; larger requests get a mapping
 * of their own. Every mapping is entered in `ranges`, kept without holes by moving the
 * last entry into a gap, so that the leak check can leave all of them out of its roots.
 * Concurrency: everything but the counters is guarded by one leaf lock.
 */
#include "preload/base/meta.h"

#include <string.h>
#include <sys/mman.h>

#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"

#define CHUNK	       (256 * KIB) /* faults in page by page, so the size costs nothing */
#define BIG	       (64 * KIB)  /* from here a mapping of its own */
#define FIXALLOC_CHUNK (16 * KIB)
#define SORT_LISTS     32
#define RANGES_MAX     65536
#define SPARE	       (68 * MIB)
#define HUGE	       (2 * MIB)
#define HOLE_TRIES     64
#define HUGE_FROM      (8 * MIB) /* bumped: from here by huge pages */

struct range {
	uintptr_t start;
	size_t size;
};

static struct {
	struct lock lock;
	char *next, *end; /* rest of the bump chunk; guarded by lock */
	/* see take_spare(); guarded by lock */
	char *spare, *spare_next, *spare_end;
	uint32_t chunks;		 /* of CHUNK bytes; guarded by lock */
	bool started;			 /* see meta_started(); guarded by lock */
	bool small_pages;		 /* see meta_want_huge(); atomic, relaxed */
	uint32_t nranges;		 /* guarded by lock */
	size_t bytes[META_TAG_COUNT];	 /* atomic, relaxed */
	struct range ranges[RANGES_MAX]; /* guarded by lock */
} meta = { .lock = LOCK_INIT(LOCK_RANK_META) };

static bool add_range(uintptr_t start, size_t size)
{
	if (meta.nranges == RANGES_MAX)
		return false;
	meta.ranges[meta.nranges++] = (struct range){ start, size };
	return true;
}

static void drop_range(uintptr_t start)
{
	for (uint32_t i = meta.nranges; i > 0; i--) {
		if (meta.ranges[i - 1].start != start)
			continue;
		meta.ranges[i - 1] = meta.ranges[--meta.nranges];
		return;
	}
}

/* A program that limits its address space after our start lets us map nothing more,
 * though the heap goes on in what was reserved before. A reservation of our own, which
 * costs nothing, keeps metadata going as well. */
static void reserve_spare(void)
{
	if (meta.spare || os_address_space_limit() != SIZE_MAX)
		return;
	meta.spare = os_reserve(SPARE);
	if (meta.spare && !add_range((uintptr_t)meta.spare, SPARE))
		meta.spare = NULL;
	meta.spare_next = meta.spare;
	meta.spare_end = meta.spare ? meta.spare + SPARE : NULL;
}

static void *take_spare(size_t size)
{
	char *p = meta.spare_next;

	if (!meta.spare || size > (size_t)(meta.spare_end - p) || os_commit(p, size) != 0)
		return NULL;
	meta.spare_next = p + size;
	return p;
}

static bool is_spare(const void *p)
{
	return meta.spare && (const char *)p >= meta.spare &&
	       (const char *)p < meta.spare_end;
}

/* Only until the program runs: a sandbox may kill for prctl. */
static void name_range(void *p, size_t size)
{
	if (!meta.started)
		os_name(p, size, "seep");
}

void meta_started(void)
{
	lock_acquire(&meta.lock);
	meta.started = true;
	lock_release(&meta.lock);
}

static bool is_within_range(const void *p)
{
	for (uint32_t i = 0; i < meta.nranges; i++)
		if ((uintptr_t)p - meta.ranges[i].start < meta.ranges[i].size)
			return true;
	return false;
}

/* By map, and not where a program has unmapped a part of the heap: there it would be
 * taken for the program's. Holes are filled until the system gives another place. */
static void *map_apart(void *(*map)(size_t size), size_t size)
{
	void *filled[HOLE_TRIES], *p = map(size);
	unsigned n = 0;

	while (p && n < HOLE_TRIES && is_within_range(p)) {
		filled[n++] = p;
		p = map(size);
	}
	while (n > 0)
		os_unmap(filled[--n], size);
	return p;
}

/* Of p, which was just mapped, or NULL. */
static void *own_range(void *p, size_t size)
{
	if (p && !add_range((uintptr_t)p, size)) {
		os_unmap(p, size);
		return NULL;
	}
	if (p)
		name_range(p, size);
	return p;
}

static void *map_range(size_t size)
{
	void *p = map_apart(os_map, size);

	reserve_spare();
	return p ? own_range(p, size) : take_spare(size);
}

void meta_want_huge(bool want)
{
	atomic_store_relaxed(&meta.small_pages, !want);
}

/* What can be a huge page, or NULL. Beside a heap of that size a part of one does not
 * matter, but copying the process (fork, snapshots) costs an entry for each small page.
 */
static char *map_huge(void)
{
	char *p, *at;

	if (meta.chunks < HUGE_FROM / CHUNK || opt_get()->hugepage == OPT_HUGE_OFF)
		return NULL;
	p = os_map(2 * HUGE);
	if (!p)
		return NULL;
	at = (char *)align_up((uintptr_t)p, HUGE);
	if (at > p)
		os_unmap(p, (size_t)(at - p));
	os_unmap(at + HUGE, HUGE - (size_t)(at - p));
	if (!add_range((uintptr_t)at, HUGE)) {
		os_unmap(at, HUGE);
		return NULL;
	}
	if (!atomic_load_relaxed(&meta.small_pages))
		os_hugepage(at, HUGE, true);
	name_range(at, HUGE);
	return at;
}

/* The first chunks are what huge pages could be made of, should the heap become large
 * (profiler/leak/collapse.c). */
static char *map_small(void)
{
	char *p = NULL;

	reserve_spare();
	if (meta.chunks < HUGE_FROM / CHUNK)
		p = take_spare(CHUNK);
	meta.chunks++;
	return p ? p : map_range(CHUNK);
}

static bool next_chunk(void)
{
	size_t size = HUGE;
	char *chunk = map_huge();

	if (!chunk) {
		size = CHUNK;
		chunk = map_small();
	}
	if (!chunk)
		return false;
	meta.next = chunk;
	meta.end = chunk + size;
	return true;
}

static void *bump(size_t size, size_t align)
{
	uintptr_t at = align_up((uintptr_t)meta.next, align);

	if (meta.next == NULL || at + size > (uintptr_t)meta.end) {
		if (!next_chunk())
			return NULL;
		at = (uintptr_t)meta.next;
	}
	meta.next = (char *)at + size;
	return (void *)at;
}

void *meta_alloc(size_t size, size_t align, enum meta_tag tag)
{
	void *p;

	if (size == 0 || size > SIZE_MAX / 2)
		return NULL;
	lock_acquire(&meta.lock);
	p = size >= BIG ? map_range(align_up(size, OS_PAGE)) : bump(size, align);
	lock_release(&meta.lock);
	if (p)
		atomic_add_relaxed(&meta.bytes[tag], size);
	return p;
}

void *meta_map(size_t size, enum meta_tag tag)
{
	void *p;

	if (size == 0 || size > SIZE_MAX / 2)
		return NULL;
	size = align_up(size, OS_PAGE);
	lock_acquire(&meta.lock);
	p = map_range(size);
	lock_release(&meta.lock);
	if (p)
		atomic_add_relaxed(&meta.bytes[tag], size);
	return p;
}

void *meta_map_shared(size_t size, enum meta_tag tag)
{
	void *p;

	size = align_up(size, OS_PAGE);
	lock_acquire(&meta.lock);
	p = own_range(map_apart(os_map_shared, size), size);
	lock_release(&meta.lock);
	if (p)
		atomic_add_relaxed(&meta.bytes[tag], size);
	return p;
}

void *meta_map_scanned(size_t size)
{
	void *p;

	lock_acquire(&meta.lock);
	p = map_apart(os_map, size);
	lock_release(&meta.lock);
	return p;
}

/* What a filter does not let us unmap stays ours: what it says of the program's objects
 * must not count. */
static void unmap_range(void *p, size_t size)
{
	if (os_unmap(p, size))
		drop_range((uintptr_t)p);
	else
		os_purge(p, size);
}

void meta_unmap_range(uintptr_t start, size_t size)
{
	lock_acquire(&meta.lock);
	unmap_range((void *)start, size);
	lock_release(&meta.lock);
}

void meta_unmap(void *p, size_t size, enum meta_tag tag)
{
	if (!p)
		return;
	size = align_up(size, OS_PAGE);
	lock_acquire(&meta.lock);
	if (is_spare(p)) {
		os_purge(p, size); /* the address range is not used again */
	} else {
		unmap_range(p, size);
	}
	lock_release(&meta.lock);
	atomic_sub_relaxed(&meta.bytes[tag], size);
}

void *meta_remap(void *p, size_t old_size, size_t new_size, enum meta_tag tag)
{
	long ret;

	old_size = align_up(old_size, OS_PAGE);
	new_size = align_up(new_size, OS_PAGE);
	if (is_spare(p)) {
		void *fresh = meta_map(new_size, tag);

		if (fresh) {
			memcpy(fresh, p, old_size);
			meta_unmap(p, old_size, tag);
		}
		return fresh;
	}
	lock_acquire(&meta.lock);
	ret = os_call(SYS_mremap, (long)p, (long)old_size, (long)new_size, MREMAP_MAYMOVE,
		      0, 0);
	if (ret < 0 && ret > -4096) {
		lock_release(&meta.lock);
		return NULL;
	}
	drop_range((uintptr_t)p);
	add_range((uintptr_t)ret, new_size); /* an entry was just freed */
	lock_release(&meta.lock);
	atomic_add_relaxed(&meta.bytes[tag], new_size - old_size);
	return (void *)ret;
}

bool meta_register_range(uintptr_t start, size_t size)
{
	bool ok;

	lock_acquire(&meta.lock);
	ok = add_range(start, size);
	lock_release(&meta.lock);
	return ok;
}

static void punch(uintptr_t from, uintptr_t to)
{
	for (uint32_t i = 0; i < meta.nranges; i++) {
		struct range *r = &meta.ranges[i];
		uintptr_t end = r->start + r->size;

		if (from - r->start >= r->size)
			continue;
		r->size = from - r->start;
		if (r->size == 0)
			*r = meta.ranges[--meta.nranges];
		if (to < end) /* table full: what is behind counts as the program's */
			add_range(to, end - to);
		return;
	}
}

void meta_punch_range(uintptr_t from, uintptr_t to)
{
	lock_acquire(&meta.lock);
	punch(from, to);
	lock_release(&meta.lock);
}

void meta_limit_space(size_t limit)
{
	uintptr_t from, to;

	lock_acquire(&meta.lock);
	from = (uintptr_t)meta.spare_next;
	to = (uintptr_t)meta.spare_end;
	if (from < to && limit < SPARE * 16) {
		punch(from, to);
		os_unmap(meta.spare_next, to - from);
		meta.spare_end = meta.spare_next;
	}
	lock_release(&meta.lock);
}

bool meta_each_range(bool (*fn)(uintptr_t start, size_t size, void *arg), void *arg)
{
	bool ok = true;

	lock_acquire(&meta.lock);
	for (uint32_t i = 0; ok && i < meta.nranges; i++)
		ok = fn(meta.ranges[i].start, meta.ranges[i].size, arg);
	lock_release(&meta.lock);
	return ok;
}

static bool range_excludes(uintptr_t start, size_t size, void *arg)
{
	return *(const uintptr_t *)arg - start >= size;
}

bool meta_is_ours(uintptr_t addr)
{
	return !meta_each_range(range_excludes, &addr);
}

size_t meta_usable(uintptr_t start, size_t size)
{
	if (!meta.spare || start != (uintptr_t)meta.spare)
		return size;
	return (size_t)(meta.spare_next - meta.spare);
}

size_t meta_bytes(enum meta_tag tag)
{
	return atomic_load_relaxed(&meta.bytes[tag]);
}

const char *meta_tag_name(enum meta_tag tag)
{
	static const char *const names[META_TAG_COUNT] = {
		[META_SPAN] = "spans",	    [META_MCACHE] = "caches",
		[META_CENTRAL] = "central", [META_THREAD] = "threads",
		[META_SITE] = "sites",	    [META_SAMPLE] = "samples",
		[META_STACK] = "stacks",    [META_PPROF] = "pprof",
		[META_LEAK] = "leaks",	    [META_ESCAPE] = "escapes",
		[META_OTHER] = "other",
	};

	return names[tag];
}

size_t meta_bytes_total(void)
{
	size_t sum = 0;

	for (int i = 0; i < META_TAG_COUNT; i++)
		sum += atomic_load_relaxed(&meta.bytes[i]);
	return sum;
}

static bool fixalloc_refill(struct fixalloc *f)
{
	size_t size = f->size > FIXALLOC_CHUNK / 8 ? f->size * 8 : FIXALLOC_CHUNK;
	char *chunk = meta_alloc(size, CACHE_LINE, f->tag);

	if (!chunk && size > f->size) { /* memory is short: just the one */
		size = f->size;
		chunk = meta_alloc(size, CACHE_LINE, f->tag);
	}
	if (!chunk)
		return false;
	f->next = chunk;
	f->end = chunk + size;
	return true;
}

/* In the first of some neighbours that are free; nothing is in the others. */
struct fixalloc_run {
	struct fixalloc_run *next;
	size_t more; /* others */
};

static void *take_freed(struct fixalloc *f)
{
	struct fixalloc_run *run = f->free;
	char *p = (char *)run;

	if (run->more > 0)
		p += run->more-- * f->size;
	else
		f->free = run->next;
	memset(p, 0, f->size);
	return p;
}

void *fixalloc_get(struct fixalloc *f)
{
	void *p;

	if (f->free) {
		p = take_freed(f);
	} else {
		if ((size_t)(f->end - f->next) < f->size && !fixalloc_refill(f))
			return NULL;
		p = f->next;
		f->next += f->size;
	}
	f->inuse++;
	return p;
}

void fixalloc_put(struct fixalloc *f, void *p)
{
	*(struct fixalloc_run *)p = (struct fixalloc_run){ .next = f->free };
	f->free = p;
	f->inuse--;
}

/* Two lists, each in ascending order, as one. */
static struct fixalloc_run *merge(struct fixalloc_run *a, struct fixalloc_run *b)
{
	struct fixalloc_run *first = NULL, **end = &first;

	while (a && b) {
		struct fixalloc_run **least = a < b ? &a : &b;

		*end = *least;
		end = &(*least)->next;
		*least = *end;
	}
	*end = a ? a : b;
	return first;
}

/* lists[i] holds 2^i runs or none. */
static struct fixalloc_run *sort(struct fixalloc_run *run)
{
	struct fixalloc_run *lists[SORT_LISTS] = { NULL }, *next;
	size_t i;

	for (; run; run = next) {
		next = run->next;
		run->next = NULL;
		for (i = 0; lists[i] && i < SORT_LISTS - 1; i++) {
			run = merge(lists[i], run);
			lists[i] = NULL;
		}
		lists[i] = merge(lists[i], run);
	}
	for (i = 0; i < SORT_LISTS; i++)
		run = merge(lists[i], run);
	return run;
}

static size_t purge_run(const struct fixalloc *f, struct fixalloc_run *run)
{
	uintptr_t from = align_up((uintptr_t)(run + 1), OS_PAGE);
	uintptr_t to = align_down((uintptr_t)run + (run->more + 1) * f->size, OS_PAGE);

	return to > from && os_purge((void *)from, to - from) ? to - from : 0;
}

size_t fixalloc_trim(struct fixalloc *f)
{
	struct fixalloc_run *run = sort(f->free);
	size_t bytes = 0;

	f->free = run;
	for (; run; run = run->next) {
		while (run->next &&
		       (char *)run->next == (char *)run + (run->more + 1) * f->size) {
			run->more += run->next->more + 1;
			run->next = run->next->next;
		}
		bytes += purge_run(f, run);
	}
	return bytes;
}

bool fixalloc_ready(struct fixalloc *f, size_t n)
{
	size_t have = (size_t)(f->end - f->next) / f->size;

	for (struct fixalloc_run *r = f->free; r && have < n; r = r->next)
		have++;
	return have >= n || fixalloc_refill(f);
}

void fixalloc_feed(struct fixalloc *f, void *chunk, size_t size)
{
	memset(chunk, 0, size);
	f->next = chunk;
	f->end = f->next + size;
}

NO_LOCK_CHECK void meta_fork_prepare(void)
{
	lock_acquire(&meta.lock);
}

NO_LOCK_CHECK void meta_fork_done(bool child)
{
	if (child)
		lock_reset(&meta.lock);
	else
		lock_release(&meta.lock);
}
