/* SPDX-License-Identifier: Apache-2.0 */
/*
 * site: the calling-context tree. A node is one frame below its parent's frame; the node
 * of a whole stack is that stack's site. Nodes are never freed, so a site id stays good
 * for the life of the process. Counters are made for leaf nodes only.
 *
 * Concurrency: lookups take no lock; inserting takes one (rank SITE). Counters are
 * atomic. Ids are 1-based; 0 means "no site".
 */
#ifndef PROFILER_SITE_SITE_H
#define PROFILER_SITE_SITE_H

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "profiler/stack/unwind.h"

#define SITE_NONE 0u

/* Objects are counted in fixed point with this many fraction bits, since a sampled object
 * stands for 1/(1-e^(-size/period)) objects. */
#define SITE_SHIFT 16

/* Counters of one site; all atomic, relaxed: writers are any thread, readers are reports.
 */
struct site_counters {
	uint64_t alloc_objects; /* fixed point, SITE_SHIFT */
	uint64_t alloc_bytes;	/* unsampled bytes asked */
	uint64_t free_objects;	/* fixed point */
	uint64_t free_bytes;
	uint64_t samples; /* objects actually recorded; not counted in exact mode */
	/* Owned by profiler/sample/peak.c: alloc - free at the peak of that number. */
	uint64_t peak_objects, peak_bytes, peak_number;
};
_Static_assert(sizeof(struct site_counters) == CACHE_LINE, "no two sites in one line");

/*
 * Counters of a site that has made few objects, each a whole one (exact mode): most sites
 * of a large program never make more than one or two. `now` changes by compare and swap.
 * It holds bytes and objects made and freed, or, once they do not suffice, the number of
 * struct site_counters, which took over all. `peak` has the latest peak's number that the
 * site has met, and what was live then.
 */
struct site_few {
	uint64_t now;  /* atomic; FEW_*, or FEW_MOVED and the number */
	uint64_t peak; /* atomic; number << 32, objects << FEW_SHIFT, bytes */
};
#define FEW_SHIFT	  24 /* bits of bytes: all that the site has ever made */
#define FEW_BYTES_MOST	  (((uint64_t)1 << FEW_SHIFT) - 1)
#define FEW_OBJECTS_MOST  63u
#define FEW_OBJECT	  ((uint64_t)1 << 48)
#define FEW_FREED_SHIFT	  FEW_SHIFT
#define FEW_FREED_OBJECT  ((uint64_t)1 << 55)
#define FEW_MOVED	  ((uint64_t)1 << 63)
#define FEW_PEAK_SHIFT	  32
#define FEW_OBJECTS_FIELD 127u

/* FAST. What a site has made and freed, in whole objects. */
struct few_sums {
	uint32_t made, freed;
	uint64_t made_bytes, freed_bytes;
};
static inline struct few_sums few_read(uint64_t now)
{
	return (struct few_sums){
		.made = (uint32_t)(now / FEW_OBJECT) & FEW_OBJECTS_FIELD,
		.freed = (uint32_t)(now / FEW_FREED_OBJECT) & FEW_OBJECTS_FIELD,
		.made_bytes = now & FEW_BYTES_MOST,
		.freed_bytes = now >> FEW_FREED_SHIFT & FEW_BYTES_MOST,
	};
}

/* SLOW. The site of a stack, innermost frame first. 0 when out of memory. No heap. */
uint32_t site_intern(const struct frame *frames, int count);
/* SLOW. The node of pc below parent (SITE_NONE: pc is the outermost frame). 0 when out of
 * memory. */
uint32_t site_child(uint32_t parent, uintptr_t pc);
/* FAST. */
uint32_t site_parent(uint32_t site); /* the caller's node; 0 at the outermost frame */
uintptr_t site_pc(uint32_t site);    /* return address, or a pseudo pc of unwind.h */
uint32_t site_depth(uint32_t site);  /* frames from here outwards. DUMP */
uint32_t site_count(void);	     /* no id is higher */
bool site_exists(uint32_t id); /* is it a site's, as one from a torn record may not be? */
/* SLOW. Those of a site that has made few, made at first use; NULL when out of memory. It
 * may have counters already: see now. */
struct site_few *site_few(uint32_t site);
/* SLOW. The counters of a site, made at first use and with all that it has made so far;
 * NULL when out of memory. */
struct site_counters *site_counters(uint32_t site);
/* FAST. Whose counters these are. */
uint32_t site_of_number(uint32_t number);

/* Where the tree and counters lie: written by site.c alone. Chunks never move. */
#define SITE_LG_CHUNK	      14
#define SITE_LG_FEW_CHUNK     11
#define SITE_LG_COUNTER_CHUNK 9
#define SITE_CHUNKS	      4096 /* 64 million cells */
#define SITE_FEW_CHUNKS	      2048 /* 4 million sites that made anything */
#define SITE_COUNTER_CHUNKS   8192 /* as many that made much */
struct site_chunks {
	uint32_t *cells[SITE_CHUNKS];			     /* atomic */
	struct site_few *few[SITE_FEW_CHUNKS];		     /* atomic */
	struct site_counters *counters[SITE_COUNTER_CHUNKS]; /* atomic */
};
extern struct site_chunks site_chunks HIDDEN;

/* A cell: the return address of a node (code.h), or one of these. */
#define SITE_PARENT 0x80000000u /* and whose child the next cell's node is */
#define SITE_FEW    0xc0000000u /* and the number of struct site_few, of the node before */
#define SITE_TAG    0xc0000000u
#define SITE_VALUE  0x3fffffffu

/* FAST. The cell with that number. */
static inline uint32_t *site_cell(uint32_t at)
{
	return &atomic_load_acquire(
		&site_chunks
			 .cells[at >> SITE_LG_CHUNK])[at & ((1u << SITE_LG_CHUNK) - 1)];
}

/* FAST. Counters by their number. */
static inline struct site_counters *site_counters_at(uint32_t number)
{
	return &atomic_load_acquire(
		&site_chunks.counters[number >> SITE_LG_COUNTER_CHUNK])
		[number & ((1u << SITE_LG_COUNTER_CHUNK) - 1)];
}

/* FAST. */
static inline struct site_few *site_few_at(uint32_t number)
{
	return &atomic_load_acquire(&site_chunks.few[number >> SITE_LG_FEW_CHUNK])
		[number & ((1u << SITE_LG_FEW_CHUNK) - 1)];
}

/* SLOW. site_few_number() where it is not behind the node. */
uint32_t site_few_elsewhere(uint32_t site);

/* FAST. Of the site's struct site_few; 0: there is none. */
static inline uint32_t site_few_number(uint32_t site)
{
	uint32_t cell;

	if (UNLIKELY(site == SITE_NONE))
		return 0;
	cell = atomic_load_acquire(site_cell(site + 1));
	return LIKELY(cell >= SITE_FEW) ? cell & SITE_VALUE : site_few_elsewhere(site);
}

/* FAST. Of the site's counters; 0: there are none. */
static inline uint32_t site_number(uint32_t site)
{
	uint32_t few = site_few_number(site);
	uint64_t now = few ? atomic_load_acquire(&site_few_at(few)->now) : 0;

	return now & FEW_MOVED ? (uint32_t)now : 0;
}

/* FAST. Counters if there are any, else NULL. */
static inline struct site_counters *site_counters_if_any(uint32_t site)
{
	uint32_t number = site_number(site);

	return number ? site_counters_at(number) : NULL;
}
/* DUMP. Every site that has counters, with all shares of them (share.h). fn false stops.
 */
void site_each(bool (*fn)(uint32_t site, struct site_counters *c, void *arg), void *arg);
/* DUMP. Leaf first: the pcs of a site into pcs[0..max), returns how many. */
int site_stack(uint32_t site, uintptr_t *pcs, int max);
void site_fork_prepare(void);
void site_fork_done(bool child);

/* ---- the file that outlives the process, see store.h ---- */
struct store_owner;
struct store_header;
/* INIT, before the first site. */
bool site_store(const struct store_owner *owner, uint64_t period);
/* In a forked child, before its first sample: to a file of its own. */
void site_store_move(const struct store_owner *owner);
/* DUMP. Takes the sites of a process that has ended in the place of our own, which must
 * have none. Damaged nodes count as outermost frames, or have no address. */
bool site_adopt(const struct store_header *h);

#endif
