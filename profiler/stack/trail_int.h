/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail_int: what trail.c, which walks, trail_plain.c, which does so where nothing is out
 * of the ordinary, and trail_keep.c, which remembers, share.
 */
#ifndef PROFILER_STACK_TRAIL_INT_H
#define PROFILER_STACK_TRAIL_INT_H

#include "profiler/stack/trail.h"
#include "profiler/stack/unwind_int.h"

#define OTHERS	       8	/* stacks besides the thread's own */
#define FRAMES_FEW     44	/* a page in all, which does for most threads */
#define FRAMES_FIRST   512	/* where that does not, and of walked */
#define FRAMES_MAX     65536u	/* beyond, the outer half is dropped */
#define WORDS_A_FRAME  2	/* at most: saved rbp, CFA */
#define STATS_INTERVAL 1024	/* captures between additions to the totals */
#define PLAIN_MAX      128	/* frames that a plain capture may walk */
#define ROW_FAR	       (0u - 8) /* a distance that ends in no stack of less than 4 GiB */
#define ROWS_FIRST     128
#define ROWS_MAX       4096

/* The thread's own cache of rows, in front of the large one of all threads. */
enum row_kind {
	ROW_ODD,   /* look it up */
	ROW_END,   /* the code alone says that there is no caller */
	ROW_KEEPS, /* the caller's frame is at a constant distance */
	ROW_SAVES, /* the same, and rbp is restored from the stack */
	ROW_FRAME, /* rbp is a frame pointer */
};

struct known_row {
	uint32_t distance; /* from the slot of this frame to its caller's; ROW_FAR: not
			      fixed */
	int16_t save;	   /* from there to where rbp was saved */
	uint16_t kind;	   /* enum row_kind */
};

/* What a walk found that began at this place, in the plain case. The words that it read
 * are at the same places when it begins there again, so that they can be compared without
 * looking up a row or a step each. */
#define MEMO_FRAMES 6
#define MEMO_WAYS   3
#define MEMO_LATE   64
#define MEMOS_FIRST 16
#define MEMOS_MAX   1024
struct trail_memo {
	uintptr_t slot;	 /* of the innermost frame; 0: nothing is known */
	uint32_t number; /* see trail_found */
	uint8_t count;	 /* frames walked, from 1 */
	uint8_t late; /* captures that found it, but not at once, since it was put here */
	uint16_t index; /* that the trail's frame had which was met */
	struct memo_frame {
		uintptr_t pc;
		uint32_t offset; /* of its slot from the innermost one's */
		uint32_t node;
	} frames[MEMO_FRAMES + 1]; /* innermost first; [count] was met */
};
#define LG_MEMO_SIZE 7
#define MEMO_MASK(n) (((n)-1) << LG_MEMO_SIZE)
_Static_assert(sizeof(struct trail_memo) == 1 << LG_MEMO_SIZE, "mostly one line does");

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
	uint32_t plain_max; /* frames that it can have */
	/* Frames of own from here inwards have no flags, and these words each.
	 * UINT32_MAX: it is to be found out. */
	uint32_t simple_from, simple_words;
	uint32_t generation; /* of the modules */
	uint32_t row_mask;   /* rows in use: row_mask + 1 */
	uint32_t memo_mask;  /* MEMO_MASK() of the memos in use */
	/* Own's innermost frame, or TRAIL_UNKNOWN, as found_word(): one store, as it is
	 * one load. */
	uint64_t latest;
	/* What was captured last has the frames of own up to the one that this met, and
	 * then this one's. NULL: it is own. */
	struct trail_memo *memo;
	struct trail_memo *fresh; /* for own's innermost frames, or NULL */
	uint32_t nfresh;	  /* how many */
	struct trail own;
	struct trail_stats stats;
	uint32_t max;	       /* frames of one site */
	uint32_t capacity;     /* of walked */
	bool moves;	       /* arrays are being replaced */
	uint32_t nlearned;     /* rows since the mask was set */
	uint32_t nmemos;       /* the same of memos */
	uint64_t serial;       /* last one given out */
	struct walked *walked; /* by one capture, innermost first */
	struct trail others[OTHERS];
	struct known_row stub_row;	     /* leads nowhere */
	struct trail_place plain[PLAIN_MAX]; /* walked by one capture in the plain case */
	/* What follows begins small, each in one page, the first with all above: a
	 * thousand threads that are hardly sampled have these.
	 * Each walk waits for the rows one after the other: so they are as short as they
	 * can be, and what they are of lies elsewhere. */
	struct known_row rows[ROWS_MAX];
	uintptr_t row_pcs[ROWS_MAX];
	struct trail_steps steps;
	/* In pairs: two that share a place both have room. */
	struct trail_memo memos[MEMOS_MAX]
		__attribute__((aligned(MEMOS_FIRST << LG_MEMO_SIZE)));
};
_Static_assert(offsetof(struct trails, rows) + ROWS_FIRST * sizeof(struct known_row) <=
		       OS_PAGE,
	       "in the first page");

static inline uint64_t found_word(uint32_t node, uint32_t number)
{
	return node | (uint64_t)number << 32;
}

enum verdict { MATCHED, ROOT, CUT, REFUSED, ENDED };

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

/* SLOW. Where the row of pc is remembered now. That of a stub is not. */
const struct known_row *trail_learn_row(struct trails *a, uintptr_t pc);
/* Any capture that is no plain case; a may be NULL. fp is our outermost frame. */
struct trail *trail_capture_any(struct trails *a, const uintptr_t *fp);

/* ---- comparing ----
 * Each word has a branch of its own: a comparison and its branch are one operation. */

ALWAYS_INLINE NO_SANITIZE bool place_is_same(const struct trail_place *p)
{
	return LIKELY(*(const volatile uintptr_t *)p->slot == p->pc);
}

/* Are p[0] to p[-3] unchanged? */
ALWAYS_INLINE bool four_are_same(const struct trail_place *p)
{
	return place_is_same(p) && place_is_same(p - 1) && place_is_same(p - 2) &&
	       place_is_same(p - 3);
}

/* The innermost of places (lo, hi] whose word has changed; lo: none has. */
ALWAYS_INLINE NO_SANITIZE const struct trail_place *
changed_place(const struct trail_place *lo, const struct trail_place *hi)
{
	const struct trail_place *four = lo + 4, *from = hi;

	for (;;) {
		while (LIKELY(hi >= four) && four_are_same(hi))
			hi -= 4;
		/* What is left over goes with some that were compared already. */
		if (LIKELY(hi < four) && LIKELY(from >= four) && four_are_same(four))
			return lo;
		/* A stub may stand for one of the four. */
		for (int i = 0; i < 4; i++, hi--) {
			uintptr_t word;

			if (hi == lo)
				return lo;
			word = *(const volatile uintptr_t *)hi->slot;
			if (word != hi->pc && walk_true_return(word) != hi->pc)
				return hi;
		}
	}
}

/* How many of words [0, hi) are left when those from the last changed one on are dropped,
 * or lo. */
NO_SANITIZE static inline uint32_t changed_word(const struct trail_word *words,
						uint32_t lo, uint32_t hi)
{
	while (hi > lo &&
	       *(const volatile uintptr_t *)words[hi - 1].addr == words[hi - 1].value)
		hi--;
	return hi;
}

#endif
