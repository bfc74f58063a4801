/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocked_int: what blocked.c, the fixpoint, and reach.c, its memory, share.
 */
#ifndef PROFILER_THREAD_BLOCKED_INT_H
#define PROFILER_THREAD_BLOCKED_INT_H

#include "profiler/leak/leak_int.h"
#include "profiler/stack/thread.h"
#include "profiler/thread/blocked.h"

struct finder {
	const struct blocked_world *in;
	const struct world *w;
	const struct blocked_stack *stacks;
	struct blocked *out;
	const struct thread_info **infos;
	bool *live;	  /* suspects: found able to run */
	bool *ends;	  /* suspects: pthread_cancel() ends the wait */
	uint8_t *found;	  /* suspects: pointers into this one's stack */
	uint8_t *before;  /* what was found up to the last look */
	uint32_t *sought; /* suspects whose stacks are looked for, by address */
	uint32_t nsought;
	uintptr_t lo, hi;  /* bounds of these stacks */
	uint32_t *handles; /* suspects that can be cancelled, by pthread_self() */
	uint32_t nhandles;
	bool *known; /* suspects: the handle was found */
	bool wide;   /* pointers in the usual disguises count */
	struct opt_pointer disguises[OPT_POINTERS_MAX];
	/* Somebody may know the word whom we cannot see: every word counts as reached. */
	bool unknown;
	struct marker marker;
	struct roots roots;
};

/* A suspect that is not known to be able to run; i -1: none. */
static inline bool blocked_waits(const struct finder *f, int i)
{
	return i >= 0 && f->out[i].suspect && !f->live[i];
}

/* ---- reach.c ---- */

/* DUMP. Finds a variable of libc; before the world is stopped. */
void reach_prepare(void);
/* In the stopped world, or its snapshot. Marks from everything but the suspects.
 * False: nothing can be said. reach_end() in any case. */
bool reach_begin(struct finder *f);
void reach_end(struct finder *f);
/* The suspect can run: marks what it can find. */
void reach_from(struct finder *f, uint32_t i);
/* Can anybody who runs find b's word? */
bool reach_word(struct finder *f, struct blocked *b);
/* Looks for pointers to suspects' stacks, and for the handles of those that can be
 * cancelled, which can run then, and marks on. False: no more were found. */
bool reach_more(struct finder *f);

#endif
