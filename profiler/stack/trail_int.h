/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail_int: what trail.c, which walks, and trail_keep.c, which remembers, share.
 */
#ifndef PROFILER_STACK_TRAIL_INT_H
#define PROFILER_STACK_TRAIL_INT_H

#include "profiler/stack/trail.h"
#include "profiler/stack/unwind_int.h"

#define OTHERS	       8 /* stacks besides the thread's own */
#define FRAMES_FIRST   512
#define FRAMES_MAX     65536u	/* beyond, the outer half is dropped */
#define WORDS_A_FRAME  2	/* at most: saved rbp, CFA */
#define STATS_INTERVAL 1024	/* captures between additions to the totals */
#define PLAIN_MAX      128	/* frames that a plain capture may walk */
#define ROW_FAR	       (0u - 8) /* a distance that ends in no stack of less than 4 GiB */
#define ROWS_FIRST     512	/* 8 KiB, which should stay in the first cache */
#define ROWS_MAX       4096

/* The thread's own cache of rows, in front of the large one of all threads. */
enum row_kind {
	ROW_ODD,   /* look it up */
	ROW_KEEPS, /* the caller's frame is at a constant distance */
	ROW_SAVES, /* the same, and rbp is restored from the stack */
	ROW_FRAME, /* rbp is a frame pointer */
};

struct known_row {
	uintptr_t pc;
	uint32_t distance; /* from the slot of this frame to its caller's; ROW_FAR: not
			      fixed */
	int16_t save;	   /* from there to where rbp was saved */
	uint16_t kind;	   /* enum row_kind */
};

/* How a frame that the walk has met is left, besides by a constant distance; in the lower
 * bits of its slot. */
enum walked_flag {
	WALKED_USES_BP = 1, /* the CFA depends on rbp */
	WALKED_BY_WORD = 2, /* the CFA was read from a word of the stack */
	WALKED_FLAGS = 3,
};

/* A frame that the walk has met. */
struct walked {
	uintptr_t slot; /* and enum walked_flag */
	uintptr_t pc, bp;
	const uintptr_t *save; /* where the caller's rbp was read; bp: it is unchanged */
	uintptr_t word;	       /* WALKED_BY_WORD: which */
};

struct trails {
	/* Slots below are no plain case: end of the thread's stack; all, where the trail
	 * has something out of the ordinary. Set whenever own is, but for its frames on
	 * top. */
	uintptr_t plain_lo;
	uint32_t plain_max;		     /* frames that it can have */
	uint32_t generation;		     /* of the modules */
	uint32_t max;			     /* frames of one site */
	uint32_t capacity;		     /* of walked */
	bool moves;			     /* arrays are being replaced */
	uint32_t row_mask;		     /* rows in use: row_mask + 1 */
	uint32_t nlearned;		     /* since the mask was set */
	uint64_t serial;		     /* last one given out */
	struct walked *walked;		     /* by one capture, innermost first */
	struct trail_place plain[PLAIN_MAX]; /* the same in the plain case */
	struct trail own, others[OTHERS];
	struct trail_stats stats;
	struct trail_steps steps;
	struct known_row stub_row; /* leads nowhere */
	struct known_row rows[ROWS_MAX];
};

enum verdict { MATCHED, ROOT, CUT, REFUSED, ENDED };

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

/* One capture. */
struct scan {
	struct walk w;
	struct trails *all;
	struct trail *trail;
	uint32_t n;	/* frames walked */
	int at;		/* innermost remembered frame that may match */
	bool whole;	/* the trail goes to the stack's end, whose bounds are known */
	uintptr_t zero; /* where the outermost frame's return address, 0, was read */
	/* Beyond the outermost frame: FRAME_JIT_PC and its like, and the two words at rbp
	 * that led to it; their address 0: none were read. */
	uintptr_t pseudo;
	struct trail_word tried[2];
};

/* SLOW. The calling thread's; NULL: no memory, or the thread is ending. */
struct trails *trails_make(void);
/* SLOW. Room for more; false: there is none. */
bool trails_grow_walked(struct trails *a);
bool trail_grow(struct trail *t, uint32_t count);
/* All trails are empty from now on. */
void trails_forget(struct trails *a);
/* Whether what is on the thread's own stack now is a plain case: sets plain_lo. */
void trails_set_plain(struct trails *a);
/* The trail that a stack which is not the thread's own, with this sp, may have. */
struct trail *trails_guess_other(struct trails *a, uintptr_t sp);
/* Adds the thread's figures to the totals. */
void trails_add_stats(struct trails *a);
/* Step 4: what was walked is put on what s->at retains. False: it cannot be. */
bool trail_keep(struct scan *s, enum verdict v);

#endif
