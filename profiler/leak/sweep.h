/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep: from the mark bits to records: which lost objects are direct, which indirect,
 * how much each direct one retains, grouped by site.
 */
#ifndef PROFILER_LEAK_SWEEP_H
#define PROFILER_LEAK_SWEEP_H

#include "profiler/leak/history.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/mark.h"

/* STW. Marks what the program must not be blamed for, and all it reaches: objects without
 * a record in exact mode (made before the constructor, or by ourselves), objects
 * inherited by a forked child, ignored objects. */
void sweep_hold(struct marker *m);
/* What a sweep collects. */
struct sweep {
	struct leak_record *records;
	size_t count, capacity;
	uint32_t *table; /* 1 + record index, by site and kind */
	size_t ntable;
	uint64_t *leaders; /* bitmap of the pass over cycles; NULL before */
	size_t leaders_bytes;
	size_t left;		    /* white objects that no direct one reached */
	bool look;		    /* no memory may be mapped */
	struct history_entry *lost; /* of a look: what it has counted as lost */
	size_t nlost, lost_room;
	bool failed;
};
/* STW. Fills records, nrecords and totals of *out. False: out of memory. */
bool sweep_collect(struct marker *m, struct leak_result *out);

/* The white objects of one look, for another that must agree. table: size words, zero; a
 * power of two. */
struct sweep_candidates {
	uintptr_t *table;
	size_t size;
	size_t count; /* white; more than size / 2: they are not all in the table */
	size_t fresh; /* of them that no check has reported */
};
/* Both STW. */
void sweep_note_candidates(struct marker *m, struct sweep_candidates *out);
/* What is white and no candidate is held, with all it reaches. */
void sweep_keep_candidates(struct marker *m, struct sweep_candidates *set);

/* The same for looks beside a running program (look.h), which may be wrong: what is white
 * in one of them, with what shows whether it is the same object in the next. */
struct sweep_candidate {
	struct history_entry entry;
	uint32_t content; /* a hash of it */
};
struct sweep_seen {
	struct sweep_candidate *list; /* by address */
	size_t room, count, fresh;    /* count may be over room */
};
/* Of what is lost nobody changes a byte. */
uint32_t sweep_hash_content(const struct mspan *s, uintptr_t base);
/* Spans are in the order in which they were found. */
void sweep_sort_seen(struct sweep_candidate *list, size_t n);
const struct sweep_candidate *sweep_find_seen(const struct sweep_seen *seen,
					      uintptr_t base);
void sweep_note_seen(struct marker *m, struct sweep_seen *out);
/* What is white, but was not seen so with the same bytes in it, is held. */
void sweep_keep_seen(struct marker *m, struct sweep_seen *seen);
void sweep_seen_candidates(const struct sweep_seen *seen, struct sweep_candidates *out);
/* Which objects of the history are not freed. */
void sweep_ask_history(struct marker *m);
/* A sweep whose memory is mapped before the look, for up to so many records, and lost
 * objects, ... */
bool sweep_init_look(struct sweep *c, size_t records, size_t lost);
bool sweep_map_look(struct sweep *c, const struct marker *m); /* for this marker */
void sweep_unmap_look(struct sweep *c);
/* ... which the look fills; false: there was too little. */
bool sweep_look(struct marker *m, struct sweep *c, const struct leak_result *out);
/* After it: *out has the records, and the history what was lost. */
void sweep_finish_look(struct sweep *c, struct leak_result *out);
void sweep_free_look(struct sweep *c);
/* DUMP. The object that p points into or at is held until it is freed. */
void sweep_ignore(uintptr_t p);

#endif
