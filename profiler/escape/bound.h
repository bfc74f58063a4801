/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bound: which activations of one stack are still there in a later stack, by comparing
 * frames. Two activations of one function at one address, called from one place, look
 * alike, so the depth that is found is a lower bound.
 */
#ifndef PROFILER_ESCAPE_BOUND_H
#define PROFILER_ESCAPE_BOUND_H

#include "preload/base/base.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/unwind.h"

#define BOUND_SLOTS 24 /* innermost frames whose slots are kept */

/* A stack as it was at malloc; the pcs are those of its site. */
struct bound_stack {
	uintptr_t base;		     /* slot of frames[1] */
	uintptr_t outer_slot;	     /* of the outermost frame; 0: the walk broke off */
	uintptr_t outer_pc;	     /* in it */
	uint16_t count;		     /* of slots */
	bool whole;		     /* slots reach the outermost frame */
	uint32_t slots[BOUND_SLOTS]; /* (slot - base) / 8; of frames[1], frames[2] ... */
};

#define BOUND_UNKNOWN ((uint32_t)-1)

/* FAST. */
void bound_keep(struct bound_stack *b, const struct frame *frames, int count);
/* FAST. The same of a stack that was captured as a trail. */
void bound_keep_trail(struct bound_stack *b, const struct trail *t);
/* FAST. How many activations of the stack b, whose site this is, are gone now that the
 * stack is frames; BOUND_UNKNOWN where the two cannot be compared. */
uint32_t bound_compare(const struct bound_stack *b, uint32_t site,
		       const struct frame *frames, int count);
/* FAST. The address of frames[i + 1]'s slot, i below count. */
static inline uintptr_t bound_slot(const struct bound_stack *b, uint32_t i)
{
	return b->base + (uintptr_t)b->slots[i] * 8;
}

#endif
