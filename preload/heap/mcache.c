/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcache: slow parts, see mcache.h.
 *
 * An mcache is one mapping: the struct, then one array per class, each with a NULL word
 * in front. Arrays are as long as the class may ever need, but their pages fault in only
 * as far as the room in use grows: from a few slots, by half at every trip to mcentral.
 * A released mcache keeps its memory for the next thread.
 */
#include "preload/heap/mcache.h"

#include <string.h>

#include "preload/base/check.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/mheap.h"

#define ROOM_FIRST_BYTES 1024 /* of objects: room of a new bin */
#define ROOM_FIRST_MIN	 4
#define TICK_EVERY	 32 /* slow calls between looks at the page heap's clock */

__thread struct seep_tls seep_tls
	__attribute__((tls_model("initial-exec"), visibility("hidden")));
struct mcache mcache_empty;
struct lock mcache_lock = LOCK_INIT(LOCK_RANK_MCACHE);

static struct {
	struct mcache *inuse; /* guarded by mcache_lock */
	struct mcache *spare; /* linked by next; guarded by mcache_lock */
} mcaches;

static size_t mcache_bytes(void)
{
	size_t bytes = align_up(sizeof(struct mcache), CACHE_LINE);

	for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
		bytes += (sizeclass_info[c].cache_max + 1u) * sizeof(void *);
	return bytes;
}

static void init_bins(struct mcache *mc)
{
	void **at = (void **)((uintptr_t)mc + align_up(sizeof(*mc), CACHE_LINE));

	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		struct mcache_bin *bin = &mc->bins[c];
		uint32_t first = ROOM_FIRST_BYTES / sizeclass_info[c].slot_size;

		if (first < ROOM_FIRST_MIN)
			first = ROOM_FIRST_MIN;
		bin->base = at + 1; /* at[0] stays NULL */
		bin->top = bin->base;
		bin->room_max = sizeclass_info[c].cache_max;
		bin->room = first < bin->room_max ? first : bin->room_max;
		bin->limit = bin->base + bin->room;
		at += bin->room_max + 1;
	}
}

struct mcache *mcache_new(void)
{
	struct mcache *mc;

	lock_acquire(&mcache_lock);
	mc = mcaches.spare;
	if (mc) {
		mcaches.spare = mc->next;
	} else {
		mc = meta_map(mcache_bytes(), META_MCACHE);
		if (mc)
			init_bins(mc);
	}
	if (mc) {
		mc->prev = NULL;
		mc->next = mcaches.inuse;
		if (mc->next)
			mc->next->prev = mc;
		mcaches.inuse = mc;
	}
	lock_release(&mcache_lock);
	return mc;
}

static void retire_locked(struct mcache *mc)
{
	if (mc->prev)
		mc->prev->next = mc->next;
	else
		mcaches.inuse = mc->next;
	if (mc->next)
		mc->next->prev = mc->prev;
	mc->next = mcaches.spare;
	mcaches.spare = mc;
}

void mcache_release(struct mcache *mc)
{
	mcache_empty_out(mc);
	lock_acquire(&mcache_lock);
	retire_locked(mc);
	lock_release(&mcache_lock);
}

struct mcache *mcache_list(void)
{
	return mcaches.inuse;
}

/* The page heap's clock must not depend on page traffic alone. */
static void tick(struct mcache *mc)
{
	if (++mc->tick % TICK_EVERY == 0)
		mheap_tick();
}

static void grow_room(struct mcache_bin *bin)
{
	uint32_t room = bin->room + (bin->room + 1) / 2;

	bin->room = room < bin->room_max ? room : bin->room_max;
	bin->limit = bin->base + bin->room;
}

bool mcache_refill(struct mcache *mc, unsigned c)
{
	struct mcache_bin *bin = &mc->bins[c];
	uint32_t want, got;

	mc->nrefill++;
	if (bin->room < bin->room_max)
		grow_room(bin);
	want = (bin->room + 1) / 2;
	mcentral_lock(c);
	got = mcentral_take_locked(c, bin->base, want);
	bin->top = bin->base + got;
	mcentral_unlock(c);
	tick(mc);
	return got > 0;
}

void mcache_flush(struct mcache *mc, unsigned c)
{
	struct mcache_bin *bin = &mc->bins[c];
	uint32_t n = (uint32_t)(bin->top - bin->base);
	uint32_t give;

	mc->nflush++;
	if (bin->room < bin->room_max && n == bin->room && mc->nflush % 2 == 0) {
		grow_room(bin);
		return;
	}
	give = (n + 1) / 2; /* the oldest half: the newest is warm */
	mcentral_lock(c);
	mcentral_give_locked(c, bin->base, give);
	memmove(bin->base, bin->base + give, (n - give) * sizeof(void *));
	bin->top = bin->base + (n - give);
	mcentral_unlock(c);
	tick(mc);
}

void mcache_empty_out(struct mcache *mc)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		struct mcache_bin *bin = &mc->bins[c];
		uint32_t n = (uint32_t)(bin->top - bin->base);

		if (n == 0)
			continue;
		mcentral_lock(c);
		mcentral_give_locked(c, bin->base, n);
		bin->top = bin->base;
		mcentral_unlock(c);
	}
}

void mcache_reap_others(struct mcache *keep)
{
	struct mcache *mc = mcaches.inuse;

	while (mc) {
		struct mcache *next = mc->next;

		if (mc != keep) {
			mcache_empty_out(mc);
			lock_acquire(&mcache_lock);
			retire_locked(mc);
			lock_release(&mcache_lock);
		}
		mc = next;
	}
}
