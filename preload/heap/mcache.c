/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcache: slow parts, see mcache.h.
 *
 * An mcache is one mapping: the struct, not quite at its beginning, then one array per
 * class, each with NULL words in front. Arrays are as long as the class may ever need,
 * but their pages fault in only as far as the room in use grows: from a few slots, by
 * half at every trip to mcentral. A released mcache keeps its memory for the next thread.
 */
#include "preload/heap/mcache.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/mheap.h"

#define ROOM_FIRST_BYTES 1024 /* of objects: room of a new bin */
#define ROOM_FIRST_MIN	 4
#define TICK_EVERY	 32		/* slow calls between looks at some classes */
#define DECAY_CLASSES	 8		/* classes at a time */
#define BIG_SLOT	 (4 * KIB)	/* one may keep a span of 64 KiB and more */
#define BIG_EVERY	 32		/* see is_big_due() */
#define PART_LEAST	 ((int64_t)KIB) /* see mcache_take_back() */
#define PART_MOST	 ((int64_t)(128 * KIB))
#define PART_NS		 100000000u
#define KEEP_PART	 8	   /* see flush_bin() */
#define NEIGHBOUR_MAX	 (1 * KIB) /* bytes of a slot that is taken with neighbours */

__thread struct seep_tls seep_tls
	__attribute__((tls_model("initial-exec"), visibility("hidden")));

/* mcache_empty's bins: nothing below, no room. */
static void *const nothing[MCACHE_BELOW];
#define NOWHERE ((void **)(uintptr_t)&nothing[MCACHE_BELOW])
#define EIGHT	NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE
#define ALL \
	EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, NOWHERE, NOWHERE
_Static_assert(SIZECLASS_COUNT == 9 * 8 + 2, "ALL");
struct mcache mcache_empty = { .top = { ALL }, .limit = { ALL } };
struct lock mcache_lock = LOCK_INIT(LOCK_RANK_MCACHE);

static struct {
	struct mcache *inuse; /* guarded by mcache_lock */
	struct mcache *spare; /* linked by next; guarded by mcache_lock */
	uint64_t nreleased;   /* so far; atomic */
	bool several;	      /* atomic: there ever was more than one in use */
} mcaches;

/* Large objects begin on an OS page, and a program mostly touches their first bytes. All
 * those have one set of the L1 cache to share: what each call needs is kept out of it. */
#define PAST_HEADERS 256

static size_t mcache_bytes(void)
{
	size_t bytes = PAST_HEADERS + align_up(sizeof(struct mcache), CACHE_LINE);

	for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
		bytes += (sizeclass_info[c].cache_max + MCACHE_BELOW) * sizeof(void *);
	return bytes;
}

static void set_room(struct mcache *mc, unsigned c, uint32_t room)
{
	uint32_t most = sizeclass_info[c].cache_max;

	mc->limit[c] = mc->base[c] + (room < most ? room : most);
}

/* The bin of a class whose slots share cache lines has no room until it is first used. */
static bool opens_late(unsigned c)
{
	return sizeclass_info[c].slot_size < 2 * CACHE_LINE;
}

static void init_bins(struct mcache *mc)
{
	void **at = (void **)((uintptr_t)mc + align_up(sizeof(*mc), CACHE_LINE));

	memcpy(mc->fine, sizeclass_fine, sizeof(mc->fine));
	memcpy(mc->coarse, sizeclass_coarse, sizeof(mc->coarse));
	mc->base[0] = mc->top[0] = mc->limit[0] = NOWHERE;
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		uint32_t first = ROOM_FIRST_BYTES / sizeclass_info[c].slot_size;

		mc->base[c] = mc->top[c] = at + MCACHE_BELOW;
		first = first < ROOM_FIRST_MIN ? ROOM_FIRST_MIN : first;
		mc->first_room[c] = (uint16_t)first;
		set_room(mc, c, opens_late(c) ? 0 : first);
		at += sizeclass_info[c].cache_max + MCACHE_BELOW;
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
		uintptr_t where = (uintptr_t)meta_map(mcache_bytes(), META_MCACHE);

		if (where != 0) {
			mc = (struct mcache *)(where + PAST_HEADERS);
			init_bins(mc);
		}
	}
	if (mc) {
		mc->prev = NULL;
		mc->next = mcaches.inuse;
		if (mc->next) {
			mc->next->prev = mc;
			atomic_store_relaxed(&mcaches.several, true);
		}
		mcaches.inuse = mc;
	}
	lock_release(&mcache_lock);
	return mc;
}

bool mcache_are_several(void)
{
	return atomic_load_relaxed(&mcaches.several);
}

struct mcache *mcache_list(void)
{
	return mcaches.inuse;
}

/* ---- double frees ---- */

#define NO_SANITIZE  __attribute__((no_sanitize("thread")))
#define FILTER_LG    12 /* bits */
#define HASH	     0x9e3779b97f4a7c15u
#define LOOKS_ALWAYS 64 /* flushes of a thread, ends of threads; then now and then */
#define LOOKS_EVERY  16
#define LAST_FREED   16 /* pointers of a class that are looked for at the end */

static bool is_among(void *const *pointers, uint32_t n, const void *p)
{
	for (uint32_t i = 0; i < n; i++)
		if (pointers[i] == p)
			return true;
	return false;
}

/* The thread of mc may be at work in it. Whatever lies below a top was stored before that
 * was moved, and p, which is the caller's, is not stored now, unless it is freed twice.
 */
NO_SANITIZE static bool holds(const struct mcache *mc, unsigned c, const void *p)
{
	void **end = atomic_load_acquire(&mc->top[c]);

	for (void **at = end; at > mc->base[c];)
		if (atomic_load_relaxed(--at) == p)
			return true;
	return false;
}

bool mcache_any_holds(unsigned c, const void *p)
{
	bool found = false;

	lock_acquire(&mcache_lock);
	for (const struct mcache *mc = mcaches.inuse; mc && !found; mc = mc->next)
		found = holds(mc, c, p);
	lock_release(&mcache_lock);
	return found;
}

/* A pointer that is there twice; NULL: none. */
static const void *find_double(void *const *pointers, uint32_t n)
{
	uint64_t seen[(1 << FILTER_LG) / 64] = { 0 };

	for (uint32_t i = 0; i < n; i++) {
		uint64_t hash = (uintptr_t)pointers[i] * HASH >> (64 - FILTER_LG);
		uint64_t bit = (uint64_t)1 << (hash % 64);

		if (UNLIKELY(seen[hash / 64] & bit) && is_among(pointers, i, pointers[i]))
			return pointers[i];
		seen[hash / 64] |= bit;
	}
	return NULL;
}

/* Are doubles looked for this time, after n others? */
static bool is_looked_at(uint64_t n)
{
	return n < LOOKS_ALWAYS || n % LOOKS_EVERY == 0;
}

static void refuse_doubles(const struct mcache *mc, unsigned c)
{
	const void *p = find_double(mc->base[c], mcache_count(mc, c));

	if (p)
		heap_fatal(p, "double free of %p (size class %u)", p, c);
}

/* Were the last n pointers of the class handed on already? */
static void refuse_passed_on(const struct mcache *mc, unsigned c, uint32_t n)
{
	const void *p = mcentral_find_any(c, mc->top[c] - n, n);

	if (p)
		heap_fatal(p, "double free of %p (size class %u)", p, c);
}

/* Nothing of the program runs meanwhile in the thread. */
static void refuse_misused(const struct mcache *mc, bool may_wait)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		uint32_t n = mcache_count(mc, c);

		if (n == 0)
			continue;
		refuse_doubles(mc, c);
		for (uint32_t i = n; i > 0; i--)
			heap_check_slot(c, mc->base[c][i - 1]);
		if (may_wait)
			refuse_passed_on(mc, c, n < LAST_FREED ? n : LAST_FREED);
	}
}

/* In a child forked past our handlers other threads' locks stay locked. */
void mcache_refuse_misused(const struct mcache *mc)
{
	refuse_misused(mc, !mcache_are_several());
}

/* The oldest n pointers of a bin go back to mcentral: the newest are warm. */
static void give_oldest(struct mcache *mc, unsigned c, uint32_t n, bool home)
{
	void **base = mc->base[c];
	uint32_t rest = mcache_count(mc, c) - n;

	mcentral_lock(c);
	mcentral_give_locked(c, base, n, home);
	memmove(base, base + n, rest * sizeof(void *));
	mc->top[c] = base + rest;
	mcentral_unlock(c);
}

/* For the next thread. */
static void close_bins(struct mcache *mc)
{
	for (unsigned c = 1; opens_late(c); c++) {
		if (mcache_room(mc, c) == 0)
			continue;
		mc->first_room[c] = (uint16_t)mcache_room(mc, c);
		set_room(mc, c, 0);
	}
}

static void retire_locked(struct mcache *mc)
{
	close_bins(mc);
	if (mc->prev)
		mc->prev->next = mc->next;
	else
		mcaches.inuse = mc->next;
	if (mc->next)
		mc->next->prev = mc->prev;
	mc->interruption = NULL;
	mc->below = NULL;
	mc->next = mcaches.spare;
	mcaches.spare = mc;
}

static void retire(struct mcache *mc)
{
	mcache_empty_out(mc);
	lock_acquire(&mcache_lock);
	retire_locked(mc);
	lock_release(&mcache_lock);
}

void mcache_release(struct mcache *mc)
{
	if (is_looked_at(atomic_add_relaxed(&mcaches.nreleased, (uint64_t)1)))
		refuse_misused(mc, true);
	while (mc) {
		struct mcache *below = mc->below;

		retire(mc);
		mc = below;
	}
}

/* A bin that holds as many pointers as at the last look is taken to be out of use: half
 * of them go back. So a phase of the program does not keep what the one before needed. */
static void decay_bin(struct mcache *mc, unsigned c)
{
	uint32_t n = mcache_count(mc, c);

	if (n > 0 && n == mc->decay_count[c])
		give_oldest(mc, c,
			    sizeclass_info[c].slot_size > BIG_SLOT ? n : (n + 1) / 2,
			    false);
	mc->decay_count[c] = (uint16_t)mcache_count(mc, c);
	mcentral_decay(c);
}

static void hold_back(struct mcache *mc)
{
	if (LIKELY(!mc->hurry) || mc->budget <= mc->part)
		return;
	mc->later += mc->budget - mc->part;
	mc->budget = mc->part;
}

/* A part has been spent, or was not for a while. */
static void set_part(struct mcache *mc, uint64_t now, bool spent)
{
	if (now - mc->part_ns >= PART_NS)
		mc->part = PART_LEAST;
	else if (spent && mc->part < PART_MOST)
		mc->part *= 2;
	if (spent)
		mc->part_ns = now;
}

bool mcache_take_back(struct mcache *mc)
{
	set_part(mc, os_coarse_ns(), true);
	mc->budget += mc->later;
	mc->later = 0;
	mcache_tick_sample(mc);
	return mc->budget >= 0;
}

/* Now and then some classes are looked at, and the page heap's clock, which must not
 * depend on page traffic alone. */
void mcache_look_around(struct mcache *mc)
{
	uint64_t now = os_coarse_ns();

	if (mc->tick % TICK_EVERY != 0 && now - mc->tick_ns < MCACHE_TICK_NS) {
		hold_back(mc);
		return;
	}
	mc->tick_ns = now;
	mc->hurry = mheap_tick();
	set_part(mc, now, false);
	hold_back(mc);
	lcache_look_around(&mc->large, now);
	for (unsigned i = 0; i < DECAY_CLASSES; i++) {
		mc->decay_class = mc->decay_class % (SIZECLASS_COUNT - 1) + 1;
		decay_bin(mc, mc->decay_class);
	}
}

static bool is_big(unsigned c)
{
	return sizeclass_info[c].slot_size > BIG_SLOT;
}

/* Is another bin of big slots to be looked at? Not so often where threads hand objects to
 * each other: they make slow calls all the time, and each look takes a class's lock. */
static bool is_big_due(struct mcache *mc)
{
	return !mcache_are_several() || ++mc->nbig % BIG_EVERY == 0;
}

/* Bins of big slots, few of which keep many pages, have turns of their own: one bin at
 * each slow call of any of them, since a program whose objects grow leaves one behind at
 * each step, and all of them when the heap has grown. */
static void look_at_big(struct mcache *mc, unsigned c)
{
	if (mc->growths != mheap_growths()) {
		mc->growths = mheap_growths();
		for (unsigned i = SIZECLASS_COUNT - 1; is_big(i); i--)
			if (i != c)
				decay_bin(mc, i);
	} else if (is_big(c) && is_big_due(mc)) {
		mc->big_class =
			is_big(mc->big_class) ? mc->big_class - 1 : SIZECLASS_COUNT - 1;
		if (mc->big_class != c && is_big(mc->big_class))
			decay_bin(mc, mc->big_class);
	}
}

/* By half; false: the array is as long as it may be. */
static bool grow_room(struct mcache *mc, unsigned c)
{
	uint32_t room = mcache_room(mc, c);

	if (room == sizeclass_info[c].cache_max)
		return false;
	set_room(mc, c, room + (room + 1) / 2);
	return true;
}

/* Half of the room, in whole cache lines: four slots of any class fill some. Else two
 * threads would write to the line where one's slots end and the other's begin. */
static uint32_t refill_count(const struct mcache *mc, unsigned c)
{
	uint32_t n = (mcache_room(mc, c) + 1) / 2;
	uint32_t group = heap_neighbours;

	if (sizeclass_info[c].slot_size % CACHE_LINE == 0 &&
	    (group == 4 || sizeclass_info[c].slot_size > NEIGHBOUR_MAX))
		return n;
	return (n + group - 1) & ~(group - 1);
}

/* Leaves room for one more than it takes. */
static uint32_t take_batch(struct mcache *mc, unsigned c)
{
	uint32_t n = refill_count(mc, c), got;

	if (UNLIKELY(n >= mcache_room(mc, c)))
		set_room(mc, c, n + 1);
	if (UNLIKELY(n > mcache_room(mc, c)))
		n = mcache_room(mc, c);
	mcentral_lock(c);
	got = mcentral_take_locked(c, mc, mc->base[c], n);
	atomic_store_release(&mc->top[c], mc->base[c] + got);
	mcentral_unlock(c);
	return got;
}

bool mcache_refill(struct mcache *mc, unsigned c)
{
	mc->nrefill++;
	mcache_tick(mc); /* first: it may empty a bin that was just filled */
	look_at_big(mc, c);
	if (mcache_room(mc, c) == 0)
		set_room(mc, c, mc->first_room[c]);
	grow_room(mc, c);
	return take_batch(mc, c) > 0;
}

bool mcache_open(struct mcache *mc, unsigned c, void *p)
{
	void **top;

	if (mcache_room(mc, c) > 0)
		return false;
	mc->nrefill++;
	set_room(mc, c, mc->first_room[c]);
	if (take_batch(mc, c) == 0)
		return false;
	top = mc->top[c];
	top[0] = top[-1];
	top[-1] = p;
	atomic_store_release(&mc->top[c], top + 1);
	return true;
}

/* Most of what goes home: it comes back in the order of addresses, what stays in that of
 * the frees. Half of what other threads may want. */
static void flush_bin(struct mcache *mc, unsigned c)
{
	const uint32_t n = mcache_count(mc, c);
	const bool home = mcentral_should_go_home(c, mc, mc->base[c], n);

	give_oldest(mc, c, home ? n - n / KEEP_PART : (n + 1) / 2, home);
}

void mcache_flush(struct mcache *mc, unsigned c)
{
	mc->nflush++;
	if (mc->nflush % 2 == 0 && grow_room(mc, c))
		return;
	if (is_looked_at(mc->nflush))
		refuse_doubles(mc, c);
	flush_bin(mc, c);
	look_at_big(mc, c);
	mcache_tick(mc);
}

void mcache_empty_out(struct mcache *mc)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
		if (mcache_count(mc, c) > 0)
			give_oldest(mc, c, mcache_count(mc, c), false);
	lcache_empty_out(&mc->large);
}

/* Is it keep or, the fork being made in a signal handler, what that interrupted? */
static bool is_among_own(const struct mcache *mc, const struct mcache *keep)
{
	while (keep && keep != mc)
		keep = keep->below;
	return keep != NULL;
}

void mcache_reap_others(const struct mcache *keep)
{
	struct mcache *mc = mcaches.inuse;

	while (mc) {
		struct mcache *next = mc->next;

		if (!is_among_own(mc, keep))
			retire(mc);
		mc = next;
	}
}
