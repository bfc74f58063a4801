/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creator: see creator.h.
 */
#include "profiler/stack/creator.h"

#include "preload/base/meta.h"

#define FIRST_STEP_NS 1000000u
#define LG_BUCKETS    6
#define BUCKETS	      (1u << LG_BUCKETS)

static struct {
	struct fixalloc pool;
	struct creator *list;
	struct creator *recent[BUCKETS]; /* by site: met last */
} creators = { .pool = FIXALLOC_INIT(sizeof(struct creator), META_THREAD) };

static uint32_t min_of(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* ---- time ---- */

static void double_steps(struct creator *c)
{
	for (uint32_t i = 0; i < CREATOR_STEPS / 2; i++)
		c->least[i] = min_of(c->least[2 * i], c->least[2 * i + 1]);
	c->step = CREATOR_STEPS / 2 - 1;
	c->step_ns *= 2;
}

/* Up to now nothing has changed. */
static void go_on_until(struct creator *c, uint64_t now_ns)
{
	uint64_t age = now_ns > c->first_ns ? now_ns - c->first_ns : 0;

	while (c->step < age / c->step_ns) {
		if (c->step + 1 == CREATOR_STEPS)
			double_steps(c);
		else
			c->least[++c->step] = c->live;
	}
}

bool creator_grows(const struct creator *c, uint64_t now_ns,
		   uint32_t out_least[CREATOR_QUARTERS])
{
	struct creator now = *c;
	bool rises = true;

	go_on_until(&now, now_ns);
	for (uint32_t q = 0; q < CREATOR_QUARTERS; q++) {
		uint32_t from = (now.step + 1) * q / CREATOR_QUARTERS;
		uint32_t to = (now.step + 1) * (q + 1) / CREATOR_QUARTERS;

		out_least[q] = now.least[from];
		for (uint32_t i = from; i < to; i++)
			out_least[q] = min_of(out_least[q], now.least[i]);
		rises &= q == 0 || out_least[q] > out_least[q - 1];
	}
	return rises && now.step + 1 >= CREATOR_QUARTERS &&
	       now_ns - c->first_ns >= CREATOR_WATCH_NS;
}

/* ---- sites ---- */

static struct creator *creator_of(uint32_t site, uint64_t now_ns)
{
	struct creator **recent = &creators.recent[site % BUCKETS];
	struct creator *c = *recent;

	if (c && c->site == site)
		return c;
	for (c = creators.list; c && c->site != site; c = c->next)
		;
	if (!c) {
		c = fixalloc_get(&creators.pool);
		if (!c)
			return NULL;
		*c = (struct creator){ .next = creators.list,
				       .site = site,
				       .first_ns = now_ns,
				       .step_ns = FIRST_STEP_NS };
		creators.list = c;
	}
	*recent = c;
	return c;
}

struct creator *creator_thread_begins(uint32_t site, uint64_t now_ns)
{
	struct creator *c = creator_of(site, now_ns);

	if (!c)
		return NULL;
	go_on_until(c, now_ns);
	c->created++;
	c->live++;
	if (c->live > c->peak)
		c->peak = c->live;
	return c;
}

void creator_thread_ends(struct creator *c, uint64_t now_ns)
{
	go_on_until(c, now_ns);
	c->live--;
	c->least[c->step] = min_of(c->least[c->step], c->live);
}

struct creator *creator_list(void)
{
	return creators.list;
}
