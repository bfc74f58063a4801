/* SPDX-License-Identifier: Apache-2.0 */
/*
 * growth: see growth.h. Kept for each site, in an open hash table that is built anew at
 * each check: its bytes then, its bytes when it last began to rise, and how many checks
 * in a row have found more than the one before.
 */
#include "profiler/leak/growth.h"

#include "preload/base/meta.h"

struct seen_site {
	uint32_t site; /* SITE_NONE: free */
	uint32_t rises;
	uint64_t bytes, begin_bytes;
};

static struct {
	struct seen_site *table;
	size_t size; /* a power of two */
} growth;

static struct seen_site *slot_of(struct seen_site *table, size_t size, uint32_t site)
{
	for (size_t i = site * 0x9e3779b1u;; i++) {
		struct seen_site *s = &table[i & (size - 1)];

		if (s->site == 0 || s->site == site)
			return s;
	}
}

static void compare_one(struct leak_record *r, struct seen_site *now)
{
	const struct seen_site *before =
		growth.size ? slot_of(growth.table, growth.size, r->site) : NULL;

	*now = (struct seen_site){ .site = r->site,
				   .bytes = r->bytes,
				   .begin_bytes = r->bytes };
	if (!before || before->site == 0 || r->bytes < before->bytes)
		return;
	now->rises = before->rises + (r->bytes > before->bytes);
	now->begin_bytes = before->begin_bytes;
	if (r->bytes == before->bytes) { /* it stands still */
		now->rises = 0;
		now->begin_bytes = r->bytes;
	}
	r->rises = now->rises;
	r->grown_bytes = r->bytes - now->begin_bytes;
}

void growth_forget(void)
{
	meta_unmap(growth.table, growth.size * sizeof(*growth.table), META_LEAK);
	growth.table = NULL;
	growth.size = 0;
}

void growth_compare(struct leak_result *r)
{
	struct seen_site *table;
	size_t size = 64;

	while (size < 2 * (size_t)r->nrecords)
		size *= 2;
	table = meta_map(size * sizeof(*table), META_LEAK);
	if (!table)
		return;
	for (uint32_t i = 0; i < r->nrecords; i++)
		if (r->records[i].kind == LEAK_REACHABLE)
			compare_one(&r->records[i],
				    slot_of(table, size, r->records[i].site));
	growth_forget();
	growth.table = table;
	growth.size = size;
}
