/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta: memory for ourselves, never from the heap we serve and never scanned as a root.
 * Permanent things come from a bump arena, same-size things that die from a fixalloc
 * pool, big temporary things from a mapping of their own. Everything is charged to a tag.
 */
#ifndef PRELOAD_BASE_META_H
#define PRELOAD_BASE_META_H

#include "preload/base/base.h"
#include "preload/base/lock.h"

enum meta_tag {
	META_SPAN,
	META_MCACHE,
	META_CENTRAL,
	META_THREAD,
	META_SITE,
	META_SAMPLE,
	META_STACK,
	META_PPROF,
	META_LEAK,
	META_ESCAPE,
	META_OTHER,
	META_TAG_COUNT
};

/* SLOW. Zeroed, permanent memory of any size; align is a power of two up to OS_PAGE.
 * NULL when the system refuses. */
void *meta_alloc(size_t size, size_t align, enum meta_tag tag);

/* SLOW. A zeroed mapping of its own, size rounded up to OS_PAGE; NULL when refused. */
void *meta_map(size_t size, enum meta_tag tag);
/* SLOW. Likewise, with what processes cloned from now on write into it. What is not
 * touched costs nothing. */
void *meta_map_shared(size_t size, enum meta_tag tag);
/* SLOW. A mapping that is scanned as if it were the program's; NULL when refused. */
void *meta_map_scanned(size_t size);
void meta_unmap(void *p, size_t size, enum meta_tag tag); /* same size as asked */
/* Grows a meta_map() mapping, moving it if need be; NULL: refused, the old one stands. */
void *meta_remap(void *p, size_t old_size, size_t new_size, enum meta_tag tag);

/* Calls fn for every range of address space that is ours: metadata, and whatever was
 * added with meta_register_range() (the arenas). Locks: takes META for reading the list;
 * fn must not call meta_*. Returns false when fn did. */
bool meta_each_range(bool (*fn)(uintptr_t start, size_t size, void *arg), void *arg);
bool meta_register_range(uintptr_t start, size_t size); /* false: table full */
/* Unmaps such a range. */
void meta_unmap_range(uintptr_t start, size_t size);
/* [from, to), part of one range, is not ours any more. */
void meta_punch_range(uintptr_t from, uintptr_t to);
/* Under a limit of the address space: gives back what is held in reserve. */
void meta_limit_space(size_t limit);
bool meta_is_ours(uintptr_t addr);
/* INIT, at its end: from here on only calls that any malloc makes. */
void meta_started(void);
/* FAST. Are huge pages worth their price now? So it is taken at first. */
void meta_want_huge(bool want);
/* Bytes of a range, from its start, that were ever usable: of a reservation not all. */
size_t meta_usable(uintptr_t start, size_t size);
size_t meta_bytes(enum meta_tag tag);
size_t meta_bytes_total(void);
const char *meta_tag_name(enum meta_tag tag);

/* A pool of equal objects. Constant-initialise with FIXALLOC_INIT; its owner's lock
 * guards it (fixalloc takes none but META). Objects come zeroed. */
struct fixalloc {
	size_t size;	   /* of one object, 16 at least, immutable */
	enum meta_tag tag; /* immutable */
	void *free;	   /* freed objects: struct fixalloc_run */
	char *next, *end;  /* rest of the current chunk */
	size_t inuse;	   /* objects handed out */
};
#define FIXALLOC_INIT(object_size, meta_tag)             \
	{                                                \
		.size = (object_size), .tag = (meta_tag) \
	}
void *fixalloc_get(struct fixalloc *f); /* NULL when the system refuses */
void fixalloc_put(struct fixalloc *f, void *p);
/* Will the next n (few) fixalloc_get() succeed? */
bool fixalloc_ready(struct fixalloc *f, size_t n);
/* Gives the system back what only freed objects lie in; bytes. SLOW: they are sorted. */
size_t fixalloc_trim(struct fixalloc *f);
/* Memory from elsewhere to make objects of, when the system gives no more; CACHE_LINE
 * aligned, of any contents. */
void fixalloc_feed(struct fixalloc *f, void *chunk, size_t size);

/* fork: META is a leaf, taken last. */
void meta_fork_prepare(void);
void meta_fork_done(bool child);

#endif
