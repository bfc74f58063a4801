/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark: which objects are reached. Every live slot has a bit in flat bitmaps, at its
 * span's mark_index plus its own index; a table with an entry a page leads from an
 * address to its bit without touching the span.
 *
 * White: live and not reached. Grey: reached and on a stack of a worker. Black: reached
 * and scanned.
 */
#ifndef PROFILER_LEAK_MARK_H
#define PROFILER_LEAK_MARK_H

#include "preload/base/base.h"
#include "preload/base/opt.h"
#include "preload/heap/arena.h"
#include "preload/heap/mspan.h"

#define MARK_QUEUE	32 /* objects whose cache lines are on their way */
#define MARK_FOUND	16 /* words that are looked up at once */
#define MARK_WORKERS	8  /* most, the caller's own among them */
#define MARK_RANGES	1024
#define MARK_SCAN_WORDS 128 /* looked at in one go */

struct grey {
	uintptr_t lo, hi; /* bytes still to be scanned */
};

/* Where a page's objects have their bits. All zero: no object lies there. */
struct mark_page {
	uint32_t magic;	    /* of the size class; 0: large */
	uint32_t slot_size; /* 0: large */
	uint32_t first;	    /* the span's first bit / 64 */
	uint32_t page;	    /* this page's place in the span */
};

struct mark_arena {
	uintptr_t base; /* of the first page */
	size_t bytes;
	struct mark_page *pages;
	size_t table_bytes;
	size_t room_pages; /* that the table has room for, beside a running program */
};

/* One thread's part of the work; written by that thread only. Others read the log and
 * white, and the rest when it is done. */
struct mark_worker {
	struct marker *m;
	uintptr_t lo, hi; /* where the arenas are */
	uintptr_t *stack; /* objects' first bytes */
	size_t used, capacity;
	size_t nfound;
	uint64_t *white;    /* that no worker has reached, as far as this one has heard;
			     * atomic. The caller's own: the marker's */
	uint32_t *log;	    /* beside helpers, a ring: bits it made black; atomic */
	size_t log_entries; /* a power of two */
	size_t logged;	    /* so far */
	bool logs;     /* beside helpers; not while none of them has had work for long */
	size_t lonely; /* objects since another had work */
	struct mark_heard {
		size_t up_to, asked; /* cache lines in between are on their way */
		size_t sampled;	     /* likewise, of the entries before; 0: none */
		unsigned skipped;    /* exchanges without a sample */
	} heard[MARK_WORKERS];	     /* of the logs of the others */
	struct grey *ranges;	     /* pieces longer than an object of a kilobyte */
	size_t nranges;
	struct {
		uintptr_t base;
		size_t size;
	} queue[MARK_QUEUE]; /* a ring */
	unsigned head, tail;
	uintptr_t found[MARK_FOUND + MARK_SCAN_WORDS + 1]; /* that may be pointers */
	uint64_t objects, bytes;			   /* scanned or about to be */
	char *thread_stack;				   /* of a helper */
	uint32_t tid; /* of a helper; the kernel clears it at its end; futex */
	bool stays;   /* the helper, as it could not end */
	size_t told __attribute__((
		aligned(2 * CACHE_LINE)));  /* of logged, what others may read; atomic */
} __attribute__((aligned(2 * CACHE_LINE))); /* nobody else's are beside it */

struct absent;
struct mark_pool;

struct marker {
	uintptr_t lo, hi; /* heap_bounds() */
	struct mark_arena arenas[ARENA_MAX];
	size_t narenas;
	uint64_t *live;	   /* given out and in no cache */
	uint64_t *white;   /* live and not reached, as of the last mark_drain() */
	uint64_t *pointed; /* mark: reached, but no stack had room for it (spilled).
			    * sweep: another lost object points at it */
	uint64_t *inner;   /* strict: a pointer into it was seen */
	size_t nbits;
	size_t heap_bytes;    /* of the spans */
	struct mspan **spans; /* all in use, by address */
	size_t nspans;
	/* Beside a running program: the first cache line of each span, copied, with the
	 * place of its bits in alloc_bits[0]; NULL: the spans themselves are looked at.
	 */
	char *heads;
	uint64_t *born;		      /* the same: made since mark_fill() */
	uint64_t *maybe;	      /* the same: see mark_reach_inner() */
	bool has_maybe;		      /* since then */
	size_t room_spans, room_bits; /* mapped; 0: what there is */
	/* Only a pointer to an object's first bytes reaches it; `inner` notes others. */
	bool strict;
	const struct opt_pointer *decodes; /* of the options; NULL: words as they are */
	unsigned ndecodes;
	const struct absent *absent; /* not to be read; NULL: there is nothing */
	bool is_careful;	     /* one of the two */
	unsigned nworkers;
	struct mark_worker workers[MARK_WORKERS];
	struct mark_pool *pool; /* between helpers; NULL without */
	/* Written by all, unlike what is above. */
	uint32_t spilled __attribute__((
		aligned(2 * CACHE_LINE))); /* some bit of pointed is set; atomic */
	uint32_t listens; /* workers have reached the same objects, and hear; atomic */
	size_t refill_at; /* span whose spilled objects come back next; atomic */
	uint64_t objects __attribute__((aligned(2 * CACHE_LINE))),
		bytes; /* reached, as of the last mark_drain() */

	/* Of sweep.c. */
	struct grey *stack;
	size_t used, capacity;
	bool out_of_memory; /* the stack could not grow: the result is worthless */
	bool has_odd;	    /* beside: some span could not be read: likewise */
};

/* With heap_lock_all() held. Numbers the slots of all spans and finds the live ones.
 * False: out of memory. */
bool mark_init(struct marker *m);
void mark_free(struct marker *m);
/*
 * The same without any lock, beside a program that runs: by a process that may die of it
 * (look.h), but for mark_map(), which maps memory, somewhat more than was counted.
 * mark_fill() false: more spans came than there is room for.
 */
void mark_count(struct marker *m);
bool mark_map(struct marker *m);
bool mark_fill(struct marker *m);
/* All is as mark_map() has left it, whatever mark_fill() and a marking came to. */
void mark_clear_all(struct marker *m);
/* Objects that were made since are white. False: of some there was no room, and what they
 * hold stays white. */
bool mark_refresh(struct marker *m);
/* What was reached is scanned again, in the next mark_drain() or before. */
void mark_again(struct marker *m);
/* From now on pointers into the middle of objects reach them, too. What is white and only
 * such pointers lead to is reached by now, and noted in `maybe`. */
void mark_reach_inner(struct marker *m);
/* In between, what is in `maybe` is reached, by pointers to its start, and in it no more;
 * nothing else is. False: nothing is in it. */
bool mark_begin_maybe(struct marker *m);
void mark_end_maybe(struct marker *m);
/* That is white again, as far as it has not gone, for a sweep to count what of it is
 * possibly lost; it leaves the rest of it alone. */
void mark_show_maybe(struct marker *m);
/* Objects that lie in caches by now are neither live nor white. */
void mark_drop_cached(struct marker *m);
/* Slots that are neither live nor free for all that the tables tell. */
struct mark_doubts {
	struct mark_doubt {
		uintptr_t base;
		bool is_free; /* it lies in a cache */
	} * list;
	uint32_t *table;     /* 1 + place in the list, by base */
	size_t count, asked; /* caches were asked for so many */
	bool full;	     /* there are more */
	/* The page that was looked up last, and the span that lies there or before. */
	uintptr_t walked, near;
};
bool mark_doubts_map(struct mark_doubts *d); /* false: out of memory */
void mark_doubts_unmap(struct mark_doubts *d);
/* The memory from lo to hi was written since it was scanned: what is black there is
 * scanned again, as with mark_range(). Right after mark_refresh(), or with d: then all
 * doubts since are settled by mark_settle(), STW: what was made since is reached. */
void mark_written(struct marker *m, uintptr_t lo, uintptr_t hi, struct mark_doubts *d);
void mark_settle(struct marker *m, struct mark_doubts *d);
/* An object is in doubt; STW: those that are white, but free, are neither live nor white.
 */
void mark_doubt(struct mark_doubts *d, uintptr_t base);
void mark_settle_white(struct marker *m, struct mark_doubts *d);
/* Is the object of a head still the program's, with the span as it was? */
bool mark_is_still_live(const struct mspan *head, uint32_t index);
/* Then what the head leads to of records is not true any more. */
bool mark_has_new_samples(const struct mspan *head);
/* STW. The words of [lo, hi), lo aligned here, are looked at in the next mark_drain(), or
 * before. */
void mark_range(struct marker *m, uintptr_t lo, uintptr_t hi);
/* STW. And those that no multiple of a word's size is the address of; lo and hi are such.
 */
void mark_code(struct marker *m, uintptr_t lo, uintptr_t hi);
/* STW. The object that word lies in, if any, is reached, strict or not. What it points to
 * is, after the next mark_drain(). */
void mark_word(struct marker *m, uintptr_t word);
/* STW. Scans until no grey object is left. */
void mark_drain(struct marker *m);
size_t mark_bitmap_bytes(const struct marker *m);

/* STW. Up to n threads of our own help from now on in mark_drain(). The kernel may refuse
 * them: it is done without. They share the caller's thread pointer, so they use no libc
 * and no thread-local storage, and they are gone when mark_stop_helpers() returns. */
void mark_start_helpers(struct marker *m, unsigned n);
void mark_stop_helpers(struct marker *m);
/* How many helpers are worth having for this heap on this machine. */
unsigned mark_useful_helpers(const struct marker *m);

/* ---- between mark.c, mark_log.c and mark_pool.c ---- */

/* Works until nothing is left that w knows of. */
void mark_work(struct mark_worker *w);
bool mark_worker_init(struct marker *m, struct mark_worker *w);
void mark_worker_free(struct mark_worker *w);
/* Gives w a log, and a helper its own white. */
bool mark_log_init(struct mark_worker *w);
void mark_log_free(struct mark_worker *w);
/* w tells what it has logged, and hears what the others told. */
void mark_log_exchange(struct mark_worker *w);
/* w has marked n more objects while all others were idle, or (0) while some were not. */
void mark_log_lonely(struct mark_worker *w, size_t n);
/* With all idle: what any worker has reached is not white, and counted once. */
void mark_log_merge(struct marker *m);
/* FAST. How many wait for work? */
unsigned mark_pool_idle(const struct mark_pool *pool);
/* Gives some of w's work away, if it can spare any. */
void mark_pool_donate(struct mark_worker *w);
/* The caller's: there is work again (true), or all are idle. */
bool mark_pool_await(struct mark_worker *w);

/* ---- for sweep.c ---- */

/* FAST. The live object that word lies in: its span and bit number. */
struct mspan *mark_find(const struct marker *m, uintptr_t word, uint32_t *out_index,
			size_t *out_bit);
/* FAST. Where the bits of s, of m->spans, begin. */
static inline size_t mark_first_bit(const struct marker *m, const struct mspan *s)
{
	return m->heads ? (size_t)s->alloc_bits[0] : s->mark_index;
}
/* FAST. One bit more than slots, for the tail behind the last: it is never white. */
static inline size_t mark_bits_of(const struct mspan *s)
{
	return align_up((size_t)s->nslots + 1, 64);
}
/* FAST. The arena that addr lies in, or NULL. */
static inline const struct mark_arena *mark_arena_of(const struct marker *m,
						     uintptr_t addr)
{
	for (size_t i = 0; i < m->narenas; i++)
		if (addr - m->arenas[i].base < m->arenas[i].bytes)
			return &m->arenas[i];
	return NULL;
}
/* The head whose bits hold this one. */
struct mspan *mark_head_of(const struct marker *m, size_t bit);
static inline bool mark_test(const uint64_t *bits, size_t bit)
{
	return bits[bit / 64] >> (bit % 64) & 1;
}
static inline void mark_set(uint64_t *bits, size_t bit)
{
	bits[bit / 64] |= (uint64_t)1 << (bit % 64);
}
static inline void mark_clear(uint64_t *bits, size_t bit)
{
	bits[bit / 64] &= ~((uint64_t)1 << (bit % 64));
}

#endif
