/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hidden: see hidden.h.
 *
 * What the copy lacks: mappings of the program that are not in the copy's list. Those
 * made since the copy are among them and do no harm: nothing that is lost can be found
 * there. But what was made since may lie where in the copy something is lost, and be
 * found in them, too; so whether they are such is asked then, by the flag "dc" of the
 * program's mappings. What the copy has empty: by the flag "wf".
 *
 * What the copy has empty, too: pages that userfaultfd has not supplied yet. The
 * program's list tells (flag "um"), the copy's does not: those mappings are not
 * registered.
 *
 * The descriptors were opened by the program itself, so no permission is asked any more.
 */
#include "profiler/leak/hidden.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"

#define CHUNK	   (256 * KIB)
#define MAX_RANGES 4096
#define MAX_HELD   16

struct search {
	struct marker *m;
	const struct roots *roots;
	const struct origin *from;
	struct root_range *list; /* found */
	size_t count;
	uintptr_t lo, hi; /* of the mapping whose lines are read */
	char *buffer;	  /* CHUNK */
	bool failed;
	/* Pieces from where something was reached, and from nowhere else, or that could
	 * not be read; more than there is room for: all of the rest. */
	struct root_range held[MAX_HELD];
	size_t nheld;
	bool unread;   /* one of them could not */
	bool withheld; /* one of them was not to be copied */
};

/* Is it a line of a mapping that is private, readable and writable? */
static bool parse_mapping(const char *line, struct os_mapping *out)
{
	return os_parse_mapping(line, out) && out->readable && out->writable &&
	       !out->shared;
}

static void add(struct search *s, uintptr_t lo, uintptr_t hi)
{
	if (lo >= hi)
		return;
	if (s->count == MAX_RANGES)
		s->failed = true;
	else
		s->list[s->count++] = (struct root_range){ lo, hi };
}

/* What of [lo, hi) none of the sorted ranges covers. */
static void add_uncovered(struct search *s, const struct root_range *list, size_t n,
			  uintptr_t lo, uintptr_t hi)
{
	size_t first = 0, end = n;

	while (first < end) {
		size_t middle = (first + end) / 2;

		if (list[middle].lo <= lo)
			first = middle + 1;
		else
			end = middle;
	}
	for (first = first ? first - 1 : 0; first < n && list[first].lo < hi; first++) {
		if (list[first].hi <= lo)
			continue;
		if (list[first].lo > lo)
			add(s, lo, list[first].lo);
		lo = list[first].hi;
	}
	add(s, lo, hi);
}

/* From its beginning: a copy before this one may have read it, and they share the place
 * in it. text: CHUNK. */
static bool each_line_of(int fd, char *text, void (*fn)(const char *line, void *arg),
			 void *arg)
{
	size_t have = 0;
	long n;

	os_call(SYS_lseek, fd, 0, SEEK_SET, 0, 0, 0);
	while ((n = os_read(fd, text + have, CHUNK - 1 - have)) > 0) {
		char *line = text, *end;

		have += (size_t)n;
		text[have] = '\0';
		for (; (end = strchr(line, '\n')); line = end + 1) {
			*end = '\0';
			fn(line, arg);
		}
		have -= (size_t)(line - text);
		memmove(text, line, have);
	}
	return n == 0;
}

/* A mapping of the program. */
static void see_lacking(const char *line, void *arg)
{
	struct search *s = arg;
	struct os_mapping m;

	if (parse_mapping(line, &m))
		add_uncovered(s, s->roots->include, s->roots->ninclude, m.lo, m.hi);
}

static bool see_flags(char *line, void *arg)
{
	struct search *s = arg;
	struct os_mapping m;

	if ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f')) {
		s->lo = s->hi = 0;
		if (parse_mapping(line, &m)) {
			s->lo = m.lo;
			s->hi = m.hi;
		}
	} else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " wf")) {
		add(s, s->lo, s->hi);
	}
	return true;
}

static void note_held(struct search *s, uintptr_t lo, uintptr_t hi)
{
	if (s->nheld == MAX_HELD)
		s->held[MAX_HELD - 1] = (struct root_range){ 0, UINTPTR_MAX };
	else
		s->held[s->nheld++] = (struct root_range){ lo, hi };
}

static void see_withheld(const char *line, void *arg)
{
	struct search *s = arg;
	struct os_mapping m;

	if (os_parse_mapping(line, &m)) {
		s->lo = m.lo;
		s->hi = m.hi;
		return;
	}
	if (strncmp(line, "VmFlags:", 8) != 0 ||
	    (!strstr(line, " dc") && !strstr(line, " wf")))
		return;
	for (size_t i = 0; i < s->nheld; i++)
		s->withheld |= s->held[i].lo < s->hi && s->lo < s->held[i].hi;
}

/* Is one of the pieces from what the program has kept from its copy? */
static bool is_withheld(struct search *s)
{
	if (s->nheld == 0)
		return false;
	return s->from->smaps < 0 ||
	       !each_line_of(s->from->smaps, s->buffer, see_withheld, s) || s->withheld;
}

static void read_range(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct search *s = arg;

	while (lo < hi) {
		const uint64_t before = s->m->objects;
		size_t size = hi - lo < CHUNK ? hi - lo : CHUNK;
		long n = os_call(SYS_pread64, s->from->memory, (long)s->buffer,
				 (long)size, (long)lo, 0, 0);

		if (n == -EIO || n == 0) { /* gone, or not to be read */
			lo += OS_PAGE;
			continue;
		}
		if (n < 0) {
			s->unread = true;
			note_held(s, lo, hi);
			return;
		}
		mark_range(s->m, (uintptr_t)s->buffer, (uintptr_t)s->buffer + (size_t)n);
		mark_drain(s->m);
		if (s->m->objects > before)
			note_held(s, lo, lo + (size_t)n);
		lo += (size_t)n;
	}
}

static int compare(const struct root_range *a, const struct root_range *b)
{
	return a->lo < b->lo ? -1 : a->lo > b->lo;
}

static void sort(struct root_range *list, size_t n)
{
	for (size_t i = 1; i < n; i++)
		for (size_t k = i; k > 0 && compare(&list[k - 1], &list[k]) > 0; k--) {
			struct root_range x = list[k];

			list[k] = list[k - 1];
			list[k - 1] = x;
		}
}

static bool find_and_read(struct search *s)
{
	struct roots found = *s->roots;

	if (!each_line_of(s->from->maps, s->buffer, see_lacking, s))
		return false;
	/* A kernel without it has no such flag to show. */
	os_each_line("/proc/thread-self/smaps", see_flags, s);
	sort(s->list, s->count);
	found.include = s->list;
	found.ninclude = s->count;
	roots_each(&found, read_range, s);
	return !s->failed;
}

bool hidden_mark(struct marker *m, const struct roots *roots, const struct origin *from,
		 bool *out_any)
{
	struct search s = { .m = m, .roots = roots, .from = from };
	bool ok = false;

	*out_any = false;
	if (roots->no_maps) /* what was seen is known to be too little */
		return true;
	s.list = meta_map(MAX_RANGES * sizeof(*s.list), META_LEAK);
	s.buffer = meta_map(CHUNK, META_LEAK);
	if (s.list && s.buffer && from->maps >= 0) /* memory: only if there is any */
		ok = find_and_read(&s);
	*out_any = is_withheld(&s);
	ok &= !(s.unread && *out_any);
	meta_unmap(s.list, MAX_RANGES * sizeof(*s.list), META_LEAK);
	meta_unmap(s.buffer, CHUNK, META_LEAK);
	return ok;
}

/* ---- pages that the program waits for ---- */

struct wait {
	uintptr_t lo, hi; /* of the mapping whose lines are read */
	uint64_t kib;	  /* of it that is there, or swapped out */
	bool awaited;
};

static uint64_t number_in(const char *line)
{
	uint64_t n = 0;

	for (; *line; line++)
		if (*line >= '0' && *line <= '9')
			n = n * 10 + (uint64_t)(*line - '0');
	return n;
}

static bool holds_objects(uintptr_t lo, uintptr_t hi)
{
	for (; lo < hi && arena_of(lo); lo += OS_PAGE)
		if (heap_find(lo, NULL))
			return true;
	return false;
}

static void see_wait(const char *line, void *arg)
{
	struct wait *w = arg;
	struct os_mapping m;

	if (os_parse_mapping(line, &m)) {
		w->lo = m.lo;
		w->hi = m.hi;
		w->kib = 0;
	} else if (strncmp(line, "Rss:", 4) == 0 || strncmp(line, "Swap:", 5) == 0) {
		w->kib += number_in(line);
	} else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " um") &&
		   w->kib < (w->hi - w->lo) / KIB) {
		w->awaited |= holds_objects(w->lo, w->hi);
	}
}

bool hidden_is_awaited(const struct origin *from)
{
	struct wait w = { .awaited = false };
	char *buffer;

	if (!from->supplied)
		return false;
	buffer = meta_map(CHUNK, META_LEAK);
	if (!buffer || from->smaps < 0 ||
	    !each_line_of(from->smaps, buffer, see_wait, &w))
		w.awaited = true; /* for all we know */
	meta_unmap(buffer, CHUNK, META_LEAK);
	return w.awaited;
}

void hidden_open(struct origin *out)
{
	out->supplied = roots_are_supplied();
	out->smaps = os_open("/proc/thread-self/smaps", O_RDONLY, 0);
	out->maps = os_open("/proc/thread-self/maps", O_RDONLY, 0);
	/* Where the program has changed its user, it is root's; few need it. */
	out->memory = os_open("/proc/thread-self/mem", O_RDONLY, 0);
}

void hidden_close(struct origin *o)
{
	if (o->maps >= 0)
		os_close(o->maps);
	if (o->memory >= 0)
		os_close(o->memory);
	if (o->smaps >= 0)
		os_close(o->smaps);
}
