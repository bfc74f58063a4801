/* SPDX-License-Identifier: Apache-2.0 */
/*
 * site: the calling-context tree, see site.h.
 *
 * Structure: the tree is an array of cells of four bytes. A node is a cell with the code
 * of its return address (code.h), and its id is the cell's number. Frames of a new stack
 * come in a row, so that most nodes lie right behind their parent, and that is how it is
 * known. Before any other node there is a cell with its parent's id. Behind a node that
 * got counters lies the number of these (counters.c), or, where there was something else
 * already, in a place of its own, behind a cell with the node's id, like one more child.
 *
 *	P 0 | main | f | malloc's caller | F 1 | P f | g | h | F 2 | ...
 *
 * A hash table finds what lies behind a parent's id: open addressing, entries of half a
 * hash and a number, so that nearly every node that is looked at is the right one. It
 * doubles when it is 5/8 full; the one before keeps its address, since somebody may be
 * reading it, and loses its memory: who finds nothing there looks again under the lock.
 *
 * Chunks lie in the file that outlives the process (store.h) where there is one, else in
 * memory of our own.
 *
 * Concurrency: cells and the table are read without a lock: cells are stored in order,
 * and before their entry (release); they never change. Insertion holds the lock.
 */
#include "profiler/site/site_int.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/site/code.h"
#include "profiler/site/share.h"
#include "profiler/site/store.h"

#define LG_FIRST     10			/* of the first table: 8 KiB */
#define LG_LAST	     27			/* holds all numbers */
#define MAPPED_BYTES ((size_t)64 * KIB) /* tables from here on are mappings */
#define HUGE_BYTES   (4 * MIB)
#define LG_CHUNK     SITE_LG_CHUNK
#define CHUNK	     (1u << LG_CHUNK)
#define CHUNKS	     SITE_CHUNKS

struct table {
	unsigned lg;	    /* of the entries */
	uint64_t entries[]; /* atomic: lower half of the hash, number; 0: free */
};

static struct {
	struct lock lock;    /* for insertion */
	struct table *table; /* atomic; NULL: nothing is in it */
	uint32_t ninserted;  /* cells that count; atomic, after their entry */
	uint32_t nhashed;    /* entries of the table; guarded by lock */
	uint32_t count;	     /* cells given out; written under lock, atomic */
	bool any_elsewhere;  /* numbers of site_few; atomic */
} sites = { .lock = LOCK_INIT(LOCK_RANK_SITE) };

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

/* Needs the lock. */
static bool have_chunk_of(uint32_t cell)
{
	uint32_t **chunk = &site_chunks.cells[cell >> LG_CHUNK];

	if (cell >> LG_CHUNK >= CHUNKS)
		return false;
	if (LIKELY(*chunk != NULL))
		return true;
	atomic_store_release(chunk, (uint32_t *)new_chunk(STORE_NODES, cell >> LG_CHUNK,
							  CHUNK * sizeof(**chunk)));
	return *chunk != NULL;
}

/* Needs the lock. The first of n cells in a row, and their chunks exist, also that of
 * the one behind them; 0: out of memory or numbers. */
static uint32_t new_cells(uint32_t n)
{
	uint32_t first = sites.count + 1;

	if (!have_chunk_of(first) || !have_chunk_of(first + n))
		return 0;
	atomic_store_release(&sites.count, first + n - 1);
	store_set_count(STORE_NODES, sites.count);
	return first;
}

/* ---- cells ---- */

static uint32_t cell_at(uint32_t at)
{
	return atomic_load_acquire(site_cell(at));
}

static bool is_node(uint32_t cell)
{
	return cell != 0 && cell < SITE_PARENT;
}

/* The cell of a node with this pc? Its code, if it has one that is not in full. */
static bool has_pc(uint32_t cell, uint32_t code, uintptr_t pc)
{
	if (LIKELY(code != 0))
		return cell == code;
	return is_node(cell) && code_is_long(cell) && code_pc(cell) == pc;
}

/* What is looked for behind a parent's id: a child, or the number of its counters. */
struct key {
	uint32_t parent, code;
	uintptr_t pc;
	uint64_t hash;
	bool counters;
};

static struct key key_of(uint32_t parent, uintptr_t pc)
{
	return (struct key){ .parent = parent,
			     .code = code_find(pc),
			     .pc = pc,
			     .hash = hash_of(parent, pc) };
}

static struct key key_of_counters(uint32_t site)
{
	return (struct key){ .parent = site,
			     .hash = hash_of(site, UINTPTR_MAX),
			     .counters = true };
}

static bool is_child(uint32_t at, const struct key *k)
{
	uint32_t cell = cell_at(at);

	return cell_at(at - 1) == (SITE_PARENT | k->parent) &&
	       (k->counters ? cell >= SITE_FEW : has_pc(cell, k->code, k->pc));
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

/* The child that was made right after its parent, or the first node of all. Behind our
 * last cell may be some of the process that we were forked from, and what has a number
 * but is not yet inserted may still look like one of these. */
static uint32_t find_next(const struct key *k)
{
	uint32_t site = k->parent + 1;

	return site <= atomic_load_acquire(&sites.ninserted) &&
			       has_pc(cell_at(site), k->code, k->pc)
		       ? site
		       : SITE_NONE;
}

static uint32_t find(const struct key *k)
{
	const struct table *t = atomic_load_acquire(&sites.table);

	if (UNLIKELY(!t))
		return SITE_NONE;
	for (size_t i = index_of(t, k->hash);; i = after(t, i)) {
		uint64_t e = atomic_load_acquire(&t->entries[i]);

		if (e == 0)
			return SITE_NONE;
		if (e >> 32 == (uint32_t)k->hash && is_child((uint32_t)e, k))
			return (uint32_t)e;
	}
}

static void put(struct table *t, uint64_t hash, uint32_t at)
{
	size_t i = index_of(t, hash);

	while (t->entries[i] != 0)
		i = after(t, i);
	atomic_store_release(&t->entries[i], hash << 32 | at);
}

/* The cell at, behind one with its parent. */
static void put_again(struct table *t, uint32_t at, uint32_t parent)
{
	uint32_t cell = cell_at(at);

	put(t, hash_of(parent, cell >= SITE_FEW ? UINTPTR_MAX : code_pc(cell)), at);
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
	for (uint32_t at = 1; at < sites.ninserted; at++)
		if ((cell_at(at) & SITE_TAG) == SITE_PARENT)
			put_again(t, at + 1, cell_at(at) & SITE_VALUE);
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

static uint32_t find_child(const struct key *k)
{
	uint32_t site = find_next(k);

	return LIKELY(site) ? site : find(k);
}

/* Needs the lock. Cells are put down; those that lie behind a parent's id get an entry.
 */
static uint32_t put_cells(const struct key *k, uint32_t cell, bool next)
{
	uint32_t at = next || has_room() ? new_cells(next ? 1 : 2) : 0;

	if (!at)
		return 0;
	if (!next)
		atomic_store_release(site_cell(at++), SITE_PARENT | k->parent);
	atomic_store_release(site_cell(at), cell);
	if (!next) {
		put(sites.table, k->hash, at);
		sites.nhashed++;
	}
	atomic_store_release(&sites.ninserted, at);
	return at;
}

/* The child was not found when there were so many cells. */
static COLD uint32_t insert(const struct key *k, uint32_t ninserted)
{
	uint32_t site = SITE_NONE, code;

	lock_acquire(&sites.lock);
	if (sites.ninserted != ninserted) { /* somebody may have been faster */
		struct key again = key_of(k->parent, k->pc);

		site = find_child(&again);
	}
	code = site ? 0 : code_make(k->pc);
	if (code)
		site = put_cells(k, code, sites.count == k->parent);
	lock_release(&sites.lock);
	return site;
}

uint32_t site_child(uint32_t parent, uintptr_t pc)
{
	uint32_t ninserted = atomic_load_acquire(&sites.ninserted);
	const struct key k = key_of(parent, pc);
	uint32_t site = find_child(&k);

	return LIKELY(site) ? site : insert(&k, ninserted);
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
	uint32_t before = cell_at(site - 1);

	if (LIKELY(is_node(before)))
		return site - 1;
	return (before & SITE_TAG) == SITE_PARENT ? before & SITE_VALUE : SITE_NONE;
}

uintptr_t site_pc(uint32_t site)
{
	return code_pc(cell_at(site));
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

bool site_exists(uint32_t id)
{
	return id != SITE_NONE && id <= site_count() && is_node(cell_at(id));
}

uint32_t site_few_elsewhere(uint32_t site)
{
	const struct key k = key_of_counters(site);
	uint32_t at;

	if (!atomic_load_acquire(&sites.any_elsewhere))
		return 0;
	at = find(&k);
	return at ? cell_at(at) & SITE_VALUE : 0;
}

COLD void site_put_few(uint32_t site, uint32_t number)
{
	const struct key k = key_of_counters(site);

	lock_acquire(&sites.lock);
	if (site_few_number(site) == 0) {
		bool next = sites.count == site;

		if (!next)
			atomic_store_release(&sites.any_elsewhere, true);
		put_cells(&k, SITE_FEW | number, next);
	}
	lock_release(&sites.lock);
}

uint32_t site_owner(uint32_t at)
{
	uint32_t before = at > 0 ? cell_at(at - 1) : 0;

	if (cell_at(at) < SITE_FEW)
		return SITE_NONE;
	if (is_node(before))
		return at - 1;
	return (before & SITE_TAG) == SITE_PARENT ? before & SITE_VALUE : SITE_NONE;
}

int site_stack(uint32_t site, uintptr_t *pcs, int max)
{
	int n = 0;

	for (; site && n < max; site = site_parent(site))
		pcs[n++] = site_pc(site);
	return n;
}

NO_LOCK_CHECK void site_fork_prepare(void)
{
	lock_acquire(&sites.lock);
	counters_fork_prepare();
}

NO_LOCK_CHECK void site_fork_done(bool child)
{
	counters_fork_done(child);
	if (child)
		lock_reset(&sites.lock);
	else
		lock_release(&sites.lock);
}

/* ---- the file ---- */

static const struct store_shape shapes[STORE_KINDS] = {
	[STORE_NODES] = { sizeof(uint32_t), CHUNK },
	[STORE_FEW] = { sizeof(struct site_few), FEW_CHUNK },
	[STORE_COUNTERS] = { sizeof(struct site_counters), COUNTER_CHUNK },
	[STORE_PCS] = { sizeof(uint64_t), 1u << CODE_LG_CHUNK },
};

bool site_store(const struct store_owner *owner, uint64_t period)
{
	return store_open(owner, period, shapes);
}

void site_store_move(const struct store_owner *owner)
{
	if (!store_is_open())
		return;
	store_fork_move(owner);
	share_forget();
}

/* A process may be killed between any two stores. */
static void repair(uint32_t at)
{
	uint32_t *cell = site_cell(at), value = *cell & SITE_VALUE;

	if ((*cell & SITE_TAG) == SITE_PARENT && value >= at)
		*cell = 0;
	if (*cell >= SITE_FEW && (!counters_are_known(value) || site_owner(at) >= at))
		*cell = 0;
}

static bool is_of_our_kind(const struct store_header *h)
{
	for (enum store_kind kind = 0; kind < STORE_MODULES; kind++)
		if (memcmp(&h->shapes[kind], &shapes[kind], sizeof(shapes[kind])) != 0)
			return false;
	return h->lists[STORE_SHARES].head == 0 ||
	       h->lists[STORE_SHARES].bytes == sizeof(struct share_block);
}

bool site_adopt(const struct store_header *h)
{
	char *base;

	memcpy(&base, &h, sizeof(base)); /* the mapping is ours to write */
	if (!is_of_our_kind(h) || sites.count != 0)
		return false;
	sites.count = store_counted(h, STORE_NODES);
	for (uint32_t i = 0; i <= sites.count / CHUNK; i++)
		site_chunks.cells[i] = (void *)(base + h->node_chunks[i]);
	if (sites.count && !site_chunks.cells[(sites.count + 1) >> LG_CHUNK])
		sites.count--; /* who looks at a node looks behind it, too */
	code_adopt(h);
	counters_adopt(h);
	for (uint32_t at = 1; at <= sites.count; at++)
		repair(at);
	return true;
}
