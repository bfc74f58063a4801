/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lifestore: what is known of lifetimes, once more in the file that outlives the process
 * (profiler/site/store.h): an entry for each sum of objects that have been freed, and one
 * for each recorded object that lives. Entries are only written, never read, by the
 * process; what it goes by is its own.
 *
 * A forked child has the same entries in its own file, all of them empty, and fills them
 * from what it knows: the parent's may have changed since.
 */
#ifndef PROFILER_SAMPLE_LIFESTORE_H
#define PROFILER_SAMPLE_LIFESTORE_H

#include "preload/base/base.h"
#include "profiler/sample/lifetime.h"
#include "profiler/site/store.h"

/* key: see LIFE_KEY; no site: it is free. Of a live object total_ns is the time of its
 * birth and the key has no range. The highest 16 bits of the key are the pool's. */
struct life_entry {
	uint64_t key;
	struct lifetime_sum sum;
};
#define LIFE_KEY(site, end, range) \
	((uint64_t)(site) << 16 | (uint64_t)(end) << 8 | (range))
#define LIFE_KEY_MASK	   (((uint64_t)1 << 48) - 1)
#define LIFE_BLOCK_ENTRIES 409 /* about 16 KiB */

struct life_block {
	uint64_t next; /* offset, see store.h */
	struct life_entry list[LIFE_BLOCK_ENTRIES];
};

/* Where entries come from. Zeroed: an empty one. Its owner's lock guards it. */
struct life_pool {
	struct life_entry *free;
	struct life_ref *blocks;
	bool full; /* the file has no more room */
};

/* SLOW. An entry for the pool of this number, not yet filled; NULL: no file or no room.
 */
struct life_entry *life_get(struct life_pool *pool, unsigned number);
/* FAST. */
void life_fill(struct life_entry *e, uint64_t key, const struct lifetime_sum *sum);
unsigned life_pool_of(const struct life_entry *e);
/* Of its own pool. */
void life_put(struct life_pool *pool, struct life_entry *e);
/* In a forked child, when all that is in use is filled again: finds what is free. */
void life_find_free(struct life_pool *pool, unsigned number);
/* DUMP. Calls fn with all entries that somebody left, keys without the pool's part. False
 * when fn did, or the file is of another kind. */
bool life_each(const struct store_header *h,
	       bool (*fn)(uint64_t key, const struct lifetime_sum *sum, void *arg),
	       void *arg);

#endif
