/* SPDX-License-Identifier: Apache-2.0 */
/*
 * site: the calling-context tree, see site.h.
 *
 * Structure: nodes are numbered and lie in chunks that never move. The frames of a new
 * stack get numbers in a row, so most nodes are next to their parent, where a child is
 * looked for first. For the others a hash table finds the child of (parent, pc): open
 * addressing, entries of half a hash and a number, so that nearly every node that is
 * looked at is the right one. It doubles when it is 5/8 full; the one before keeps its
 * address, since somebody may be reading it, and loses its memory: who finds nothing
 * there looks again under the lock. Counters have numbers and chunks of their own, so
 * that inner nodes cost 16 bytes and no more.
 *
 * Chunks lie in the file that outlives the process (store.h) where there is one, else in
 * memory of our own.
 *
 * Concurrency: nodes and the table are read without a lock: a node's pc is stored before
 * its parent, and both before its entry (release). Insertion holds the lock. A number is
 * used once.
 */
#include "profiler/site/site.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/site/share.h"
#include "profiler/site/store.h"

#define LG_FIRST	 10		    /* of the first table: 8 KiB */
#define LG_LAST		 27		    /* holds all numbers */
#define MAPPED_BYTES	 ((size_t)64 * KIB) /* tables from here on are mappings */
#define HUGE_BYTES	 (4 * MIB)
#define LG_CHUNK	 SITE_LG_CHUNK
#define CHUNK		 (1u << LG_CHUNK)
#define CHUNKS		 SITE_CHUNKS
#define LG_COUNTER_CHUNK SITE_LG_COUNTER_CHUNK
#define COUNTER_CHUNK	 (1u << LG_COUNTER_CHUNK)
#define COUNTER_CHUNKS	 SITE_COUNTER_CHUNKS

struct table {
	unsigned lg;	    /* of the entries */
	uint64_t entries[]; /* atomic: lower half of the hash, number; 0: free */
};

static struct {
	struct lock lock;	/* for insertion */
	struct lock chunk_lock; /* for new chunks and counters */
	struct table *table;	/* atomic; NULL: nothing is in it */
	uint32_t ninserted;	/* nodes that can be found; atomic, after their entry */
	uint32_t nhashed;	/* of these in the table; guarded by lock */
	uint32_t count;		/* numbers given out; atomic */
	uint32_t ncounters;	/* written under chunk_lock; atomic */
} sites = { .lock = LOCK_INIT(LOCK_RANK_SITE),
	    .chunk_lock = LOCK_INIT(LOCK_RANK_SITE_CHUNK) };

struct site_chunks site_chunks;

static uint64_t hash_of(uint32_t parent, uintptr_t pc)
{
	return (pc + parent * 0x85ebca77c2b2ae63u) * 0x9e3779b97f4a7c15u;
}

static void *new_chunk(enum store_kind kind, uint32_t index, size_t size)
{
	void *chunk = store_chunk(kind, index, size);

	return chunk ? chunk : meta_alloc(size, CACHE_LINE, META_SITE);
}

/* A number whose chunk exists; 0: out of memory or numbers. */
static uint32_t new_number(void)
{
	uint32_t site;

	lock_acquire(&sites.chunk_lock);
	site = sites.count + 1;
	if (site >> LG_CHUNK < CHUNKS && !site_chunks.nodes[site >> LG_CHUNK]) {
		void *chunk = new_chunk(STORE_NODES, site >> LG_CHUNK,
					CHUNK * sizeof(struct site_node));

		atomic_store_release(&site_chunks.nodes[site >> LG_CHUNK],
				     (struct site_node *)chunk);
	}
	if (site >> LG_CHUNK >= CHUNKS || !site_chunks.nodes[site >> LG_CHUNK])
		site = SITE_NONE;
	else
		atomic_store_release(&sites.count, site);
	store_set_counts(sites.count, sites.ncounters);
	lock_release(&sites.chunk_lock);
	return site;
}

/* ---- the hash table ---- */

static size_t index_of(const struct table *t, uint64_t hash)
{
	return hash >> (64 - t->lg);
}

static size_t after(const struct table *t, size_t i)
{
	return (i + 1) & (((size_t)1 << t->lg) - 1);
}

static bool is_child(const struct site_node *n, uint32_t parent, uintptr_t pc)
{
	return atomic_load_acquire(&n->parent) == parent &&
	       atomic_load_relaxed(&n->pc) == pc;
}

/* The child that was made right after its parent, or the first node of all. Behind our
 * last one may be some of the process that we were forked from, and what has a number but
 * is not yet inserted may still look like one of these. */
static uint32_t find_next(uint32_t parent, uintptr_t pc)
{
	uint32_t site = parent + 1;

	return site <= atomic_load_acquire(&sites.ninserted) &&
			       is_child(site_node(site), parent, pc)
		       ? site
		       : SITE_NONE;
}

static uint32_t find(uint64_t hash, uint32_t parent, uintptr_t pc)
{
	const struct table *t = atomic_load_acquire(&sites.table);

	if (UNLIKELY(!t))
		return SITE_NONE;
	for (size_t i = index_of(t, hash);; i = after(t, i)) {
		uint64_t e = atomic_load_acquire(&t->entries[i]);

		if (e == 0)
			return SITE_NONE;
		if (e >> 32 == (uint32_t)hash &&
		    is_child(site_node((uint32_t)e), parent, pc))
			return (uint32_t)e;
	}
}

static void put(struct table *t, uint64_t hash, uint32_t site)
{
	size_t i = index_of(t, hash);

	while (t->entries[i] != 0)
		i = after(t, i);
	atomic_store_release(&t->entries[i], hash << 32 | site);
}

static size_t table_bytes(unsigned lg)
{
	return sizeof(struct table) + (sizeof(uint64_t) << lg);
}

/* Needs the lock. Twice as many entries, or the first ones. False: no memory. */
static COLD bool grow(void)
{
	struct table *old = sites.table, *t;
	unsigned lg = old ? old->lg + 1 : LG_FIRST;
	size_t bytes = table_bytes(lg);

	if (lg > LG_LAST)
		return false;
	t = bytes < MAPPED_BYTES ? meta_alloc(bytes, CACHE_LINE, META_SITE)
				 : meta_map(bytes, META_SITE);
	if (!t)
		return false;
	t->lg = lg;
	if (bytes >= HUGE_BYTES) /* each lookup is in another page */
		os_hugepage(t, align_up(bytes, OS_PAGE), true);
	for (uint32_t site = 1; site <= sites.count; site++) {
		const struct site_node *n = site_node(site);

		if (n->parent + 1 != site)
			put(t, hash_of(n->parent, n->pc), site);
	}
	atomic_store_release(&sites.table, t);
	/* Its head, which says how long it is, stays. */
	if (old && table_bytes(old->lg) >= MAPPED_BYTES)
		os_purge((char *)old + OS_PAGE, table_bytes(old->lg) - OS_PAGE);
	return true;
}

/* Needs the lock. Is there room for one more? A full table serves to its last entry but
 * one, which ends every search. */
static bool has_room(void)
{
	const struct table *t = sites.table;
	uint64_t n = sites.nhashed + 1u;

	if (LIKELY(t != NULL) && LIKELY(n * 8 <= (uint64_t)5 << t->lg))
		return true;
	return grow() || (t && n < (uint64_t)1 << t->lg);
}

static uint32_t find_child(uint64_t hash, uint32_t parent, uintptr_t pc)
{
	uint32_t site = find_next(parent, pc);

	return LIKELY(site) ? site : find(hash, parent, pc);
}

/* Needs the lock. 0: out of memory. */
static uint32_t add(uint64_t hash, uint32_t parent, uintptr_t pc)
{
	bool next = sites.count == parent;
	uint32_t site = next || has_room() ? new_number() : SITE_NONE;
	struct site_node *n;

	if (!site)
		return SITE_NONE;
	n = site_node(site);
	atomic_store_relaxed(&n->pc, pc);
	atomic_store_release(&n->parent, parent);
	if (!next) {
		put(sites.table, hash, site);
		sites.nhashed++;
	}
	atomic_store_release(&sites.ninserted, site);
	return site;
}

/* The child was not found when there were so many. */
static COLD uint32_t insert(uint64_t hash, uint32_t parent, uintptr_t pc,
			    uint32_t ninserted)
{
	uint32_t site = SITE_NONE;

	lock_acquire(&sites.lock);
	if (sites.ninserted != ninserted) /* somebody may have been faster */
		site = find_child(hash, parent, pc);
	if (!site)
		site = add(hash, parent, pc);
	lock_release(&sites.lock);
	return site;
}

uint32_t site_child(uint32_t parent, uintptr_t pc)
{
	uint32_t ninserted = atomic_load_acquire(&sites.ninserted);
	uint64_t hash = hash_of(parent, pc);
	uint32_t site = find_child(hash, parent, pc);

	return LIKELY(site) ? site : insert(hash, parent, pc, ninserted);
}

uint32_t site_intern(const struct frame *frames, int count)
{
	uint32_t site = SITE_NONE;

	for (int i = count; i > 0; i--) {
		site = site_child(site, frames[i - 1].pc);
		if (site == SITE_NONE)
			return SITE_NONE;
	}
	return site;
}

uint32_t site_parent(uint32_t site)
{
	return site_node(site)->parent;
}

uintptr_t site_pc(uint32_t site)
{
	return site_node(site)->pc;
}

uint32_t site_depth(uint32_t site)
{
	uint32_t n = 0;

	for (; site; site = site_parent(site))
		n++;
	return n;
}

uint32_t site_count(void)
{
	return atomic_load_acquire(&sites.count);
}

static COLD struct site_counters *make_counters(uint32_t site)
{
	struct site_node *n = site_node(site);
	uint32_t number;

	lock_acquire(&sites.chunk_lock);
	number = sites.ncounters + 1;
	if (n->counters == 0 && number >> LG_COUNTER_CHUNK < COUNTER_CHUNKS) {
		struct site_counters **chunk =
			&site_chunks.counters[number >> LG_COUNTER_CHUNK];

		if (!*chunk) {
			void *fresh =
				new_chunk(STORE_COUNTERS, number >> LG_COUNTER_CHUNK,
					  COUNTER_CHUNK * sizeof(**chunk));

			atomic_store_release(chunk, (struct site_counters *)fresh);
		}
		if (*chunk) {
			atomic_store_release(&sites.ncounters, number);
			store_set_counts(sites.count, number);
			atomic_store_release(&n->counters, number);
		}
	}
	lock_release(&sites.chunk_lock);
	return site_counters_if_any(site);
}

struct site_counters *site_counters(uint32_t site)
{
	struct site_counters *c = site_counters_if_any(site);

	if (LIKELY(c) || site == SITE_NONE)
		return c;
	return make_counters(site);
}

void site_each(bool (*fn)(uint32_t site, struct site_counters *c, void *arg), void *arg)
{
	uint32_t n = site_count();

	for (uint32_t site = 1; site <= n; site++) {
		struct site_counters *c = site_counters_if_any(site), sum;

		if (c && share_is_used()) {
			memset(&sum, 0, sizeof(sum));
			share_add(&sum, c);
			share_add_up(atomic_load_relaxed(&site_node(site)->counters),
				     &sum);
			c = &sum;
		}
		if (c && !fn(site, c, arg))
			return;
	}
}

int site_stack(uint32_t site, uintptr_t *pcs, int max)
{
	int n = 0;

	for (; site && n < max; site = site_parent(site))
		pcs[n++] = site_pc(site);
	return n;
}

/* Into the copy of all counters that the child will go on with. */
static void fold_shares(struct site_counters *copy)
{
	if (!copy || !share_is_used())
		return;
	for (uint32_t number = 1; number <= sites.ncounters; number++)
		share_add_up(number, &copy[number]);
}

NO_LOCK_CHECK void site_fork_prepare(void)
{
	lock_acquire(&sites.lock);
	lock_acquire(&sites.chunk_lock);
	share_fork_prepare();
	store_fork_prepare(sites.ncounters);
	fold_shares(store_fork_counters());
}

NO_LOCK_CHECK void site_fork_done(bool child)
{
	store_fork_done(child);
	share_fork_done(child);
	if (child) {
		lock_reset(&sites.chunk_lock);
		lock_reset(&sites.lock);
	} else {
		lock_release(&sites.chunk_lock);
		lock_release(&sites.lock);
	}
}

/* ---- the file ---- */

bool site_store(const struct store_owner *owner, uint64_t period)
{
	return store_open(owner, period, sizeof(struct site_node), CHUNK,
			  sizeof(struct site_counters), COUNTER_CHUNK);
}

/* What the parent has given counters since, the child has not. */
static void forget_later_counters(void)
{
	for (uint32_t site = 1; site <= sites.count; site++) {
		struct site_node *n = site_node(site);

		if (n->counters > sites.ncounters)
			atomic_store_relaxed(&n->counters, 0u);
	}
}

void site_store_move(const struct store_owner *owner)
{
	if (!store_is_open())
		return;
	store_fork_move(owner, sites.count, sites.ncounters);
	share_forget();
	forget_later_counters();
}

/* The highest number up to which all chunks are there, at most count. */
static uint32_t stored(const uint64_t *offsets, uint32_t nchunks, uint32_t count,
		       uint32_t chunk)
{
	for (uint32_t i = 0; i < nchunks && i <= count / chunk; i++)
		if (offsets[i] == 0)
			return i ? i * chunk - 1 : 0;
	return count < nchunks * chunk ? count : nchunks * chunk - 1;
}

/* A process may be killed between any two stores. */
static void repair(struct site_node *n, uint32_t site)
{
	if (n->parent < site && n->counters <= sites.ncounters)
		return;
	n->parent = SITE_NONE;
	n->counters = 0;
}

/* Of one block: what its chunks hold goes to the counters. */
static void adopt_shares(const struct share_block *b)
{
	for (uint32_t i = 0; i < b->nused && i < SHARE_BLOCK_CHUNKS; i++)
		for (uint32_t k = 0; k < SHARE_CHUNK; k++) {
			uint64_t number = (uint64_t)b->chunks[i].first + k;

			if (number > 0 && number <= sites.ncounters)
				share_add(site_counters_at((uint32_t)number),
					  &b->chunks[i].list[k]);
		}
}

bool site_adopt(const struct store_header *h)
{
	char *base;

	memcpy(&base, &h, sizeof(base)); /* the mapping is ours to write */
	if (h->node_bytes != sizeof(struct site_node) || h->node_chunk != CHUNK ||
	    h->counter_bytes != sizeof(struct site_counters) ||
	    h->counter_chunk != COUNTER_CHUNK || sites.count != 0 ||
	    (h->lists[STORE_SHARES].head &&
	     h->lists[STORE_SHARES].bytes != sizeof(struct share_block)))
		return false;
	sites.count = stored(h->node_chunks, CHUNKS, h->nnodes, CHUNK);
	sites.ncounters =
		stored(h->counter_chunks, COUNTER_CHUNKS, h->ncounters, COUNTER_CHUNK);
	for (uint32_t i = 0; i <= sites.count / CHUNK; i++)
		site_chunks.nodes[i] = (void *)(base + h->node_chunks[i]);
	for (uint32_t i = 0; i <= sites.ncounters / COUNTER_CHUNK; i++)
		site_chunks.counters[i] = (void *)(base + h->counter_chunks[i]);
	for (uint32_t site = 1; site <= sites.count; site++)
		repair(site_node(site), site);
	for (uint64_t at = h->lists[STORE_SHARES].head; at;) {
		const struct share_block *b = (void *)(base + at);

		adopt_shares(b);
		at = b->next;
	}
	return true;
}
