/* SPDX-License-Identifier: Apache-2.0 */
/*
 * site: the calling-context tree, see site.h.
 *
 * Structure: nodes are numbered and lie in chunks that never move. A hash table with one
 * chain a bucket finds the child of (parent, pc): a small table for the first nodes,
 * since a big one costs a page for nearly every node, and one for all later nodes.
 * Counters have numbers and chunks of their own, so that inner nodes cost 24 bytes and no
 * more.
 *
 * Chunks lie in the file that outlives the process (store.h) where there is one, else in
 * memory of our own.
 *
 * Concurrency: a chain is read without a lock: a node is filled before its number is
 * stored in the bucket (release), and links never change. Insertion holds the shard's
 * lock. Allocation of numbers is atomic; a number is used once.
 */
#include "profiler/site/site.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "profiler/site/store.h"

#define LG_SMALL	 13
#define LG_BIG		 20
#define SMALL_NODES	 8192 /* in the small table */
#define SHARDS		 16   /* by the upper four bits of the hash */
#define LG_CHUNK	 SITE_LG_CHUNK
#define CHUNK		 (1u << LG_CHUNK)
#define CHUNKS		 SITE_CHUNKS
#define LG_COUNTER_CHUNK SITE_LG_COUNTER_CHUNK
#define COUNTER_CHUNK	 (1u << LG_COUNTER_CHUNK)
#define COUNTER_CHUNKS	 SITE_COUNTER_CHUNKS

#define SHARD                             \
	{                                 \
		LOCK_INIT(LOCK_RANK_SITE) \
	}
#define FOUR_SHARDS SHARD, SHARD, SHARD, SHARD

static struct {
	struct {
		struct lock lock;
	} shards[SHARDS];
	struct lock chunk_lock; /* for new chunks and counters */
	uint32_t *small, *big;	/* atomic; buckets, made when first needed */
	uint32_t count;		/* numbers given out; atomic */
	uint32_t ncounters;	/* written under chunk_lock; atomic */
} sites = { .shards = { FOUR_SHARDS, FOUR_SHARDS, FOUR_SHARDS, FOUR_SHARDS },
	    .chunk_lock = LOCK_INIT(LOCK_RANK_SITE_CHUNK) };

struct site_chunks site_chunks;

static uint64_t hash_of(uint32_t parent, uintptr_t pc)
{
	return (pc + parent * 0x85ebca77c2b2ae63u) * 0x9e3779b97f4a7c15u;
}

static uint32_t find_in_chain(uint32_t site, uint32_t parent, uintptr_t pc)
{
	while (site) {
		const struct site_node *n = site_node(site);

		if (n->pc == pc && n->parent == parent)
			return site;
		site = n->next;
	}
	return SITE_NONE;
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

/* The table at where, of 2^lg buckets; NULL: out of memory. */
static uint32_t *get_table(uint32_t **where, unsigned lg)
{
	uint32_t *b = atomic_load_acquire(where);

	if (LIKELY(b))
		return b;
	lock_acquire(&sites.chunk_lock);
	b = *where;
	if (!b) {
		b = meta_alloc(sizeof(*b) << lg, 8, META_SITE);
		atomic_store_release(where, b);
	}
	lock_release(&sites.chunk_lock);
	return b;
}

/* Most nodes of a program that has many are in the big table. */
static uint32_t find(uint64_t hash, uint32_t parent, uintptr_t pc)
{
	const uint32_t *big = atomic_load_acquire(&sites.big);
	const uint32_t *small = atomic_load_acquire(&sites.small);
	uint32_t site = SITE_NONE;

	if (big)
		site = find_in_chain(atomic_load_acquire(&big[hash >> (64 - LG_BIG)]),
				     parent, pc);
	if (site == SITE_NONE && small)
		site = find_in_chain(atomic_load_acquire(&small[hash >> (64 - LG_SMALL)]),
				     parent, pc);
	return site;
}

/* The bucket that a new node goes to; NULL: out of memory. */
static uint32_t *bucket_for_new(uint64_t hash)
{
	uint32_t *b = NULL;

	if (site_count() >= SMALL_NODES)
		b = get_table(&sites.big, LG_BIG);
	if (b)
		return &b[hash >> (64 - LG_BIG)];
	b = get_table(&sites.small, LG_SMALL);
	return b ? &b[hash >> (64 - LG_SMALL)] : NULL;
}

/* The shard is the hash's upper bits, as is the bucket: no bucket belongs to two. */
static COLD uint32_t insert(uint64_t hash, uint32_t parent, uintptr_t pc)
{
	struct lock *l = &sites.shards[hash >> 60].lock;
	uint32_t site, *head;

	lock_acquire(l);
	site = find(hash, parent, pc); /* somebody may have been faster */
	if (site) {
		lock_release(l);
		return site;
	}
	head = bucket_for_new(hash);
	site = head ? new_number() : SITE_NONE;
	if (site) {
		struct site_node *n = site_node(site);

		n->pc = pc;
		n->parent = parent;
		n->next = *head;
		n->depth = parent ? site_node(parent)->depth + 1 : 1;
		atomic_store_release(head, site);
	}
	lock_release(l);
	return site;
}

uint32_t site_child(uint32_t parent, uintptr_t pc)
{
	uint64_t hash = hash_of(parent, pc);
	uint32_t site = find(hash, parent, pc);

	return LIKELY(site) ? site : insert(hash, parent, pc);
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
	return site ? site_node(site)->depth : 0;
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
		struct site_counters *c = site_counters_if_any(site);

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

void site_keep_live(void)
{
	uint32_t n = atomic_load_relaxed(&sites.ncounters);

	for (uint32_t number = 1; number <= n; number++) {
		struct site_counters *c = site_counters_at(number);

		c->peak_objects = atomic_load_relaxed(&c->alloc_objects) -
				  atomic_load_relaxed(&c->free_objects);
		c->peak_bytes = atomic_load_relaxed(&c->alloc_bytes) -
				atomic_load_relaxed(&c->free_bytes);
	}
}

static bool reset_one(uint32_t site, struct site_counters *c, void *arg)
{
	(void)site;
	(void)arg;
	memset(c, 0, sizeof(*c));
	return true;
}

void site_reset_counters(void)
{
	site_each(reset_one, NULL);
}

NO_LOCK_CHECK void site_fork_prepare(void)
{
	for (unsigned i = 0; i < SHARDS; i++)
		lock_acquire_nested(&sites.shards[i].lock);
	lock_acquire(&sites.chunk_lock);
	store_fork_prepare(sites.ncounters);
}

NO_LOCK_CHECK void site_fork_done(bool child)
{
	store_fork_done(child);
	if (child)
		lock_reset(&sites.chunk_lock);
	else
		lock_release(&sites.chunk_lock);
	for (unsigned i = SHARDS; i > 0; i--) {
		if (child)
			lock_reset(&sites.shards[i - 1].lock);
		else
			lock_release(&sites.shards[i - 1].lock);
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

bool site_adopt(const struct store_header *h)
{
	char *base;

	memcpy(&base, &h, sizeof(base)); /* the mapping is ours to write */
	if (h->node_bytes != sizeof(struct site_node) || h->node_chunk != CHUNK ||
	    h->counter_bytes != sizeof(struct site_counters) ||
	    h->counter_chunk != COUNTER_CHUNK || sites.count != 0)
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
	return true;
}
