/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share: a thread's own part of the counters, so that threads that allocate at the same
 * stacks do not wait for each other. What counts is the sum of a site's counters and of
 * all shares of it: an object may be freed in another share than it was made in, so that
 * live figures of one share may be negative (modulo 2^64) but their sum is not. Since
 * nobody else writes to a share, it needs no locked instruction.
 *
 * A thread gets a share at its first event beside other threads and gives it back at its
 * end, with all that is in it: the next thread goes on there. So nothing is ever moved,
 * and the sum is right at every moment, also of a process that was killed. Threads beyond
 * SHARES at a time, and rarer events, count in the site's own counters, atomically.
 */
#ifndef PROFILER_SITE_SHARE_H
#define PROFILER_SITE_SHARE_H

#include "profiler/site/site.h"
#include "profiler/stack/thread.h"

#define SHARES		   64
#define SHARE_LG_CHUNK	   4
#define SHARE_LG_TABLE	   10
#define SHARE_TABLES	   64 /* a million counters; later ones are in no share */
#define SHARE_CHUNK	   (1u << SHARE_LG_CHUNK)
#define SHARE_BLOCK_CHUNKS 60 /* about 64 KiB */

/* Of SHARE_CHUNK sites whose counters have numbers from first on. */
struct share_chunk {
	uint32_t first;
	uint32_t unused[15];
	struct site_counters list[SHARE_CHUNK];
};

/* Where chunks of all shares come from. In the file, if there is one: see store.h. */
struct share_block {
	uint64_t next;	/* in the file: offset of another */
	uint32_t nused; /* atomic, after first of the chunk */
	uint32_t unused[13];
	struct share_chunk chunks[SHARE_BLOCK_CHUNKS];
};

struct share_table {
	struct share_chunk *chunks[1u << SHARE_LG_TABLE]; /* atomic */
};

struct share {
	struct share_table *tables[SHARE_TABLES]; /* atomic */
	bool taken;				  /* guarded by the lock */
	/* Objects; the owner's, atomic. In a line of its own. */
	uint64_t recorded __attribute__((aligned(2 * CACHE_LINE)));
} __attribute__((aligned(2 * CACHE_LINE)));

/* FAST. */
static inline struct site_counters *share_find(const struct share *s, uint32_t number)
{
	const struct share_table *table;
	struct share_chunk *chunk;
	uint32_t i = number >> (SHARE_LG_CHUNK + SHARE_LG_TABLE);

	if (UNLIKELY(i >= SHARE_TABLES))
		return NULL;
	table = atomic_load_acquire(&s->tables[i]);
	if (UNLIKELY(!table))
		return NULL;
	chunk = atomic_load_acquire(
		&table->chunks[number >> SHARE_LG_CHUNK & ((1u << SHARE_LG_TABLE) - 1)]);
	return LIKELY(chunk != NULL) ? &chunk->list[number & (SHARE_CHUNK - 1)] : NULL;
}

/* SLOW. The same for the calling thread, made at need; NULL: it must do without. */
struct site_counters *share_make(uint32_t number);

/* FAST. The calling thread's; NULL: it has none. */
static inline struct share *share_own(void)
{
	const struct thread_info *t = seep_tls.thread;

	return LIKELY(t != NULL) ? t->share : NULL;
}

/* FAST. */
static inline struct site_counters *share_counters(uint32_t number)
{
	const struct share *own = share_own();
	struct site_counters *c = LIKELY(own != NULL) ? share_find(own, number) : NULL;

	return LIKELY(c != NULL) ? c : share_make(number);
}

/* SLOW. The calling thread ends. */
void share_thread_end(void);
/* Objects recorded in shares. */
uint64_t share_recorded(void);
/* DUMP. Adds what shares have of it; false: nothing, and there may be no shares at all.
 */
void share_add_up(uint32_t number, struct site_counters *sum);
/* FAST. */
bool share_is_used(void);
/* The part goes into the sum, as it was at the peak, too. */
void share_add(struct site_counters *sum, const struct site_counters *part);
void share_fork_prepare(void);
void share_fork_done(bool child);
/* All shares are empty: what was in them has gone elsewhere. */
void share_forget(void);

#endif
