/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lifetime: see lifetime.h.
 *
 * Structure: sums by site, range and end, in tables found by hash; what is live is walked
 * when the profile is written, and needs no sums before.
 *
 * Concurrency: a lock for each of several shards of the table, by site. The profile is
 * written from copies, one shard after the other.
 */
#include "profiler/sample/lifetime.h"

#include <string.h>

#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "profiler/pprof/table.h"
#include "profiler/sample/lifestore.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/label.h"
#include "profiler/site/site.h"

#define SHARDS	   16
#define FIRST_SUMS 128
#define LG_PARTS   2 /* ranges in a power of two: 4 */
#define PARTS	   (1u << LG_PARTS)
#define MAX_NS	   ((uint64_t)INT64_MAX)

struct sum {
	struct lifetime_sum sum;
	struct life_entry *entry; /* the same in the file; NULL: none */
};

struct sums {
	struct table places; /* LIFE_KEY to number + 1 in list */
	struct sum *list;
	size_t count, size;
};

#define SHARD                                       \
	{                                           \
		.lock = LOCK_INIT(LOCK_RANK_SAMPLE) \
	}
#define FOUR_SHARDS SHARD, SHARD, SHARD, SHARD

static struct {
	struct {
		struct lock lock;
		struct sums sums;      /* guarded by lock */
		struct life_pool pool; /* guarded by lock */
	} shards[SHARDS];
} lifetimes = { .shards = { FOUR_SHARDS, FOUR_SHARDS, FOUR_SHARDS, FOUR_SHARDS } };

/* ---- ranges ---- */

unsigned lifetime_range(uint64_t ns)
{
	unsigned lg;

	if (ns < PARTS)
		return (unsigned)ns;
	lg = 63u - (unsigned)__builtin_clzl(ns);
	return (lg - LG_PARTS + 1) * PARTS +
	       (unsigned)(ns >> (lg - LG_PARTS) & (PARTS - 1));
}

uint64_t lifetime_bound(unsigned n)
{
	if (n < PARTS)
		return n;
	return (uint64_t)(PARTS + n % PARTS) << (n / PARTS - 1);
}

/* ---- sums ---- */

static bool more_room(struct sums *s)
{
	size_t size = s->size ? s->size * 2 : FIRST_SUMS;
	void *list;

	if (s->count < s->size)
		return true;
	if (s->list)
		list = meta_remap(s->list, s->size * sizeof(*s->list),
				  size * sizeof(*s->list), META_SAMPLE);
	else
		list = meta_map(size * sizeof(*s->list), META_SAMPLE);
	if (!list)
		return false;
	s->list = list;
	s->size = size;
	return true;
}

static void free_sums(struct sums *s)
{
	table_free(&s->places);
	if (s->list)
		meta_unmap(s->list, s->size * sizeof(*s->list), META_SAMPLE);
	*s = (struct sums){ .count = 0 };
}

/* NULL: memory ran out. */
static struct sum *sum_of(struct sums *s, uint64_t key)
{
	struct slot *slot = table_at(&s->places, key);

	if (!slot)
		return NULL;
	if (slot->value == 0) {
		if (!more_room(s))
			return NULL;
		s->list[s->count] = (struct sum){ .entry = NULL };
		slot->value = ++s->count;
	}
	return &s->list[slot->value - 1];
}

static void add(struct lifetime_sum *to, const struct lifetime_sum *one)
{
	to->objects += one->objects;
	to->bytes += one->bytes;
	to->slack += one->slack;
	to->total_ns += one->total_ns;
	if (to->total_ns > MAX_NS)
		to->total_ns = MAX_NS;
}

static unsigned shard_of(uint32_t site)
{
	return (site * 0x9e3779b1u) >> 28;
}

void lifetime_end(uint32_t site, uint64_t age_ns, enum lifetime_end how,
		  const struct lifetime_sum *one)
{
	uint64_t key = LIFE_KEY(site, how, lifetime_range(age_ns));
	unsigned i = shard_of(site);
	struct sum *to;

	lock_acquire(&lifetimes.shards[i].lock);
	to = sum_of(&lifetimes.shards[i].sums, key);
	if (to) {
		add(&to->sum, one);
		if (UNLIKELY(!to->entry))
			to->entry = life_get(&lifetimes.shards[i].pool, i);
		if (to->entry)
			life_fill(to->entry, key, &to->sum);
	}
	lock_release(&lifetimes.shards[i].lock);
}

/* ---- what outlives the process ---- */

struct life_entry *lifetime_begin(uint32_t site, const struct lifetime_sum *one)
{
	unsigned i = shard_of(site);
	struct life_entry *e;

	lock_acquire(&lifetimes.shards[i].lock);
	e = life_get(&lifetimes.shards[i].pool, i);
	lock_release(&lifetimes.shards[i].lock);
	lifetime_change(e, site, one);
	store_note_time(one->total_ns);
	return e;
}

void lifetime_change(struct life_entry *e, uint32_t site, const struct lifetime_sum *one)
{
	if (e)
		life_fill(e, LIFE_KEY(site, LIFETIME_LIVE, 0), one);
}

/* Its pool need not be that of the site, which may have changed. */
void lifetime_forget(struct life_entry *e)
{
	unsigned i;

	if (!e)
		return;
	i = life_pool_of(e);
	lock_acquire(&lifetimes.shards[i].lock);
	life_put(&lifetimes.shards[i].pool, e);
	lock_release(&lifetimes.shards[i].lock);
}

static bool fill_again(struct mspan *s, void *arg)
{
	for (uint32_t i = 0; s->samples && i < s->nslots; i++) {
		const struct sample_record *r = sample_find(s, i);
		struct lifetime_sum one;

		if (!r || sample_is_hidden(r))
			continue;
		sample_describe_life(s, r, &one);
		lifetime_change(r->entry, r->site, &one);
	}
	(void)arg;
	return true;
}

static void fill_sums_again(const struct sums *s)
{
	for (size_t i = 0; i < s->places.nslots; i++) {
		const struct slot *slot = &s->places.slots[i];

		if (slot->key && slot->value && s->list[slot->value - 1].entry)
			life_fill(s->list[slot->value - 1].entry, slot->key,
				  &s->list[slot->value - 1].sum);
	}
}

NO_LOCK_CHECK void lifetime_store_move(void)
{
	heap_lock_all();
	heap_each_span(fill_again, NULL);
	heap_unlock_all();
	for (unsigned i = 0; i < SHARDS; i++) {
		lock_acquire(&lifetimes.shards[i].lock);
		fill_sums_again(&lifetimes.shards[i].sums);
		life_find_free(&lifetimes.shards[i].pool, i);
		lock_release(&lifetimes.shards[i].lock);
	}
}

/* A process may be killed between any two stores. */
static bool adopt_one(uint64_t key, const struct lifetime_sum *sum, void *arg)
{
	const uint64_t *latest_ns = arg;
	enum lifetime_end how = (enum lifetime_end)(key >> 8 & 0xff);
	uint32_t site = (uint32_t)(key >> 16);
	struct lifetime_sum one = *sum;
	struct sum *to;

	if (site == SITE_NONE || site > site_count() || how > LIFETIME_LIVE)
		return true;
	if (how == LIFETIME_LIVE) {
		uint64_t age =
			*latest_ns > sum->total_ns ? *latest_ns - sum->total_ns : 0;

		one.total_ns = (uint64_t)((uint128)age * one.objects >> SITE_SHIFT);
		key = LIFE_KEY(site, how, lifetime_range(age));
	}
	to = sum_of(&lifetimes.shards[shard_of(site)].sums, key);
	if (to)
		add(&to->sum, &one);
	return to != NULL;
}

NO_LOCK_CHECK void lifetime_adopt(const struct store_header *h)
{
	uint64_t latest_ns = h->latest_ns;

	life_each(h, adopt_one, &latest_ns);
}

/* ---- what is live ---- */

struct walk {
	struct sums sums;
	uint64_t now_ns;
	bool failed;
};

static bool walk_span(struct mspan *s, void *arg)
{
	struct walk *w = arg;

	if (!s->samples)
		return true;
	for (uint32_t i = 0; i < s->nslots && !w->failed; i++) {
		const struct sample_record *r = sample_find(s, i);
		struct lifetime_sum one;
		struct sum *to;
		uint64_t age, born;

		if (!r || sample_is_hidden(r))
			continue;
		born = sample_birth_ns(r);
		age = w->now_ns > born ? w->now_ns - born : 0;
		sample_measure(s, r, age, &one);
		to = sum_of(&w->sums,
			    LIFE_KEY(r->site, LIFETIME_LIVE, lifetime_range(age)));
		w->failed = !to;
		if (to)
			add(&to->sum, &one);
	}
	return !w->failed;
}

static NO_LOCK_CHECK void walk_heap(struct walk *w)
{
	w->now_ns = os_now_ns();
	heap_lock_all();
	heap_each_span(walk_span, w);
	heap_unlock_all();
}

/* ---- the profile ---- */

static int64_t saturated(uint64_t v)
{
	return v > MAX_NS ? INT64_MAX : (int64_t)v;
}

static void write_sum(struct pprof *p, uint64_t key, const struct lifetime_sum *sum,
		      uintptr_t *pcs, int max)
{
	uint64_t half = (uint64_t)1 << (SITE_SHIFT - 1);
	const int64_t values[] = { (int64_t)((sum->objects + half) >> SITE_SHIFT),
				   saturated(sum->bytes), saturated(sum->slack),
				   saturated(sum->total_ns) };
	enum lifetime_end how = (enum lifetime_end)(key >> 8 & 0xff);
	struct pprof_label list[LABEL_MAX + 3];
	uint32_t site = (uint32_t)(key >> 16);
	struct labels labels;
	int n;

	site = label_read(site, &labels);
	n = sample_labels(&labels, list);
	list[n++] =
		(struct pprof_label){ .key = "end",
				      .text = how == LIFETIME_LIVE ? "live" : "freed" };
	if (how != LIFETIME_LIVE)
		list[n++] = (struct pprof_label){
			.key = "freed_by", .text = how == LIFETIME_SAME ? "same" : "other"
		};
	list[n++] =
		(struct pprof_label){ .key = how == LIFETIME_LIVE ? "age" : "lifetime",
				      .number = (int64_t)lifetime_bound(key & 0xff),
				      .unit = "nanoseconds" };
	pprof_sample(p, pcs, site_stack(site, pcs, max), false, values, list, n);
}

static void write_sums(struct pprof *p, const struct sums *s, uintptr_t *pcs, int max)
{
	for (size_t i = 0; i < s->places.nslots; i++) {
		const struct slot *slot = &s->places.slots[i];

		if (slot->key && slot->value)
			write_sum(p, slot->key, &s->list[slot->value - 1].sum, pcs, max);
	}
}

static bool copy_sums(struct sums *to, const struct sums *from)
{
	size_t slots = from->places.nslots * sizeof(*from->places.slots);

	if (from->count == 0)
		return true;
	to->places.slots = meta_map(slots, META_PPROF);
	to->places.nslots = to->places.slots ? from->places.nslots : 0;
	to->list = meta_map(from->size * sizeof(*to->list), META_SAMPLE);
	to->size = to->list ? from->size : 0;
	if (!to->places.slots || !to->list)
		return false;
	memcpy(to->places.slots, from->places.slots, slots);
	memcpy(to->list, from->list, from->count * sizeof(*to->list));
	return true;
}

bool lifetime_write(struct pprof *p, uintptr_t *pcs, int max)
{
	struct walk w = { .failed = false };
	bool ok = true;

	for (unsigned i = 0; i < SHARDS; i++) {
		struct sums copy = { .count = 0 };
		bool copied;

		lock_acquire(&lifetimes.shards[i].lock);
		copied = copy_sums(&copy, &lifetimes.shards[i].sums);
		lock_release(&lifetimes.shards[i].lock);
		if (copied)
			write_sums(p, &copy, pcs, max);
		ok = ok && copied;
		free_sums(&copy);
	}
	walk_heap(&w);
	write_sums(p, &w.sums, pcs, max);
	free_sums(&w.sums);
	return ok && !w.failed;
}

NO_LOCK_CHECK void lifetime_fork_prepare(void)
{
	for (unsigned i = 0; i < SHARDS; i++)
		lock_acquire_nested(&lifetimes.shards[i].lock);
}

NO_LOCK_CHECK void lifetime_fork_done(bool child)
{
	for (unsigned i = SHARDS; i > 0; i--) {
		if (child)
			lock_reset(&lifetimes.shards[i - 1].lock);
		else
			lock_release(&lifetimes.shards[i - 1].lock);
	}
}
