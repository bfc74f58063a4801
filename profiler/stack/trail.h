/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail: stacks captured incrementally. A thread remembers its last captured stack, one
 * for each stack that it runs on (coroutines); a new capture walks only until it meets
 * the old one and proves that nothing further out has changed.
 *
 * Why that is right: what a walk finds beyond a frame is a function of the frame's return
 * address, its place, rbp in it, and of the words that the walk reads. So a remembered
 * frame matches when the place and the return address are equal, and rbp too where some
 * CFA further out depends on it; and what lies beyond holds when every word that the walk
 * read there is unchanged: return addresses, and saved registers that a CFA depends on.
 * To compare return addresses alone is not enough: an old one may lie, unchanged, in the
 * alloca area of a new frame. Rows are taken as constant; dlclose drops all trails.
 *
 * A stack of more than max frames is cut: its site is made of the innermost frames, at
 * least half of max, below the pseudo frame "[truncated]". Only these are compared, so
 * that deep recursion costs no more than a stack of max frames. What lies further out may
 * therefore be out of date, and a stack that has become a little shorter than max may be
 * cut still.
 *
 * Stacks with signal frames, code without CFI, or rows beyond cfi.h are not remembered:
 * trail_capture() returns NULL and the caller takes unwind_here().
 */
#ifndef PROFILER_STACK_TRAIL_H
#define PROFILER_STACK_TRAIL_H

#include "preload/base/base.h"

/* Where a frame is: pc was read at slot. */
struct trail_place {
	uintptr_t slot, pc;
};

enum trail_flag {
	TRAIL_USES_BP = 1,  /* the frame's own CFA depends on rbp */
	TRAIL_NEEDS_BP = 2, /* it, or one further out, depends on rbp as it is here */
};

struct trail_frame {
	uintptr_t bp;	 /* rbp in this frame */
	uint64_t serial; /* ascending; a frame keeps it while it is retained */
	uint32_t base;	 /* frame where its site's stack begins; > 0: truncated */
	uint32_t nwords; /* see trail.words: of this frame and those further out */
	uint32_t flags;	 /* enum trail_flag */
};

/* A word of the stack, no return address, that a walk read, and what it held. */
struct trail_word {
	uintptr_t addr, value;
};

/* A cache for whoever sets the nodes: the child of parent for pc. What is in it is set
 * by trail_capture() already. It begins small: each further page costs a fault. Two that
 * share a place both have room, since two hot ones would else cost each other. A step
 * is found by a sum of the return addresses so far, and not by the parent: else each step
 * would wait for the load of the one before. */
#define TRAIL_STEPS_FIRST 32
#define TRAIL_STEPS_MAX	  8192
struct trail_steps {
	uint32_t mask, nset; /* in use: mask + 1; set since the mask was */
	struct trail_step {
		uintptr_t pc;
		uint32_t parent, node;
	} list[TRAIL_STEPS_MAX] __attribute__((aligned(CACHE_LINE))); /* in pairs */
};

struct trail_node {
	uint32_t node; /* the caller's: site of the stack that ends here; 0: none */
	uint32_t sum;  /* of its return addresses */
};

/* FAST. The sum of the stack that goes on with pc. */
static inline uint32_t trail_sum(uint32_t outer, uintptr_t pc)
{
	return (outer << 5 | outer >> 27) + (uint32_t)pc;
}

/* FAST. */
static inline struct trail_step *trail_step_at(struct trail_steps *t, uint32_t sum)
{
	return &t->list[sum * 0x9e3779b1u >> 16 & t->mask];
}

/* FAST. Where the step went that was there before. */
static inline struct trail_step *trail_step_second(const struct trail_step *s)
{
	return (struct trail_step *)((uintptr_t)s ^ sizeof(*s));
}

/* FAST. The site one step further in, if the thread has taken that step lately; else 0.
 */
ALWAYS_INLINE uint32_t trail_known_step(struct trail_steps *steps, uint32_t parent,
					uintptr_t pc, uint32_t sum)
{
	const struct trail_step *s = trail_step_at(steps, sum);

	if (LIKELY(s->pc == pc) && LIKELY(s->parent == parent))
		return s->node;
	s = trail_step_second(s);
	return LIKELY(s->pc == pc) && LIKELY(s->parent == parent) ? s->node : 0;
}

struct trail {
	struct trail_place *places; /* [0] is the outermost; [-1] is never reached */
	struct trail_node *nodes;   /* beside places */
	/* Beside places. What the plain case puts on top has no flags and the words of
	 * the last frame that is set; trail_set_frames() sets the rest. */
	struct trail_frame *frames;
	uint32_t nset;		   /* frames that are set, 1 to count */
	struct trail_steps *steps; /* of the thread */
	struct trail_word *words;  /* saved registers and the like */
	uint32_t count;		   /* frames; the calling function's is the last */
	uint32_t capacity;	   /* frames that there is room for */
	bool rootless;		   /* what is further out than frames[0] was dropped */
	uintptr_t top;		   /* end of what was read */
	uintptr_t root; /* slot of the outermost true frame: tells stacks apart */
	uint64_t born;	/* serial when the trail was last empty */
	uint64_t used;	/* when, for the choice of which to give up */
};

/*
 * Captures the calling thread's stack, as unwind_here() does. The caller sets nodes: one
 * that is 0 is not known yet. NULL: this stack cannot be remembered, or there is no
 * memory, or the call is re-entrant. The trail is the thread's own, and good until its
 * next capture: keep signal handlers out by thread_internal_enter(). SIGNAL.
 */
struct trail *trail_capture(void);
/* The same from fp on, the frame address of one of our functions that are running. */
struct trail *trail_capture_from(const uintptr_t *fp);

/*
 * Which activations of a captured stack have ended since? A trail's frame i lies in the
 * function whose own return address is the pc of frame i - 1, so that activation is alive
 * as long as frame i - 1 is retained. Frames that were there at the capture have at most
 * the serial of that time.
 */
struct trail_mark {
	uintptr_t root;
	uint64_t serial;
	uint32_t count;
};
void trail_mark(struct trail_mark *m, const struct trail *t);
/* How many are gone, innermost first, at most max; all, when t is of another stack.
 * False: the trail was lost in between. */
bool trail_gone(const struct trail_mark *m, const struct trail *t, uint32_t max,
		uint32_t *out_gone);

/* FAST. The frame where the innermost one's site begins. */
static inline uint32_t trail_base(const struct trail *t)
{
	return t->nset == t->count ? t->frames[t->count - 1].base : 0;
}

/* FAST. Is the stack of the innermost frame cut? */
static inline bool trail_is_cut(const struct trail *t)
{
	return t->rootless || trail_base(t) > 0;
}

/* Sets all frames of a trail of the calling thread. */
void trail_set_frames(const struct trail *t);

/* A stack by its node. The caller may give it a number, by which it finds what it keeps
 * for the node; until it has, or when that is forgotten, the number is 0. */
struct trail_found {
	uint32_t node, number;
};

/* Of trail_capture_node() (trail_fast.h): it is captured, but its node is not known. */
#define TRAIL_UNKNOWN UINT32_MAX
/* What trail_capture_node() has just captured is this. FAST. */
void trail_set_latest(struct trail_found found);
/* FAST. The trail that trail_capture_node() has just left, if it did not return 0. */
const struct trail *trail_latest(void);

/* Forgets all that the calling thread's trails hold: a capture, or who sets their nodes,
 * was interrupted and will not go on. */
void trail_thread_forget(void);
/* Gives back the calling thread's trails. SLOW. */
void trail_thread_end(void);

/* Work done so far, by all threads; those that run may lag by some captures. */
struct trail_stats {
	uint64_t captures;
	uint64_t walks;	   /* were not known without a walk */
	uint64_t full;	   /* met nothing to reuse */
	uint64_t walked;   /* frames, by these */
	uint64_t compared; /* words, but for captures that a memo answered */
	uint64_t refused;  /* captures that could not be remembered */
};
void trail_get_stats(struct trail_stats *out);

#endif
