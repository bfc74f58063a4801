/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roots: see roots.h.
 *
 * Included: every writable mapping of the process (data, bss, stacks with the TLS and
 * thread descriptors above them, anonymous and shared memory, the brk heap), anonymous
 * memory that may only be read by now or not even that, among it code that the program
 * has made, and the RELRO parts of modules. Excluded: our own memory and module, the dead
 * part of each thread's stack below its stack pointer, and whole stacks of finished
 * threads, which glibc keeps for the next thread, with all that their last owner left
 * there; the program may use one that it has given itself again.
 */
#include "profiler/leak/roots.h"

#include <link.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/base/filter.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "profiler/leak/pagemap.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"

#define MAX_RANGES  65536
#define MAX_REGIONS 256
#define LARGE	    (4 * MIB) /* a mapping with holes worth looking for */
#define MAX_HOLES   16384     /* of one mapping */
#define USER_END    ((uintptr_t)1 << 56)
#define PROBED	    (256 * MIB) /* of a region, where mappings are not known */

static struct {
	struct root_range list[MAX_REGIONS]; /* of the LSan interface */
	size_t count;
} regions;

bool roots_init(struct roots *r)
{
	memset(r, 0, sizeof(*r));
	r->capacity = MAX_RANGES;
	r->include = meta_map(MAX_RANGES * sizeof(*r->include), META_LEAK);
	r->exclude = meta_map(MAX_RANGES * sizeof(*r->exclude), META_LEAK);
	r->code = meta_map(MAX_RANGES * sizeof(*r->code), META_LEAK);
	r->before = meta_map(MAX_RANGES * sizeof(*r->before), META_LEAK);
	return unreadable_init(&r->unreadable, MAX_RANGES) &&
	       absent_init(&r->absent, MAX_RANGES) && r->include && r->exclude &&
	       r->code && r->before;
}

void roots_free(struct roots *r)
{
	meta_unmap(r->include, MAX_RANGES * sizeof(*r->include), META_LEAK);
	meta_unmap(r->exclude, MAX_RANGES * sizeof(*r->exclude), META_LEAK);
	meta_unmap(r->code, MAX_RANGES * sizeof(*r->code), META_LEAK);
	meta_unmap(r->before, MAX_RANGES * sizeof(*r->before), META_LEAK);
	unreadable_free(&r->unreadable);
	absent_free(&r->absent);
}

static void add(struct roots *r, struct root_range *list, size_t *count, uintptr_t lo,
		uintptr_t hi)
{
	if (lo >= hi)
		return;
	if (*count == r->capacity)
		r->full = true;
	else
		list[(*count)++] = (struct root_range){ lo, hi };
}

static void include(struct roots *r, uintptr_t lo, uintptr_t hi)
{
	add(r, r->include, &r->ninclude, lo, hi);
}

static void exclude(struct roots *r, uintptr_t lo, uintptr_t hi)
{
	add(r, r->exclude, &r->nexclude, lo, hi);
}

void roots_include(struct roots *r, uintptr_t lo, uintptr_t hi)
{
	include(r, lo, hi);
}

void roots_exclude(struct roots *r, uintptr_t lo, uintptr_t hi)
{
	exclude(r, lo, hi);
}

/* ---- mappings ---- */

static bool begins(const char *path, const char *with)
{
	return strncmp(path, with, strlen(with)) == 0;
}

static bool is_device(const char *path)
{
	return begins(path, "/dev/") && !begins(path, "/dev/shm") &&
	       !begins(path, "/dev/zero");
}

/* Anonymous memory has names, too: one that was given to it, and a shared one's. */
static bool is_anonymous(const struct os_mapping *m)
{
	return !m->path || begins(m->path, "[anon:") || begins(m->path, "/dev/zero");
}

/* Ranges of ours are known beforehand where no lock may be taken: see roots_know(). */
static bool is_ours(const struct roots *r, uintptr_t addr)
{
	if (!r->known)
		return meta_is_ours(addr);
	for (size_t i = 0; i < r->known->nown; i++)
		if (addr - r->known->own[i].lo <
		    r->known->own[i].hi - r->known->own[i].lo)
			return true;
	return false;
}

static bool is_made_code(const struct roots *r, const struct os_mapping *m)
{
	return m->executable && m->readable && !is_ours(r, m->lo) &&
	       (is_anonymous(m) || begins(m->path, "/memfd:"));
}

/* A file may end before its mapping does, and what the program names may be anything:
 * each page is asked for. */
static void include_readable(struct roots *r, uintptr_t lo, uintptr_t hi)
{
	uintptr_t start = lo, next;

	for (; lo < hi; lo = next) {
		next = align_down(lo, OS_PAGE) + OS_PAGE;
		if (unreadable_is_not(lo))
			continue;
		include(r, start, lo);
		start = next;
	}
	include(r, start, hi);
}

static bool has_pagemap(struct roots *r)
{
	if (r->pagemap == 0) {
		int fd = pagemap_open();

		r->pagemap = fd < 0 ? fd : fd + 1;
	}
	return r->pagemap > 0;
}

/* Of a large mapping of no file: not the holes where the program never wrote. Reading
 * them takes a fault a page. */
struct filled {
	struct roots *r;
	uintptr_t lo, hi; /* the run so far */
	uintptr_t gap;	  /* a smaller hole is none: the list has its limit */
};

static void add_filled(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct filled *f = arg;

	if (f->hi != 0 && lo - f->hi >= f->gap) {
		include(f->r, f->lo, f->hi);
		f->hi = 0;
	}
	if (f->hi == 0)
		f->lo = lo;
	f->hi = hi;
}

static void include_filled(struct roots *r, uintptr_t lo, uintptr_t hi)
{
	struct filled f = { .r = r, .gap = LARGE / 4 + (hi - lo) / MAX_HOLES };
	size_t before = r->ninclude;
	bool told = hi - lo >= LARGE && !is_ours(r, lo) && before < MAX_RANGES / 2 &&
		    has_pagemap(r) &&
		    pagemap_each_filled(r->pagemap - 1, lo, hi, add_filled, &f);

	if (!told) {
		r->ninclude = before;
		include(r, lo, hi);
	} else if (f.hi != 0) {
		include(r, f.lo, f.hi);
	}
}

/* Only what is there; of the heap it is the marker that leaves the rest out. */
static void include_supplied(struct roots *r, uintptr_t lo, uintptr_t hi)
{
	struct filled f = { .r = r, .gap = OS_PAGE };

	if (!has_pagemap(r) ||
	    !pagemap_each_filled(r->pagemap - 1, lo, hi, add_filled, &f))
		r->unseen = true;
	else if (f.hi != 0)
		include(r, f.lo, f.hi);
}

static void open_filled(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct roots *r = arg;

	if (arena_of(lo))
		return;
	if (unreadable_open_others(&r->unreadable, lo, hi))
		include(r, lo, hi);
	else
		r->closed = true;
}

/* Memory of no file without any right: mostly reserved or a guard, and empty; but a
 * program may have written there before, and may open it again. */
static void open_closed(struct roots *r, const struct os_mapping *m)
{
	if (!is_anonymous(m) || m->shared || m->executable || is_ours(r, m->lo) ||
	    !has_pagemap(r))
		return;
	pagemap_each_filled(r->pagemap - 1, m->lo, m->hi, open_filled, r);
}

/* Not the run table and the profile store, which are large. */
static bool is_root(const struct roots *r, const struct os_mapping *m)
{
	if (!m->readable || (m->shared && is_ours(r, m->lo)))
		return false;
	if (m->writable)
		return !m->path || !is_device(m->path);
	return is_anonymous(m) || is_made_code(r, m);
}

static void include_mapping(struct roots *r, const struct os_mapping *m)
{
	if (r->supplied && !is_ours(r, m->lo))
		include_supplied(r, m->lo, m->hi);
	else if (m->path && m->path[0] == '/')
		include_readable(r, m->lo, m->hi);
	else if (m->shared)
		include(r, m->lo, m->hi);
	else
		include_filled(r, m->lo, m->hi);
}

/* What the program has named as roots: what is there. Where it is closed, open_closed()
 * sees to private memory of no file. */
static void see_regions(struct roots *r, const struct os_mapping *m)
{
	const bool opened = is_anonymous(m) && !m->shared && !m->executable;

	for (size_t i = 0; i < regions.count; i++) {
		uintptr_t lo = align_up(regions.list[i].lo, 8), hi = regions.list[i].hi;

		lo = lo > m->lo ? lo : m->lo;
		hi = hi < m->hi ? hi : m->hi;
		if (lo >= hi || is_root(r, m) || is_ours(r, m->lo))
			continue;
		if (m->readable || m->writable)
			include_readable(r, lo, hi);
		else if (!opened || !has_pagemap(r))
			r->shut = r->unreadable.met = true;
	}
}

/* The same without a list of mappings; the verdict is not sure of losses then. */
static void probe_regions(struct roots *r)
{
	for (size_t i = 0; i < regions.count; i++) {
		uintptr_t lo = align_up(regions.list[i].lo, 8), hi = regions.list[i].hi;

		if (hi > USER_END)
			hi = USER_END;
		if (lo < hi && hi - lo > PROBED)
			hi = lo + PROBED;
		include_readable(r, lo, hi);
	}
}

/* Included, too, is memory of no file that may only be read: tables that the program has
 * sealed. */
static void see_piece(struct roots *r, const struct os_mapping *m)
{
	size_t before = r->ninclude;

	if (!m->readable && !m->writable) {
		unreadable_open(&r->unreadable, m->lo, m->hi,
				m->executable ? PROT_EXEC : PROT_NONE);
		open_closed(r, m);
	}
	if (is_root(r, m))
		include_mapping(r, m);
	see_regions(r, m);
	for (; is_made_code(r, m) && before < r->ninclude; before++)
		add(r, r->code, &r->ncode, r->include[before].lo, r->include[before].hi);
}

/* The kernel makes one mapping of what is ours and what is the program's if they are
 * neighbours and alike. */
struct cut {
	uintptr_t lo,
		hi; /* the first piece: up to where something of ours begins or ends */
};

static bool cut_at(uintptr_t start, size_t size, void *arg)
{
	struct cut *c = arg;

	if (start > c->lo && start < c->hi)
		c->hi = align_down(start, OS_PAGE);
	if (start + size > c->lo && start + size < c->hi)
		c->hi = align_up(start + size, OS_PAGE);
	return true;
}

static uintptr_t end_of_piece(const struct roots *r, uintptr_t lo, uintptr_t hi)
{
	struct cut c = { lo, hi };

	if (!r->known)
		meta_each_range(cut_at, &c);
	for (size_t i = 0; r->known && i < r->known->nown; i++)
		cut_at(r->known->own[i].lo, r->known->own[i].hi - r->known->own[i].lo,
		       &c);
	return c.hi < hi ? c.hi : hi;
}

/* A mapping up to pages in it that cannot be read. */
struct guarded {
	struct roots *r;
	struct os_mapping m; /* what is left of it */
};

static void see_pieces(struct guarded *g, uintptr_t end)
{
	for (struct os_mapping *m = &g->m; m->lo < end; m->lo = m->hi) {
		m->hi = end_of_piece(g->r, m->lo, end);
		see_piece(g->r, m);
	}
}

static void leave_out_guards(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct guarded *g = arg;

	for (; lo < hi; lo += OS_PAGE) {
		if (unreadable_is_not(lo))
			continue;
		see_pieces(g, lo);
		g->m.lo = lo + OS_PAGE;
		if (!g->r->supplied) /* else it has been seen */
			absent_note(&g->r->absent, lo);
	}
}

static bool see_line(char *line, void *arg)
{
	struct roots *r = arg;
	struct guarded g = { .r = r };
	uintptr_t end;

	if (!os_parse_mapping(line, &g.m))
		return true;
	end = g.m.hi;
	r->absent.full |= r->supplied && !has_pagemap(r);
	absent_see(&r->absent, &g.m, r->supplied ? r->pagemap - 1 : -1);
	/* Each page of a file is asked for anyway. */
	if (g.m.readable && !(g.m.path && g.m.path[0] == '/') &&
	    (!has_pagemap(r) ||
	     !pagemap_each_guard(r->pagemap - 1, g.m.lo, end, leave_out_guards, &g)))
		leave_out_guards(g.m.lo, end, &g);
	see_pieces(&g, end);
	return true;
}

/* Pages of a mapping may come from a thread of the program (userfaultfd), which stands
 * still; or from another process. */
static void see_descriptor(const char *fd, void *arg)
{
	struct roots *r = arg;
	char path[64], kind[32];
	long n;

	if (r->supplied)
		return;
	fmt_string(path, sizeof(path), "/proc/thread-self/fd/%s", fd);
	n = os_readlink(path, kind, sizeof(kind) - 1);
	kind[n > 0 ? n : 0] = '\0';
	r->supplied = strcmp(kind, "anon_inode:[userfaultfd]") == 0;
}

/* Of the thread, not of the process: the latter's is empty once the main thread has
 * called pthread_exit. */
static bool see_maps(struct roots *r)
{
	bool read;

	r->supplied = !r->known && !r->is_copy && os_faults_are_served();
	if (!r->supplied && !r->known && !r->is_copy && !filter_from_before())
		os_each_entry("/proc/thread-self/fd", see_descriptor, r);
	read = os_each_line("/proc/thread-self/maps", see_line, r) == 0;
	if (r->pagemap > 0)
		os_close(r->pagemap - 1);
	r->pagemap = 0;
	return read && r->ninclude > 0;
}

/* ---- modules ---- */

static void exclude_seep(struct roots *r)
{
	for (uint32_t i = 0; i < module_count(); i++)
		if (module_at(i)->is_seep && !module_at(i)->unloaded)
			exclude(r, module_at(i)->start, module_at(i)->end);
}

static void see_modules(struct roots *r)
{
	exclude_seep(r);
	for (uint32_t i = 0; i < module_count(); i++) {
		const struct module *m = module_at(i);

		if (m->unloaded || m->is_seep)
			continue;
		/* It may have been closed since the list was made. */
		include_readable(r, align_up(m->relro_start, 8), m->relro_end);
		for (uint32_t k = 0; r->no_maps && k < m->nsegments; k++)
			if (m->segments[k].writable)
				include(r, m->segments[k].start, m->segments[k].end);
	}
}

/* Without a list of mappings: the calling thread's thread-local storage and descriptor.
 */
static int see_own_tls(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t data = size >= sizeof(*info) ? (uintptr_t)info->dlpi_tls_data : 0;
	uintptr_t self = (uintptr_t)__builtin_thread_pointer();

	for (unsigned i = 0; data && i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			include(arg, align_down(data, 8),
				data + info->dlpi_phdr[i].p_memsz);
	if (data)
		include(arg, self, self + THREAD_DESCRIPTOR_BYTES);
	return 0;
}

static bool see_own(uintptr_t start, size_t size, void *arg)
{
	exclude(arg, start, start + size);
	return true;
}

/* ---- sorted, without overlaps ---- */

void roots_sort(struct root_range *list, size_t n)
{
	/* Shell sort: lists are nearly sorted, and libc's qsort may allocate. */
	for (size_t gap = n / 2; gap > 0; gap /= 2)
		for (size_t i = gap; i < n; i++) {
			struct root_range x = list[i];
			size_t k = i;

			for (; k >= gap && list[k - gap].lo > x.lo; k -= gap)
				list[k] = list[k - gap];
			list[k] = x;
		}
}

static void exclude_known(struct roots *r)
{
	r->nexclude = r->known->nown;
	memcpy(r->exclude, r->known->own, r->nexclude * sizeof(*r->exclude));
}

void roots_restack(struct roots *r, const struct world *w)
{
	struct root_range *list = r->before;

	r->before = r->exclude;
	r->nbefore = r->nexclude;
	r->exclude = list;
	exclude_known(r);
	exclude_seep(r);
	roots_see_stacks(r, w, 0, thread_list());
	roots_sort(r->exclude, r->nexclude);
}

bool roots_collect(struct roots *r, const struct world *w, uintptr_t own_sp)
{
	if (r->known) {
		r->ninclude = r->ncode = 0;
		absent_forget(&r->absent);
		r->pagemap = 0; /* of one that died: its own */
		exclude_known(r);
		r->full = r->unseen = r->shut = false;
		r->unreadable.only_look = true;
		r->unreadable.met = false;
	}
	r->no_maps = !see_maps(r);
	if (r->known && roots_unfit(r))
		return false;
	if (r->no_maps)
		unreadable_open_all(&r->unreadable);
	see_modules(r);
	roots_see_stacks(r, w, own_sp, roots_threads(r));
	if (r->no_maps)
		loader_each(see_own_tls, r);
	if (!r->known)
		meta_each_range(see_own, r);
	if (r->no_maps)
		probe_regions(r);
	roots_sort(r->include, r->ninclude);
	roots_sort(r->exclude, r->nexclude);
	roots_sort(r->code, r->ncode);
	return !r->unreadable.full && !r->absent.full;
}

/* ---- beside a running program ---- */

const struct thread_info *roots_threads(const struct roots *r)
{
	return r->known ? r->known->threads : thread_list();
}

#define ROOM_THREADS 64 /* that may come between counting and copying */

static size_t count_threads(void)
{
	size_t n = 0;

	for (const struct thread_info *t = thread_list(); t; t = t->next)
		n++;
	return n;
}

/* With the registry locked. */
static void copy_threads(struct roots_known *k, size_t room)
{
	struct thread_info *last = NULL;
	size_t n = 0;

	for (const struct thread_info *t = thread_list(); t && n < room; t = t->next) {
		struct thread_info *copy = &k->room[n++];

		*copy = *t;
		copy->next = NULL;
		if (last)
			last->next = copy;
		else
			k->threads = copy;
		last = copy;
	}
}

bool roots_know(struct roots *r, struct roots_known *out)
{
	size_t room;
	uint64_t start;

	memset(out, 0, sizeof(*out));
	thread_lock();
	room = count_threads() + ROOM_THREADS;
	thread_unlock();
	out->room_bytes = room * sizeof(*out->room);
	out->room = meta_map(out->room_bytes, META_LEAK);
	out->own = meta_map(MAX_RANGES * sizeof(*out->own), META_LEAK);
	r->known = out;
	if (!out->room || !out->own)
		return false;
	memset(out->room, 0, out->room_bytes); /* no fault with the lock held */
	start = os_now_ns();
	thread_lock();
	copy_threads(out, room);
	thread_unlock();
	out->locked_ns = os_now_ns() - start;
	meta_each_range(see_own, r);
	out->nown = r->nexclude;
	memcpy(out->own, r->exclude, out->nown * sizeof(*out->own));
	return !r->full;
}

void roots_forget(struct roots *r, struct roots_known *k)
{
	meta_unmap(k->room, k->room_bytes, META_LEAK);
	meta_unmap(k->own, MAX_RANGES * sizeof(*k->own), META_LEAK);
	r->known = NULL;
	r->ninclude = r->nexclude = r->ncode = 0;
	absent_forget(&r->absent);
	r->no_maps = r->hidden = r->closed = r->full = r->supplied = r->unseen = false;
	r->shut = false;
	r->pagemap = 0;
	r->unreadable.only_look = r->unreadable.met = r->unreadable.full = false;
}

const char *roots_unfit(const struct roots *r)
{
	if (r->no_maps)
		return "the list of mappings (/proc) is not readable";
	if (r->full || r->absent.full)
		return "more than 65536 mappings";
	if (r->unreadable.met)
		return "the program has closed memory to itself (PROT_NONE)";
	return NULL;
}

struct descriptors {
	struct roots roots;
	const char *of;
	size_t count;
};

static void see_one_descriptor(const char *fd, void *arg)
{
	struct descriptors *d = arg;
	char path[96], kind[32];
	long n;

	d->count++;
	if (d->roots.supplied)
		return;
	fmt_string(path, sizeof(path), "%s/%s", d->of, fd);
	n = os_readlink(path, kind, sizeof(kind) - 1);
	kind[n > 0 ? n : 0] = '\0';
	d->roots.supplied = strcmp(kind, "anon_inode:[userfaultfd]") == 0;
}

/* The table of the main thread is that of all others, unless it is gone. */
bool roots_are_supplied(void)
{
	struct descriptors d = { .of = "/proc/self/fd" };
	int error;

	if (os_faults_are_served() || filter_from_before())
		return true;
	error = os_each_entry(d.of, see_one_descriptor, &d);
	return error != 0 || d.count == 0 || d.roots.supplied;
}

void roots_close(struct roots *r)
{
	unreadable_close(&r->unreadable);
}

static uintptr_t region_end(uintptr_t lo, size_t size)
{
	return size > UINTPTR_MAX - lo ? UINTPTR_MAX : lo + size;
}

void roots_add_region(uintptr_t lo, size_t size)
{
	if (regions.count < MAX_REGIONS)
		regions.list[regions.count++] =
			(struct root_range){ lo, region_end(lo, size) };
}

void roots_each_region_in_heap(void (*fn)(uintptr_t addr, void *arg), void *arg)
{
	for (size_t i = 0; i < regions.count; i++)
		if (regions.list[i].lo < regions.list[i].hi &&
		    arena_of(regions.list[i].lo))
			fn(regions.list[i].lo, arg);
}

void roots_remove_region(uintptr_t lo, size_t size)
{
	for (size_t i = 0; i < regions.count; i++)
		if (regions.list[i].lo == lo &&
		    regions.list[i].hi == region_end(lo, size)) {
			regions.list[i] = regions.list[--regions.count];
			return;
		}
}
