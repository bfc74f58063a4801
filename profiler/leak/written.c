/* SPDX-License-Identifier: Apache-2.0 */
/*
 * written: see written.h. Numbers are linux/userfaultfd.h's, which may be older than the
 * kernel.
 */
#include "profiler/leak/written.h"

#include <fcntl.h>
#include <string.h>
#include <sys/utsname.h>

#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "profiler/leak/pagemap.h"

#define MAX_RANGES     65536
#define FOLLOW_TRIES   3 /* mappings go while the list is read */
#define PIECE	       (32 * MIB)
#define DOUBTFUL_MOST  512  /* each takes the better part of a microsecond */
#define ABSENT_MOST    2048 /* likewise */
#define USER_END       (((uintptr_t)1 << 47) - OS_PAGE)

#define USER_MODE_ONLY 1
#define API	       0xc018aa3fu
#define REGISTER       0xc020aa00u
#define UNREGISTER     0x8010aa01u
#define VERSION	       0xaau
#define BY_WRITES      2u /* mode: write-protect */
#define UNPOPULATED    (1u << 13)
#define ASYNC	       (1u << 15)

#define SINCE_MAJOR    6 /* a page that mremap() moves is no longer taken for unwritten */
#define SINCE_MINOR    13

struct api {
	uint64_t version, features, calls;
};
struct range {
	uint64_t start, length;
};
struct registering {
	struct range range;
	uint64_t mode, calls;
};

static struct root_range *map_list(void)
{
	return meta_map(MAX_RANGES * sizeof(struct root_range), META_LEAK);
}

static void unmap_list(struct root_range *list)
{
	meta_unmap(list, MAX_RANGES * sizeof(*list), META_LEAK);
}

bool written_map(struct written *w)
{
	memset(w, 0, sizeof(*w));
	w->uffd = w->pagemap = -1;
	w->known = map_list();
	w->watched = map_list();
	w->apart = map_list();
	w->dirty = map_list();
	w->doubtful = map_list();
	return w->known && w->watched && w->apart && w->dirty && w->doubtful;
}

void written_unmap(struct written *w)
{
	unmap_list(w->known);
	unmap_list(w->watched);
	unmap_list(w->apart);
	unmap_list(w->dirty);
	unmap_list(w->doubtful);
	memset(w, 0, sizeof(*w));
}

/* In order; what follows at once is one range. */
static void append(struct written *w, struct root_range *list, size_t *count,
		   uintptr_t lo, uintptr_t hi)
{
	if (lo >= hi)
		return;
	if (*count > 0 && list[*count - 1].hi == lo)
		list[*count - 1].hi = hi;
	else if (*count == MAX_RANGES)
		w->full = true;
	else
		list[(*count)++] = (struct root_range){ lo, hi };
}

/* ---- what is ours ---- */

static bool holds_arena(const struct root_range *r)
{
	for (size_t i = 0; i < arena_count(); i++)
		if (arena_at(i)->base - r->lo < r->hi - r->lo)
			return true;
	return false;
}

static void set_apart(struct written *w, const struct roots_known *own)
{
	w->napart = 0;
	for (size_t i = 0; i < own->nown && w->napart < MAX_RANGES; i++)
		if (!holds_arena(&own->own[i]))
			w->apart[w->napart++] =
				(struct root_range){ align_down(own->own[i].lo, OS_PAGE),
						     align_up(own->own[i].hi, OS_PAGE) };
	roots_sort(w->apart, w->napart);
}

/* ---- watching ---- */

static long watch(const struct written *w, uintptr_t lo, uintptr_t hi)
{
	struct registering r = { .range = { lo, hi - lo }, .mode = BY_WRITES };

	return os_call(SYS_ioctl, w->uffd, REGISTER, (long)&r, 0, 0, 0);
}

/* The kernel's own pages, and what others write behind the program's back, are none. */
static bool must_be_watched(const struct os_mapping *m)
{
	return m->writable && !m->shared && !(m->path && strncmp(m->path, "[v", 2) == 0);
}

static void watch_piece(struct written *w, const struct os_mapping *m, uintptr_t lo,
			uintptr_t hi)
{
	if (lo >= hi)
		return;
	if (watch(w, lo, hi) == 0)
		append(w, w->watched, &w->nwatched, lo, hi);
	else if (must_be_watched(m))
		w->refused = true;
}

static bool see_mapping(char *line, void *arg)
{
	struct written *w = arg;
	struct os_mapping m;
	uintptr_t lo;

	if (!os_parse_mapping(line, &m) || m.lo >= USER_END)
		return true;
	append(w, w->known, &w->nknown, m.lo, m.hi);
	lo = m.lo;
	for (size_t i = 0; i < w->napart && w->apart[i].lo < m.hi; i++) {
		if (w->apart[i].hi <= lo)
			continue;
		if (w->apart[i].lo > lo)
			watch_piece(w, &m, lo, w->apart[i].lo);
		lo = w->apart[i].hi;
	}
	watch_piece(w, &m, lo, m.hi);
	return true;
}

bool written_follow(struct written *w)
{
	for (int i = 0; i < FOLLOW_TRIES; i++) {
		w->nknown = w->nwatched = 0;
		w->full = w->refused = false;
		if (os_each_line("/proc/thread-self/maps", see_mapping, w) != 0)
			return false;
		if (!w->refused)
			return !w->full;
	}
	return false;
}

/* ---- beginning and end ---- */

static bool is_recent(void)
{
	struct utsname name;
	unsigned version[2] = { 0, 0 };
	const char *c = name.release;

	if (os_call(SYS_uname, (long)&name, 0, 0, 0, 0, 0) != 0)
		return false;
	for (int i = 0; i < 2; i++, c += *c == '.')
		for (; *c >= '0' && *c <= '9'; c++)
			version[i] = version[i] * 10 + (unsigned)(*c - '0');
	return version[0] > SINCE_MAJOR ||
	       (version[0] == SINCE_MAJOR && version[1] >= SINCE_MINOR);
}

/* Without the right to serve faults of the kernel, which none of it needs. */
static bool open_uffd(struct written *w)
{
	struct api api = { .version = VERSION, .features = ASYNC | UNPOPULATED };

	w->uffd =
		(int)os_call(SYS_userfaultfd, O_CLOEXEC | USER_MODE_ONLY, 0, 0, 0, 0, 0);
	return w->uffd >= 0 && os_call(SYS_ioctl, w->uffd, API, (long)&api, 0, 0, 0) == 0;
}

static void add_huge(uintptr_t lo, uintptr_t hi, void *arg)
{
	*(size_t *)arg += (hi - lo) / PAGEMAP_HUGE_BYTES;
}

static bool count_huge(struct written *w)
{
	bool told = true;

	w->huge = 0;
	for (size_t i = 0; told && i < w->nwatched; i++)
		told = pagemap_each(w->pagemap, w->watched[i].lo, w->watched[i].hi,
				    PAGEMAP_HUGE, add_huge, &w->huge);
	return told;
}

const char *written_begin(struct written *w, const struct roots_known *own)
{
	size_t in_huge;

	w->uffd = -1;
	w->pagemap = pagemap_open();
	if (w->pagemap < 0 || !pagemap_may_ask() || !is_recent() || !open_uffd(w))
		return "the kernel does not tell which pages are written";
	set_apart(w, own);
	if (!written_follow(w))
		return "some memory cannot be watched";
	if (!count_huge(w) || !written_collect(w, true))
		return "pages cannot be watched";
	in_huge = w->huge * (PAGEMAP_HUGE_BYTES / OS_PAGE);
	w->pages = w->dirty_pages > in_huge ? w->dirty_pages - in_huge : 0;
	return NULL;
}

static void forget_pieces(const struct written *w, uintptr_t lo, uintptr_t hi)
{
	while (lo < hi) {
		const uintptr_t end = hi - lo > PIECE ? lo + PIECE : hi;
		struct range r = { lo, end - lo };

		os_call(SYS_ioctl, w->uffd, UNREGISTER, (long)&r, 0, 0, 0);
		lo = end;
	}
}

static uintptr_t end_of_arena(const struct arena *a)
{
	return a->base + (atomic_load_acquire(&a->end_page) << PAGE_SHIFT);
}

/* Behind its end an arena has nothing that takes time. */
static uintptr_t end_of_pages(uintptr_t lo, uintptr_t hi)
{
	for (size_t i = 0; i < arena_count(); i++) {
		const struct arena *a = arena_at(i);
		const uintptr_t end = end_of_arena(a);

		if (a->base - lo < hi - lo && end - lo < hi - lo)
			return align_up(end, OS_PAGE);
	}
	return hi;
}

void written_end(struct written *w)
{
	for (size_t i = 0; w->uffd >= 0 && i < w->nwatched; i++)
		forget_pieces(w, w->watched[i].lo,
			      end_of_pages(w->watched[i].lo, w->watched[i].hi));
	if (w->uffd >= 0)
		os_close(w->uffd);
	if (w->pagemap >= 0)
		os_close(w->pagemap);
	w->uffd = w->pagemap = -1;
}

/* ---- asking ---- */

static void note_dirty(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct written *w = arg;

	append(w, w->dirty, &w->ndirty, lo, hi);
	w->dirty_pages += (hi - lo) / OS_PAGE;
}

/* The first piece of [*lo, hi) in an arena. False: there is none. */
static bool next_in_arena(uintptr_t *lo, uintptr_t *hi)
{
	uintptr_t from = *hi, to = *hi;

	for (size_t i = 0; i < arena_count(); i++) {
		const struct arena *a = arena_at(i);
		const uintptr_t start = a->start > *lo ? a->start : *lo,
				end = end_of_arena(a);

		if (atomic_load_relaxed(&a->size) != 0 && start < end && start < from) {
			from = start;
			to = end < *hi ? end : *hi;
		}
	}
	*lo = from;
	*hi = to;
	return from < to;
}

/* By the quick way; who was told by it before may not be there. */
static void note_quick(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct written *w = arg;

	while (w->at_doubt < w->ndoubtful && w->doubtful[w->at_doubt].hi <= lo)
		w->at_doubt++;
	if (w->at_doubt < w->ndoubtful && w->doubtful[w->at_doubt].lo < hi)
		w->told &= pagemap_each_written(w->pagemap, lo, hi, false, note_dirty, w);
	else
		note_dirty(lo, hi, w);
}

/* What is in no arena, and what is in one, if w is dense. */
static bool collect_range(struct written *w, uintptr_t lo, uintptr_t hi)
{
	while (lo < hi) {
		uintptr_t from = lo, to = hi;

		if (!w->dense || !next_in_arena(&from, &to))
			from = to = hi;
		if ((lo < from &&
		     !pagemap_each_written(w->pagemap, lo, from, false, note_dirty, w)) ||
		    (from < to && !pagemap_each_written_or_absent(w->pagemap, from, to,
								  note_quick, w)))
			return false;
		lo = to;
	}
	return w->told;
}

static bool collect(struct written *w, bool again)
{
	w->ndirty = w->dirty_pages = w->at_doubt = 0;
	w->full = false;
	w->told = true;
	for (size_t i = 0; i < w->nwatched; i++) {
		const struct root_range *r = &w->watched[i];

		if (again ? !pagemap_each_written(w->pagemap, r->lo, r->hi, true,
						  note_dirty, w)
			  : !collect_range(w, r->lo, r->hi))
			return false;
	}
	return true;
}

bool written_collect(struct written *w, bool again)
{
	const bool was_full = w->full; /* of the lists of mappings */

	if (!collect(w, again))
		return false;
	/* Many may have gone since the others were noted. */
	if (!again && w->dense && (w->full || w->dirty_pages > ABSENT_MOST)) {
		w->dense = false;
		if (!collect(w, again))
			return false;
	}
	w->full |= was_full;
	return !w->full;
}

static void note_doubtful(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct written *w = arg;

	if (w->ndoubtful < DOUBTFUL_MOST)
		w->doubtful[w->ndoubtful] = (struct root_range){ lo, hi };
	w->ndoubtful++;
}

void written_weigh(struct written *w)
{
	bool told = true;

	w->ndoubtful = 0;
	for (size_t i = 0; told && i < w->nwatched; i++) {
		uintptr_t lo = w->watched[i].lo, hi = w->watched[i].hi;

		for (; told && next_in_arena(&lo, &hi); lo = hi, hi = w->watched[i].hi)
			told = pagemap_each_written_or_absent(w->pagemap, lo, hi,
							      note_doubtful, w);
	}
	w->dense = told && w->ndoubtful <= DOUBTFUL_MOST;
}

static void note_unknown(uintptr_t lo, uintptr_t hi, void *arg)
{
	(void)lo;
	(void)hi;
	*(bool *)arg = true;
}

bool written_knows_all(const struct written *w)
{
	bool unknown = false;
	uintptr_t lo = 0;

	for (size_t i = 0; i <= w->nknown; i++) {
		const uintptr_t hi = i < w->nknown ? w->known[i].lo : USER_END;

		if (lo < hi &&
		    !pagemap_each(w->pagemap, lo, hi, PAGEMAP_PRESENT | PAGEMAP_SWAPPED,
				  note_unknown, &unknown))
			return false;
		lo = i < w->nknown ? w->known[i].hi : USER_END;
	}
	return !unknown;
}
