/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcache_room: see mcache_room.h.
 *
 * Nobody can take anything from a thread that sleeps, without instructions on the fast
 * path. So what it may keep is bounded while it works: all room in its bins counts, in
 * bytes of slots, but for what bins of small slots begin with.
 *
 *   charged = sum of charge() <= ALLOWED + granted + earned
 *
 * What is granted comes from a pool of the process, first come, first served: in a
 * program of few threads no room is ever refused. Of a thousand threads most find the
 * pool empty. They earn it by moving slots from and to mcentral, the fourth power of how
 * much: a thread that does little before it sleeps has next to nothing, 16 KiB for 16
 * MiB, and one that works is soon past that, 4 MiB for 64. What was earned stays with the
 * mcache, which the next thread gets.
 *
 * Without room, slots come one by one and go straight back. Bins of such a thread that
 * two looks find unused are closed, and their room is for others.
 *
 * A bin begins in a brief array, all of which are close together, since most threads have
 * few objects of most classes, and moves to a lasting one, which is as long as the class
 * may ever need, when its room grows beyond the first. Its pages fault in as it does.
 */
#include "preload/heap/mcache_room.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"

#define ROOM_FIRST_BYTES 1024 /* of objects: room of a new bin */
#define ROOM_FIRST_MIN	 4
#define NEIGHBOURS_MOST	 8
#define SMALL_SLOT	 256 /* see above */
#define ALLOWED		 ((int64_t)(4 * KIB))
#define POOL		 ((int64_t)(6 * MIB))
#define EARN_UNIT	 (4 * KIB)
#define EARN_DIVISOR	 (16 * GIB)
#define EARN_UNTIL	 (96 * MIB)

struct mcache_arrays mcache_arrays[SIZECLASS_COUNT];

static struct {
	int64_t pool; /* atomic: left of it */
	size_t words; /* of an mcache */
} rooms = { .pool = POOL };

static uint32_t first_room(unsigned c)
{
	uint32_t room = ROOM_FIRST_BYTES / sizeclass_info[c].slot_size;

	return room < ROOM_FIRST_MIN ? ROOM_FIRST_MIN : room;
}

/* For what the first refill gets. */
static uint32_t brief_room(unsigned c)
{
	uint32_t first = first_room(c), room = first + (first + 1) / 2;

	if (sizeclass_info[c].slot_size <= NEIGHBOUR_MAX && room <= NEIGHBOURS_MOST)
		return NEIGHBOURS_MOST + 1;
	return room;
}

void mcache_room_init(void)
{
	size_t at = align_up(sizeof(struct mcache), CACHE_LINE) / sizeof(void *);

	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		mcache_arrays[c].brief = (uint16_t)(at + MCACHE_BELOW);
		mcache_arrays[c].brief_room = (uint16_t)brief_room(c);
		at += MCACHE_BELOW + mcache_arrays[c].brief_room;
	}
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		mcache_arrays[c].lasting = (uint16_t)(at + MCACHE_BELOW);
		at += MCACHE_BELOW + sizeclass_info[c].cache_max;
	}
	rooms.words = at;
}

size_t mcache_room_words(void)
{
	return rooms.words;
}

bool mcache_opens_late(unsigned c)
{
	/* Slots share cache lines. */
	return sizeclass_info[c].slot_size < 2 * CACHE_LINE;
}

static bool is_small(unsigned c)
{
	return sizeclass_info[c].slot_size <= SMALL_SLOT;
}

void mcache_room_begin(struct mcache *mc)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		mc->top[c] = (void **)mc + mcache_arrays[c].brief;
		mc->limit[c] = mc->top[c];
		if (is_small(c) && !mcache_opens_late(c))
			mc->limit[c] += first_room(c);
	}
}

/* Others may be looking at the bin, but for those who hold mcache_lock. */
static void move_to_lasting(struct mcache *mc, unsigned c, uint32_t room)
{
	void **to = (void **)mc + mcache_arrays[c].lasting;
	uint32_t n = mcache_count(mc, c);

	lock_acquire(&mcache_lock);
	memcpy(to, mcache_base(mc, c), n * sizeof(*to));
	atomic_store_release(&mc->top[c], to + n);
	mc->limit[c] = to + room;
	lock_release(&mcache_lock);
}

static void set_room(struct mcache *mc, unsigned c, uint32_t room)
{
	void **base = mcache_base(mc, c);

	if (room > mcache_arrays[c].brief_room &&
	    base == (void **)mc + mcache_arrays[c].brief)
		move_to_lasting(mc, c, room);
	else
		mc->limit[c] = base + room;
}

/* Bytes for which room counts. */
static int64_t charge(unsigned c, uint32_t room)
{
	uint32_t begun_with = is_small(c) ? first_room(c) : 0;

	return room > begun_with
		       ? (int64_t)(room - begun_with) * sizeclass_info[c].slot_size
		       : 0;
}

static int64_t uncharged(const struct mcache *mc)
{
	uint64_t square = mc->moved < EARN_UNTIL ? mc->moved : EARN_UNTIL;

	square = square / EARN_UNIT * (square / EARN_UNIT);
	return ALLOWED + mc->granted + (int64_t)(square * square / EARN_DIVISOR) -
	       mc->charged;
}

/* Takes what is missing from the pool. */
static bool is_granted(struct mcache *mc, int64_t missing)
{
	if (LIKELY(atomic_load_relaxed(&rooms.pool) < missing))
		return false;
	if (atomic_sub_relaxed(&rooms.pool, missing) < 0) {
		atomic_add_relaxed(&rooms.pool, missing);
		return false;
	}
	mc->granted += missing;
	return true;
}

/* The part of so much room, more than now, that there may be. */
static COLD uint32_t limit_room(struct mcache *mc, unsigned c, uint32_t now,
				uint32_t room, int64_t left)
{
	mc->limited = true;
	if (left < sizeclass_info[c].slot_size)
		return now;
	while (room > now && charge(c, room) - charge(c, now) > left)
		room--;
	return room;
}

void mcache_widen(struct mcache *mc, unsigned c, uint32_t room)
{
	const uint32_t now = mcache_room(mc, c), most = sizeclass_info[c].cache_max;
	int64_t more, left;

	room = room < most ? room : most;
	if (room <= now)
		return;
	more = charge(c, room) - charge(c, now);
	left = uncharged(mc);
	if (UNLIKELY(more > left) && UNLIKELY(!is_granted(mc, more - left))) {
		room = limit_room(mc, c, now, room, left);
		if (room == now)
			return;
		more = charge(c, room) - charge(c, now);
	} else if (UNLIKELY(mc->limited) && mc->moved >= EARN_UNTIL) {
		mc->limited = false;
	}
	mc->charged += more;
	set_room(mc, c, room);
}

void mcache_open_room(struct mcache *mc, unsigned c)
{
	mcache_widen(mc, c, mc->last_room[c] ? mc->last_room[c] : first_room(c));
}

bool mcache_grow_room(struct mcache *mc, unsigned c)
{
	const uint32_t room = mcache_room(mc, c);

	if (room == sizeclass_info[c].cache_max)
		return false;
	mcache_widen(mc, c, room + (room + 1) / 2);
	return mcache_room(mc, c) > room;
}

void mcache_close_bin(struct mcache *mc, unsigned c)
{
	mc->charged -= charge(c, mcache_room(mc, c));
	set_room(mc, c, 0);
}

/* The owner may have been in the middle of any of the above: what counts is where the
 * tops are. */
void mcache_room_reset(struct mcache *mc)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		uint32_t room = mcache_room(mc, c);

		mc->last_room[c] =
			room <= sizeclass_info[c].cache_max ? (uint16_t)room : 0;
		mc->limit[c] = mc->top[c];
	}
	atomic_add_relaxed(&rooms.pool, mc->granted);
	mc->granted = mc->charged = 0;
	mc->limited = false;
}
