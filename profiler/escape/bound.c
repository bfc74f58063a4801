/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bound: see bound.h.
 *
 * What identifies an activation: frames[i] is the function that pc i lies in; the word
 * that holds that function's own return address is frames[i + 1].slot, and its value
 * frames[i + 1].pc. So "function i's activation still exists" means that a frame of the
 * later stack has the slot and pc of frames[i + 1], and that all frames outside it match
 * too, up to the end of what is known. The innermost frame of the later stack takes part:
 * a function that ends in a jump to free() has lent free() its own return address.
 *
 * A walk may break off at either end (depth limit, code without unwind information). What
 * lies beyond the end of the later one is presumed to be there still, which keeps the
 * depth a lower bound. Two whole stacks with different outermost frames are different
 * stacks (a coroutine frees what another one made): nothing can be said.
 */
#include "profiler/escape/bound.h"

#include "profiler/site/site.h"

/* Frames without the pseudo frame that ends a walk that broke off. */
static int real_count(const struct frame *frames, int count)
{
	if (count > 0 && frames[count - 1].pc <= FRAME_PSEUDO_MAX)
		return count - 1;
	return count;
}

static bool is_whole(const struct frame *frames, int count)
{
	return count > 1 && real_count(frames, count) == count &&
	       frames[count - 1].slot != 0;
}

void bound_keep(struct bound_stack *b, const struct frame *frames, int count)
{
	bool whole = is_whole(frames, count);
	int i;

	b->base = count > 1 ? frames[1].slot : 0;
	b->outer_slot = whole ? frames[count - 1].slot : 0;
	b->outer_pc = whole ? frames[count - 1].pc : 0;
	b->count = 0;
	for (i = 1; i < real_count(frames, count) && b->count < BOUND_SLOTS; i++) {
		uintptr_t distance = (frames[i].slot - b->base) / 8;

		if (frames[i].slot == 0 || frames[i].slot < b->base ||
		    distance > UINT32_MAX)
			break; /* another stack: what lies beyond is not compared */
		b->slots[b->count++] = (uint32_t)distance;
	}
	b->whole = whole && i == count;
}

void bound_keep_trail(struct bound_stack *b, const struct trail *t)
{
	const struct trail_place *last = &t->places[t->count - 1];
	uint32_t base = trail_base(t), n = t->count - 1 - base, i;
	bool pseudo = n > 0 && t->places[base].pc <= FRAME_PSEUDO_MAX;
	bool whole = n > 0 && !pseudo && !trail_is_cut(t) && t->places[base].slot != 0;

	n -= pseudo;
	b->base = n > 0 ? last[-1].slot : 0;
	b->outer_slot = whole ? t->places[base].slot : 0;
	b->outer_pc = whole ? t->places[base].pc : 0;
	b->whole = whole && n <= BOUND_SLOTS;
	b->count = (uint16_t)(n < BOUND_SLOTS ? n : BOUND_SLOTS);
	/* They ascend; no stack is longer than 32 GiB. */
	for (i = 0; i < b->count; i++)
		b->slots[i] = (uint32_t)((last[-1 - (intptr_t)i].slot - b->base) / 8);
}

/* The frame with this slot and pc, or -1. */
static int find_frame(const struct frame *frames, int count, uintptr_t slot, uintptr_t pc)
{
	for (int i = 0; i < count; i++)
		if (frames[i].slot == slot)
			return frames[i].pc == pc ? i : -1;
	return -1;
}

/* The innermost i from which on all kept frames are in frames, one after the other, as
 * far as frames reach; -1: none. open: frames broke off. */
static int find_match(const struct bound_stack *b, uint32_t site,
		      const struct frame *frames, int count, bool open)
{
	int match = -1, expected = 0;

	for (uint32_t i = 0; i < b->count && site; i++, site = site_parent(site)) {
		int at = find_frame(frames, count, bound_slot(b, i), site_pc(site));

		if (match >= 0 && open && expected == count)
			break; /* beyond what is known of the later stack */
		if (match >= 0 && at != expected)
			match = -1; /* a coincidence: the outer frames differ */
		if (match < 0 && at >= 0)
			match = (int)i;
		if (at >= 0)
			expected = at + 1;
	}
	if (match >= 0 && b->whole && !open && expected != count)
		return -1;
	return match;
}

/* Nothing matched in a stack that broke off: what lies outside its last frame may still
 * be there. */
static uint32_t first_beyond(const struct bound_stack *b, const struct frame *frames,
			     int count)
{
	uint32_t i = 0;

	while (i < b->count && bound_slot(b, i) <= frames[count - 1].slot)
		i++;
	return i;
}

uint32_t bound_compare(const struct bound_stack *b, uint32_t site,
		       const struct frame *frames, int count)
{
	int real = real_count(frames, count);
	bool open = !is_whole(frames, count);
	int match;

	if (b->count == 0 || real == 0)
		return BOUND_UNKNOWN;
	if (!open && b->outer_slot &&
	    (frames[count - 1].slot != b->outer_slot ||
	     frames[count - 1].pc != b->outer_pc))
		return BOUND_UNKNOWN; /* another stack */
	match = find_match(b, site_parent(site), frames, real, open);
	if (match >= 0)
		return (uint32_t)match;
	return open ? first_beyond(b, frames, real) : b->count;
}
