/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcache: slow parts, see mcache.h.
 *
 * An mcache is one mapping: the struct, not quite at its beginning, then two arrays per
 * class, each with NULL words in front. The room in use grows from a few slots, by half
 * at every trip to mcentral, as far as mcache_room.c allows. A released mcache keeps its
 * memory for the next thread.
 */
#include "preload/heap/mcache.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/mcache_room.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/mheap.h"

#define TICK_EVERY    32	     /* slow calls between looks at some classes */
#define DECAY_CLASSES 8		     /* classes at a time */
#define BIG_SLOT      (4 * KIB)	     /* one may keep a span of 64 KiB and more */
#define BIG_EVERY     32	     /* see is_big_due() */
#define PART_LEAST    ((int64_t)KIB) /* see mcache_take_back() */
#define PART_MOST     ((int64_t)(128 * KIB))
#define PART_NS	      100000000u
#define KEEP_PART     8 /* see flush_bin() */

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

static struct mcache *make_locked(void)
{
	struct mcache *mc;
	uintptr_t where;

	if (mcache_room_words() == 0)
		mcache_room_init();
	where = (uintptr_t)meta_map(PAST_HEADERS + mcache_room_words() * sizeof(void *),
				    META_MCACHE);
	if (where == 0)
		return NULL;
	mc = (struct mcache *)(where + PAST_HEADERS);
	memcpy(mc->fine, sizeclass_fine, sizeof(mc->fine));
	memcpy(mc->coarse, sizeclass_coarse, sizeof(mc->coarse));
	mc->top[0] = mc->limit[0] = NOWHERE;
	mcache_room_begin(mc);
	return mc;
}

struct mcache *mcache_new(void)
{
	struct mcache *mc;

	lock_acquire(&mcache_lock);
	mc = mcaches.spare;
	if (mc)
		mcaches.spare = mc->next;
	else
		mc = make_locked();
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
#define LOOK_BACK    64 /* pointers of the transfer cache: a thread ends in little time */
#define LOOK_SHORT   8	/* the same for a bin without room, in less */

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
	void **end = atomic_load_acquire(&mc->top[c]),
	     **base = mcache_base_of(mc, c, end);

	for (void **at = end; at > base;)
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
	const void *p = find_double(mcache_base(mc, c), mcache_count(mc, c));

	if (p)
		heap_fatal(p, "double free of %p (size class %u)", p, c);
}

/* With the class's lock: were the n pointers handed on already, among the newest so many?
 */
static void refuse_passed_on(unsigned c, void *const *pointers, uint32_t n,
			     uint32_t newest)
{
	const void *p = mcentral_find_any_locked(c, pointers, n, newest);

	if (UNLIKELY(p != NULL)) {
		mcentral_unlock(c);
		heap_fatal(p, "double free of %p (size class %u)", p, c);
	}
}

/* Nothing of the program runs meanwhile in the thread. */
static void refuse_misused(const struct mcache *mc, bool may_wait)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		uint32_t n = mcache_count(mc, c), last;

		if (n == 0)
			continue;
		refuse_doubles(mc, c);
		for (uint32_t i = n; i > 0; i--)
			heap_check_slot(c, mcache_base(mc, c)[i - 1]);
		last = n < LAST_FREED ? n : LAST_FREED;
		if (may_wait)
			mcentral_lock(c);
		else if (!mcentral_try_lock(c))
			continue;
		refuse_passed_on(c, mc->top[c] - last, last, LOOK_BACK);
		mcentral_unlock(c);
	}
}

/* In a child forked past our handlers other threads' locks stay locked. */
void mcache_refuse_misused(const struct mcache *mc)
{
	refuse_misused(mc, !mcache_are_several());
}

/* p is freed, and the bin has not kept the two freed before: were they p? */
static void refuse_passed_on_now(unsigned c, void *p)
{
	heap_check_slot(c, p);
	mcentral_lock(c);
	refuse_passed_on(c, &p, 1, LOOK_SHORT);
	mcentral_unlock(c);
}

/* The oldest n pointers of a bin go back to mcentral: the newest are warm. */
static void give_oldest(struct mcache *mc, unsigned c, uint32_t n, bool home)
{
	void **base = mcache_base(mc, c);
	uint32_t rest = mcache_count(mc, c) - n;

	mcentral_lock(c);
	mcentral_give_locked(c, base, n, home);
	memmove(base, base + n, rest * sizeof(void *));
	mc->top[c] = base + rest;
	mcentral_unlock(c);
	mcache_note_moved(mc, c, n);
}

static void retire_locked(struct mcache *mc)
{
	mcache_room_reset(mc);
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
 * of them go back. So a phase of the program does not keep what the one before needed.
 * A thread that may not have room as it likes needs all of it elsewhere. */
static void decay_bin(struct mcache *mc, unsigned c)
{
	const bool all = mc->limited || sizeclass_info[c].slot_size > BIG_SLOT;
	uint32_t n = mcache_count(mc, c);
	const bool is_idle = n == mc->decay_count[c];

	if (is_idle && n > 0) {
		give_oldest(mc, c, all ? n : (n + 1) / 2, false);
		n = all ? 0 : n / 2;
	}
	if (UNLIKELY(mc->limited) && is_idle)
		mcache_close_bin(mc, c);
	mc->decay_count[c] = (uint16_t)n;
	mcentral_decay(c);
}

/* The clock's code is not ours: by this a handler that interrupts it knows that we are at
 * work on the mcache, and takes another. */
static uint64_t coarse_now(void)
{
	uint64_t now;

	seep_tls.internal++;
	now = os_coarse_ns();
	seep_tls.internal--;
	return now;
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
	set_part(mc, coarse_now(), true);
	mc->budget += mc->later;
	mc->later = 0;
	mcache_tick_sample(mc);
	return mc->budget >= 0;
}

/* Now and then some classes are looked at, and the page heap's clock, which must not
 * depend on page traffic alone. */
void mcache_look_around(struct mcache *mc)
{
	uint64_t now = coarse_now();

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

/* There is some room. Leaves it for one more than it takes, if there may be. */
static uint32_t take_batch(struct mcache *mc, unsigned c)
{
	uint32_t n = refill_count(mc, c), got;
	void **base;

	if (UNLIKELY(n >= mcache_room(mc, c)))
		mcache_widen(mc, c, n + 1);
	if (UNLIKELY(n > mcache_room(mc, c)))
		n = mcache_room(mc, c);
	base = mcache_base(mc, c);
	mcentral_lock(c);
	got = mcentral_take_locked(c, mc, base, n);
	atomic_store_release(&mc->top[c], base + got);
	mcentral_unlock(c);
	mcache_note_moved(mc, c, got);
	return got;
}

bool mcache_refill(struct mcache *mc, unsigned c)
{
	mc->nrefill++;
	mcache_tick(mc); /* first: it may empty a bin that was just filled */
	look_at_big(mc, c);
	if (UNLIKELY(mc->limit[c] == mc->top[c])) {
		mcache_open_room(mc, c);
		if (UNLIKELY(mc->limit[c] == mc->top[c]))
			return false;
	}
	mcache_grow_room(mc, c);
	return take_batch(mc, c) > 0;
}

void *mcache_take_one(struct mcache *mc, unsigned c)
{
	void *p = NULL;

	mcentral_lock(c);
	mcentral_take_locked(c, mc, &p, 1);
	mcentral_unlock(c);
	mcache_note_moved(mc, c, 1);
	return p;
}

/* p goes past the bin. */
static void give_one(struct mcache *mc, unsigned c, void *p)
{
	mcentral_lock(c);
	refuse_passed_on(c, &p, 1, LOOK_SHORT);
	mcentral_give_locked(c, &p, 1, false);
	mcentral_unlock(c);
	mcache_note_moved(mc, c, 1);
}

static void pass_by(struct mcache *mc, unsigned c, void *p)
{
	heap_check_slot(c, p);
	give_one(mc, c, p);
	look_at_big(mc, c);
	mcache_tick(mc);
}

static void push_first(struct mcache *mc, unsigned c, void *p)
{
	void **top = mc->top[c];

	if (mcache_opens_late(c)) {
		top[0] = top[-1];
		top[-1] = p;
	} else {
		top[0] = p;
	}
	atomic_store_release(&mc->top[c], top + 1);
}

bool mcache_open(struct mcache *mc, unsigned c, void *p)
{
	if (mcache_room(mc, c) > 0)
		return false;
	mc->nrefill++;
	mcache_open_room(mc, c);
	if (UNLIKELY(mcache_room(mc, c) == 0)) {
		pass_by(mc, c, p);
		return true;
	}
	if (UNLIKELY(mc->limited))
		refuse_passed_on_now(c, p);
	if (mcache_opens_late(c) && take_batch(mc, c) == 0)
		return false;
	push_first(mc, c, p);
	return true;
}

/* Most of what goes home: it comes back in the order of addresses, what stays in that of
 * the frees. Half of what other threads may want. */
static void flush_bin(struct mcache *mc, unsigned c)
{
	const uint32_t n = mcache_count(mc, c);
	const bool home = mcentral_should_go_home(c, mc, mcache_base(mc, c), n);

	give_oldest(mc, c, home ? n - n / KEEP_PART : (n + 1) / 2, home);
}

static void flush(struct mcache *mc, unsigned c)
{
	mc->nflush++;
	if (mc->nflush % 2 == 0 && mcache_grow_room(mc, c))
		return;
	if (is_looked_at(mc->nflush))
		refuse_doubles(mc, c);
	flush_bin(mc, c);
	look_at_big(mc, c);
	mcache_tick(mc);
}

bool mcache_flush(struct mcache *mc, unsigned c, void *p)
{
	if (UNLIKELY(mc->limited) && mcache_room(mc, c) < MCACHE_BELOW)
		refuse_passed_on_now(c, p);
	flush(mc, c);
	if (LIKELY(mc->top[c] != mc->limit[c]))
		return true;
	give_one(mc, c, p); /* it was closed just now */
	return false;
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
