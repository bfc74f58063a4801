/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unwind_int: what unwind.c and unwind_lib.c share.
 */
#ifndef PROFILER_STACK_UNWIND_INT_H
#define PROFILER_STACK_UNWIND_INT_H

#include "profiler/stack/unwind.h"

#define NO_SANITIZE	__attribute__((no_sanitize("address", "thread", "undefined")))
#define UNWIND_MAX_GAP	((uintptr_t)64 << 20) /* no frame is larger */
#define UNWIND_RED_ZONE 128

enum step { STEP_OK, STEP_END, STEP_NO_CFI, STEP_UNSUPPORTED, STEP_BAD };

/* A walk in progress: the state in one frame. */
struct walk {
	uintptr_t pc, sp, bp;	      /* sp: as it will be when the frame runs on */
	uintptr_t slot;		      /* where pc was read, 0: in a register */
	uintptr_t lo, hi;	      /* words that may be read now */
	uintptr_t window;	      /* unknown stack: [window, hi) was found readable */
	uintptr_t fixed_lo, fixed_hi; /* the caller's bounds; 0: none given */
	bool known;   /* hi is the stack's end; else it grows page by page */
	bool precise; /* pc is exact, not a return address */
};

/* Goes on at sp, which may lie on another stack. SIGNAL. */
void walk_enter_stack(struct walk *w, uintptr_t sp);
/* Appends frames from w outwards to frames[n..max). Returns the new count. SIGNAL. */
int walk_run(struct walk *w, struct frame *frames, int n, int max,
	     enum unwind_end *out_end);

/* INIT. Opens libunwind privately; without it the functions below find nothing. */
void unwind_lib_open(void);
/* The walk got stuck in frames[n - 1] of the calling thread's own stack: appends what
 * libunwind finds beyond it. Returns the new count, or -n when it finds nothing. */
int unwind_lib_continue(struct frame *frames, int n, int max);

#endif
