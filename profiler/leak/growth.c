/* SPDX-License-Identifier: Apache-2.0 */
/*
 * growth: see growth.h. Kept for each site, in an open hash table that is built anew at
 * each check: its bytes then, its bytes when it last began to rise, and how many checks
 * in a row have found more than the one before.
 */
#include "profiler/leak/growth.h"

#include <string.h>

#include "preload/base/meta.h"
#include "profiler/sample/sample.h"

#define GROWING_RISES 2 /* checks in a row that found more than the one before */
#define SAMPLES_MIN   8 /* sampled mode: fewer new ones may be chance */
#define DEVIATIONS    4 /* of the number of samples, which varies by its root */

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

/* Of a site that holds as much all the time, the samples go up and down by chance. */
static bool is_beyond_chance(const struct leak_record *r, uint64_t before)
{
	uint64_t more = r->objects > before ? r->objects - before : 0;

	return sample_is_exact() ||
	       (more >= SAMPLES_MIN &&
		more * more >= DEVIATIONS * DEVIATIONS * (r->objects + before));
}

static void compare_one(struct leak_record *r, struct seen_site *now)
{
	const struct seen_site *before =
		growth.size ? slot_of(growth.table, growth.size, r->site) : NULL;

	*now = (struct seen_site){ .site = r->site,
				   .bytes = r->bytes,
				   .begin_bytes = r->bytes,
				   .begin_objects = r->objects };
	if (!before || before->site == 0 || r->bytes < before->bytes)
		return;
	now->rises = before->rises + (r->bytes > before->bytes);
	now->begin_bytes = before->begin_bytes;
	now->begin_objects = before->begin_objects;
	if (r->bytes == before->bytes) { /* it stands still */
		now->rises = 0;
		now->begin_bytes = r->bytes;
		now->begin_objects = r->objects;
	}
	r->rises = now->rises;
	r->grown_bytes = r->bytes - now->begin_bytes;
	r->growing = r->rises >= GROWING_RISES && is_beyond_chance(r, now->begin_objects);
}

void growth_forget(void)
{
	meta_unmap(growth.table, growth.size * sizeof(*growth.table), META_LEAK);
	growth.table = NULL;
	growth.size = 0;
}

void growth_lose(void)
{
	memset(&growth, 0, sizeof(growth));
}

static size_t size_for(size_t count)
{
	size_t size = 64;

	while (size < 2 * count)
		size *= 2;
	return size;
}

size_t growth_give(struct seen_site *to, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < growth.size && n < max; i++)
		if (growth.table[i].site)
			to[n++] = growth.table[i];
	return n;
}

void growth_take(const struct seen_site *from, size_t count)
{
	size_t size = size_for(count);
	struct seen_site *table = meta_map(size * sizeof(*table), META_LEAK);

	growth_forget();
	if (!table)
		return;
	for (size_t i = 0; i < count; i++)
		*slot_of(table, size, from[i].site) = from[i];
	growth.table = table;
	growth.size = size;
}

void growth_compare(struct leak_result *r)
{
	size_t size = size_for(r->nrecords);
	struct seen_site *table = meta_map(size * sizeof(*table), META_LEAK);

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
