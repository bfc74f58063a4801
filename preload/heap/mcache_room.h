/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcache_room: for how many pointers there may be room in a thread's bins, and where they
 * lie. All of it is the owner's only, and SLOW.
 */
#ifndef PRELOAD_HEAP_MCACHE_ROOM_H
#define PRELOAD_HEAP_MCACHE_ROOM_H

#include "preload/heap/mcache.h"

#define NEIGHBOUR_MAX (1 * KIB) /* bytes of a slot that is taken with neighbours */

/* Once, with mcache_lock held, before the first mcache is made. */
void mcache_room_init(void);
/* Words of an mcache, arrays included. */
size_t mcache_room_words(void);
/* Of a new mcache, zeroed: all bins are empty. */
void mcache_room_begin(struct mcache *mc);

/* Does the class's bin have no room until it is first used? */
bool mcache_opens_late(unsigned sizeclass);
/* Gives the bin room for so many, as far as there may be; that of one that had none: what
 * bins begin with. */
void mcache_widen(struct mcache *mc, unsigned sizeclass, uint32_t room);
void mcache_open_room(struct mcache *mc, unsigned sizeclass);
/* By half; false: there may not be more. */
bool mcache_grow_room(struct mcache *mc, unsigned sizeclass);
/* The bin is empty, and its room is for others. */
void mcache_close_bin(struct mcache *mc, unsigned sizeclass);
/* With mcache_lock held, of an mcache whose owner is gone, wherever that was, and whose
 * bins are empty. */
void mcache_room_reset(struct mcache *mc);
#define MOVED_LEAST KIB /* bytes for which a slot counts: a move costs no less */
/* n slots of the class were moved from or to mcentral. */
static inline void mcache_note_moved(struct mcache *mc, unsigned c, uint32_t n)
{
	const uint32_t slot_size = sizeclass_info[c].slot_size;

	mc->moved += (uint64_t)n * (slot_size > MOVED_LEAST ? slot_size : MOVED_LEAST);
}

#endif
