/* SPDX-License-Identifier: Apache-2.0 */
/*
 * misuse: where an object was made and freed that the program frees twice, or misuses in
 * another way. The record beside the span knows the first; the second is kept in a small
 * table, by address, of the objects whose end was noted.
 *
 * What the sampled mode knows may be about an earlier object at the same address, since
 * most objects leave no trace; the text says so.
 *
 * Concurrency: an entry of the table that two threads write at once may be wrong for one
 * address, which the key, written first and last, makes unlikely.
 */
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/heap/tls.h"
#include "profiler/pprof/symbol.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/module.h"

#define LG_ENDS 9

static struct {
	struct {
		uintptr_t p;
		uint32_t alloc_site, free_site;
		uintptr_t free_pc;
	} ends[1 << LG_ENDS]; /* atomic */
	bool busy;	      /* atomic: somebody is describing */
} misuse;

static size_t place_of(uintptr_t p)
{
	return (p * 0x9e3779b97f4a7c15u) >> (64 - LG_ENDS);
}

void misuse_note_free(uintptr_t p, uint32_t alloc_site, uint32_t free_site, uintptr_t pc)
{
	size_t i = place_of(p);

	atomic_store_relaxed(&misuse.ends[i].p, (uintptr_t)0);
	atomic_store_relaxed(&misuse.ends[i].alloc_site, alloc_site);
	atomic_store_relaxed(&misuse.ends[i].free_site, free_site);
	atomic_store_relaxed(&misuse.ends[i].free_pc, pc);
	atomic_store_release(&misuse.ends[i].p, p);
}

struct story {
	uint32_t alloc_site, free_site; /* SITE_NONE: not known */
	uintptr_t free_pc;		/* 0: not known */
	bool lives;
};

static void look_up_end(uintptr_t p, struct story *out)
{
	size_t i = place_of(p);

	if (atomic_load_acquire(&misuse.ends[i].p) != p)
		return;
	out->alloc_site = atomic_load_relaxed(&misuse.ends[i].alloc_site);
	out->free_site = atomic_load_relaxed(&misuse.ends[i].free_site);
	out->free_pc = atomic_load_relaxed(&misuse.ends[i].free_pc);
}

static struct story story_of(const struct mspan *s, uint32_t index, const void *p)
{
	struct story story = { 0 };
	uintptr_t start = s ? mspan_slot(s, index) : (uintptr_t)p;

	if (s && s->slot_size == 0)
		start = s->base;
	if (s && atomic_load_acquire(&s->samples)) {
		story.lives = sample_find(s, index) != NULL;
		story.alloc_site = sample_last_site(s, index);
	}
	if (!story.lives)
		look_up_end(start, &story);
	return story;
}

static void describe_end(const struct story *story)
{
	char text[640];

	if (story->free_site == SITE_NONE && story->free_pc == 0)
		return;
	log_line("  freed:");
	if (story->free_site != SITE_NONE) {
		symbol_log_stack(story->free_site);
		return;
	}
	symbol_describe(story->free_pc - 1, text, sizeof(text));
	log_line("    #0 %s", text);
}

static void describe(const struct story *story)
{
	const char *doubt = sample_is_whole() || story->lives
				    ? ""
				    : " (the last object here that was sampled)";
	struct capture now;

	if (story->alloc_site == SITE_NONE)
		return;
	module_refresh();
	log_line("  allocated%s:", doubt);
	symbol_log_stack(story->alloc_site);
	describe_end(story);
	if (capture_here(&now)) {
		log_line("  misused:");
		symbol_log_stack(now.site);
	}
}

void misuse_describe(const struct mspan *s, uint32_t index, const void *p)
{
	const struct story story = story_of(s, index, p);

	if (!store_is_own() || atomic_exchange_acquire(&misuse.busy, true))
		return;
	seep_tls.internal++;
	describe(&story);
	seep_tls.internal--;
}
