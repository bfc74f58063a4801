/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture: see capture.h. Frames that a trail retains have their nodes; the rest follow
 * from there, one step in the tree each.
 */
#include "profiler/site/capture.h"

#include "profiler/site/site.h"
#include "profiler/stack/unwind.h"

/* site_child(), and the next capture knows. */
static uint32_t child(struct trail_steps *steps, uint32_t parent, uintptr_t pc,
		      uint32_t sum)
{
	struct trail_step *s = trail_step_at(steps, sum);
	uint32_t node = trail_known_step(steps, parent, pc, sum);

	if (node != SITE_NONE) /* put twice, it would take the place of the other one */
		return node;
	node = site_child(parent, pc);
	if (node == SITE_NONE)
		return node;
	*trail_step_second(s) = *s;
	*s = (struct trail_step){ .pc = pc, .parent = parent, .node = node };
	if (UNLIKELY(++steps->nset > steps->mask) && steps->mask < TRAIL_STEPS_MAX - 1) {
		steps->mask = steps->mask * 2 + 1;
		steps->nset = 0;
	}
	return node;
}

/* The node of the trail's innermost frame; sets those it needs on the way. */
NOINLINE uint32_t capture_site(const struct trail *t)
{
	const struct trail_frame *f = t->frames;
	struct trail_node *nodes = t->nodes;
	uint32_t last = t->count - 1, base = trail_base(t);
	uint32_t i = last, node;

	if (base == 0 && nodes[last].node)
		return nodes[last].node;
	trail_set_frames(t);
	while (i > base && (nodes[i].node == 0 || f[i].base != base))
		i--;
	/* i is known, or the outermost frame of this site. */
	node = f[i].base == base ? nodes[i].node : 0;
	if (node == 0 || f[i].base != base) {
		node = base > 0 ? site_child(SITE_NONE, FRAME_TRUNCATED_PC) : SITE_NONE;
		node = child(t->steps, node, t->places[i].pc, nodes[i].sum);
		if (f[i].base == base)
			nodes[i].node = node;
	}
	while (i < last && node) {
		i++;
		node = child(t->steps, node, t->places[i].pc, nodes[i].sum);
		if (f[i].base == base)
			nodes[i].node = node;
	}
	return node;
}

static COLD bool capture_whole(struct capture *out)
{
	enum unwind_end end;
	int max, n;
	struct frame *frames = unwind_scratch(&max);

	n = frames ? unwind_here(frames, max, &end) : 0;
	if (n == 0)
		return false;
	out->truncated = end == UNWIND_TRUNCATED || end == UNWIND_BAD_STACK;
	out->site = site_intern(frames, n);
	return out->site != SITE_NONE;
}

bool capture_here(struct capture *out)
{
	const struct trail *t = trail_capture();

	out->trail = t;
	if (UNLIKELY(!t))
		return capture_whole(out);
	out->truncated = trail_is_cut(t);
	out->site = t->nodes[t->count - 1].node;
	if (out->site == SITE_NONE)
		out->site = capture_site(t);
	return out->site != SITE_NONE;
}
