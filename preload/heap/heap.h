/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap: the allocator. This comment is the map; each file says its part.
 *
 *   malloc  entry -> mcache -miss-> mcentral -miss-> mheap -> arena -> os
 *   free    entry -> page class byte -> mcache -full-> mcentral -> mheap -> scavenge ->
 * os
 *
 * mcache (one a thread) holds, per size class, an array of pointers to free slots: malloc
 * pops, free pushes into the freeing thread's own array, whoever allocated the object.
 * mcentral (one a size class) moves half arrays between mcaches and spans, through a
 * transfer cache of whole batches. mheap owns the pages: runs are given out as spans and
 * coalesced again. The arena is one contiguous reservation with, in front of the pages,
 * one class byte and one span pointer a page:
 *
 *   base                                                 base + size
 *   | class bytes | span pointers | page | page | page | ...       |
 *
 * "Is p ours and of which class?" is therefore p - base < size, then one byte load. Class
 * 0 sends free() to its slow path: large objects, pages with sampled objects, our tables.
 *
 * The profiler above plugs in through struct heap_hooks; each hook may be NULL. Sampling
 * costs the fast path one subtraction: every mcache has a budget of bytes, and malloc
 * takes the slow path when it is spent.
 *
 * A process is young until it has freed HEAP_YOUTH objects: all frees take the slow path,
 * which looks for each among what is free. Most programs that free wrongly do so in a
 * small test, too, and to one that does much it is nothing.
 *
 * Concurrency: an mcache is touched by its thread only (others only with the world
 * stopped and all heap locks held); lock order is MCACHE, MCENTRAL (one a class), MHEAP,
 * ARENA, META. State that is all zero is valid: malloc works before any constructor ran.
 */
#ifndef PRELOAD_HEAP_HEAP_H
#define PRELOAD_HEAP_HEAP_H

#include "preload/base/base.h"
#include "preload/heap/mspan.h"

struct mcache;

/*
 * What the profiler does at heap events. All are called by the thread itself, without any
 * heap lock held; they must not allocate from the heap and must keep errno.
 */
struct heap_hooks {
	/* A sampled object has just been carved out for the program: size is the bytes
	 * asked. Called when the thread's byte budget is spent, also in a thread that is
	 * exiting. The hook sets the next budget with heap_set_budget(). SLOW. */
	void (*sample_malloc)(void *p, size_t size);
	/* The same two of a large object, when there is nothing to ask; NULL: the general
	 * ones do it. The first returns os_coarse_ns(). The second also releases
	 * s->samples. SLOW. */
	uint64_t (*sample_large)(struct mspan *s, size_t size);
	void (*free_large)(struct mspan *s);
	/* The calling thread has just got its mcache, before its first object. SLOW. */
	void (*thread_start)(void);
	/* The first byte budget of a new thread's mcache; NULL: no sampling. FAST. */
	int64_t (*first_budget)(void);
	/* p is being freed and s->samples is not NULL. index is its slot. False: it is
	 * known to be free already. SLOW. */
	bool (*sample_free)(struct mspan *s, uint32_t index, void *p);
	/* Of which slots is it known whether an object lives there? s->samples, if not
	 * NULL, then has a 32-bit word of each slot, mark_size bytes apart, the first one
	 * at mark_head: over INT32_MAX, the slot is free; 0: it is not known; else not.
	 * mark_size is 0 when nothing is known; atomic. */
	uint32_t mark_head, mark_size;
	/* The program has misused p and will be ended: prints what is known of the object
	 * at p. s may be NULL. DUMP. */
	void (*misuse)(const struct mspan *s, uint32_t index, const void *p);
	/* realloc() grew or shrank p in place; s->samples is not NULL. SLOW. */
	void (*sample_resize)(struct mspan *s, uint32_t index, void *p, size_t size);
	/* What is kept for later is to be given back. SLOW. */
	void (*trim)(void);
	/* The span is being returned: let go of s->samples. Called with the class's lock
	 * held (small) or none (large): may take only META and the sampler's own lock. */
	void (*release_samples)(struct mspan *s);
};
extern struct heap_hooks heap_hooks; /* filled once in preload/api/init.c */

/* Called with every object that is made before the library's constructor: begins to
 * profile, as that would, since constructors of other libraries come first and allocate.
 * False: too early, or busy. NULL: it has begun, or never will. Atomic. SLOW. */
extern bool (*heap_begin)(void);

/* ---- the malloc family without errno and without C library semantics ---- */

/* SLOW parts; the FAST part is inline in mcache.h. All return NULL when memory is out. */
void *heap_malloc_slow(size_t size);
/* size is over SIZECLASS_MAX_SIZE - heap_padding. */
void *heap_malloc_large_slow(size_t size);
/* The object of s, which is just made, spent the thread's byte budget; returns it. */
void *heap_sample_large(struct mspan *s, size_t size);
void *heap_calloc_slow(size_t size);	      /* zeroed */
void *heap_calloc(size_t count, size_t size); /* overflow: NULL */
void *heap_realloc(void *p, size_t size);     /* p not NULL, ours; NULL: p stands */
void *heap_memalign_slow(size_t align, size_t size); /* align: power of two */
void heap_free_slow(void *p);			     /* any p, also NULL and foreign */
/* The same of a p that is a multiple of 16 in a page of the first arena whose class byte
 * is 0. */
void heap_free_unclassed(void *p, size_t page);
/* A page of zeroes that was never part of an object: no stale pointer of the program can
 * point at it. NULL when memory is out. */
void *heap_alloc_unseen(void);
size_t heap_usable_size(const void *p); /* 0 for NULL */
/* That of an object made so, at least; 0: there can be none. align: power of two. */
size_t heap_usable_size_of(size_t align, size_t size);
bool heap_trim(void); /* give free memory back; true: something was */
/* Somebody needs address space that a limit forbids: the same where it may help. True:
 * try again. */
bool heap_make_room(void);
/* The program limits its address space to limit bytes: what we hold in reserve counts
 * against it and is given back. SLOW. */
void heap_limit_space(size_t limit);

/* A pointer that is not ours reached free/realloc/usable_size. Set by api. */
struct heap_foreign {
	void (*free)(void *p);
	void *(*realloc)(void *p, size_t size);
	size_t (*usable_size)(const void *p);
};
extern struct heap_foreign heap_foreign;

/* ---- threads ---- */

/* The calling thread's mcache, made now if need be; NULL in an exiting thread. SLOW. */
struct mcache *heap_thread_start(void);
/* Empties and gives up the calling thread's mcache; later calls of this thread use the
 * shared fallback. SLOW. */
void heap_thread_exit(void);
/* The process ends: names wrong frees that the calling thread's mcache still shows. */
void heap_process_exit(void);

/* SIGNAL, in a thread that holds no lock. Gives the thread a fresh mcache until
 * heap_thread_pop(), because a signal has interrupted its work with the present one. What
 * push returns is for pop. Without memory the present one stays. */
uintptr_t heap_thread_push(void);
void heap_thread_pop(uintptr_t saved);

/* ---- sampling ---- */

/* Bytes until the next sample of the calling thread. Negative: the next allocation is
 * sampled, whatever its size. */
void heap_set_budget(int64_t bytes);
/* Draws the byte budgets of all threads anew, while they run; the fallback's too. limit:
 * a budget above it cannot have come from draw. SLOW, takes its time: milliseconds. */
void heap_redraw_budgets(int64_t (*draw)(void), int64_t limit);
/* From now on every free takes the slow path (exact mode): clears the class bytes of all
 * pages, now and for new spans. One way. SLOW. */
void heap_slow_frees(void);

/* Bytes kept free behind every object, so that a pointer to its end still lies in its
 * slot: 0, or 1 in a process whose leaks are looked for. Objects that the fast path makes
 * are not padded. Set once, before there are threads. */
extern size_t heap_padding HIDDEN;

/* Threads take slots from mcentral in multiples of so many neighbours, a power of two,
 * where these are small: 8 where every object has a record beside its span, of which so
 * many fill whole cache lines. Set once, before there are threads. */
extern uint32_t heap_neighbours;

/* ---- looking at the heap ---- */

/* The span in use that holds addr, with the slot's index, or NULL. Reads without locks:
 * exact for an address the caller keeps alive, or with heap_lock_all() held. Interior
 * addresses of large objects are found only between heap_index_large() and the next
 * large allocation. FAST. */
struct mspan *heap_find(uintptr_t addr, uint32_t *out_index);
/* Bounds of all arenas: [*out_lo, *out_hi). Cheap first filter for conservative scans. */
void heap_bounds(uintptr_t *out_lo, uintptr_t *out_hi);

/* Every heap lock in rank order (leak check, fork). Nothing may allocate in between, by
 * any thread; lookups and the functions below are allowed. */
void heap_lock_all(void);
void heap_unlock_all(void);
/* fork: prepare takes the locks; done releases them in the parent and resets them in the
 * child, where the other threads' mcaches are emptied into the central lists. */
void heap_fork_prepare(void);
void heap_fork_done(bool child);
/* With heap_lock_all() held: points every page of large spans to them. */
void heap_index_large(void);
/* With heap_lock_all() held and the world stopped. Not those in lcaches. fn false stops
 * the walk. */
void heap_each_span(bool (*fn)(struct mspan *s, void *arg), void *arg);
/* Every free slot that alloc_bits shows as given out: mcache arrays, transfer caches. */
void heap_each_cached(void (*fn)(uintptr_t slot, void *arg), void *arg);
/* The same without any lock, while threads run: what fn gets may not be free any more, or
 * no slot at all, and the caller may die of memory that goes (see profiler/leak/look.h).
 */
void heap_each_cached_now(void (*fn)(uintptr_t slot, void *arg), void *arg);

/* ---- numbers ---- */

struct heap_stats {
	size_t reserved;     /* address space of all arenas, bytes */
	size_t committed;    /* made usable so far */
	size_t inuse_small;  /* bytes of spans of small objects */
	size_t inuse_large;  /* bytes of large objects' spans */
	size_t free_dirty;   /* free pages that still hold memory */
	size_t free_clean;   /* free pages given back to the system */
	size_t central_free; /* bytes of free slots in spans and transfer caches */
	size_t cached;	     /* bytes of free slots in mcaches (racy estimate) */
	size_t tails;	     /* bytes at the ends of spans, too short for a slot */
	size_t live_bytes;   /* inuse without these three: slots the program holds */
	size_t peak_inuse;   /* highest inuse_small + inuse_large */
	size_t nspans, nlarge, nmcaches;
	size_t nfree_runs;  /* of pages, with the large objects that threads keep */
	size_t nfree_slots; /* in spans and transfer caches */
	size_t ncached;	    /* free slots in mcaches (racy estimate) */
	uint64_t nrefill,
		nflush; /* trips of mcaches to mcentral; 0 = never served anybody */
	uint64_t npurged_bytes; /* given back so far */
	uint64_t nforeign;	/* foreign pointers met */
};
void heap_get_stats(struct heap_stats *out);

/* One size class. span_bytes = live + free + transfer + cached objects, and tails. */
struct heap_class_stats {
	size_t slot_size, nspans, span_bytes;
	size_t live, free, transfer, cached; /* objects; cached: a racy estimate */
};
void heap_get_class_stats(unsigned sizeclass, struct heap_class_stats *out);
/* Has any program allocation been served yet? */
bool heap_was_used(void);

#endif
