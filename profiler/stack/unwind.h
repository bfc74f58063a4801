/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unwind: whole stacks of native code without frame pointers.
 *
 * Frames are found by call frame information compiled from .eh_frame (cfi.c), by frame
 * pointers only where no CFI exists, and by all registers and expressions of the CFI
 * (unwind_full.c) where a row needs them. Nothing here allocates from the heap
 * or takes a lock while a stack is walked; every read is checked against the bounds of
 * the stack.
 */
#ifndef PROFILER_STACK_UNWIND_H
#define PROFILER_STACK_UNWIND_H

#include "preload/base/base.h"

/* One activation. Index 0 is the innermost. */
struct frame {
	uintptr_t pc;	/* return address; the exact pc where FRAME_PRECISE is set */
	uintptr_t slot; /* address of the stack word that held the return address of this
			 * frame's callee, i.e. where pc was read; 0 when it came from a
			 * register */
};
#define FRAME_TRUNCATED_PC ((uintptr_t)1) /* pseudo pc of the frame "[truncated]" */
#define FRAME_JIT_PC                                                      \
	((uintptr_t)2) /* pseudo pc of the frame "[jit]": no module there \
			*/
#define FRAME_PSEUDO_MAX ((uintptr_t)4095) /* every pc up to this is no address */

enum unwind_end {
	UNWIND_COMPLETE,  /* reached the outermost frame */
	UNWIND_TRUNCATED, /* max frames: the last one is FRAME_TRUNCATED_PC */
	UNWIND_NO_CFI,	 /* stopped at code without unwind information (JIT): FRAME_JIT_PC
			  */
	UNWIND_BAD_STACK /* the stack did not make sense: FRAME_TRUNCATED_PC appended */
};

struct stack {
	int count;
	enum unwind_end end;
	bool precise0; /* frames[0].pc is an exact pc, not a return address (from
			  registers) */
	struct frame *frames;
};

/* Registers of a stopped or interrupted thread. */
struct unwind_regs {
	uintptr_t ip, sp, bp, bx, r12, r13, r14, r15;
};

/* INIT. Makes the table of rows, unless it is there. */
void unwind_init(void);
/* FAST. The return address in the program's innermost frame, from below which our own
 * code was called. */
uintptr_t unwind_caller(void);
/* INIT. Frames whose pc lies in [start, end) are ours: unwind_here() leaves the innermost
 * ones out. Empty (the default): it starts with its own caller. */
void unwind_set_own_text(uintptr_t start, uintptr_t end);
/* INIT. Return addresses in [start, start + size) are stubs that profiler/escape put in
 * place of others: the true one of the stub at s is the word at table + (s - start). */
void unwind_set_stubs(uintptr_t start, size_t size, uintptr_t table);
/* The calling thread leaves what it does here, and may come back to it or not. What it
 * keeps is put into a, and it begins anew. */
struct unwind_aside {
	void *trails, *scratch;
	bool unwinding, is_set;
};
void unwind_set_aside(struct unwind_aside *a);
/* It comes back. Nothing, if a was not set. */
void unwind_take_back(const struct unwind_aside *a);
/* In a forked child. */
void unwind_fork_child(void);

/*
 * Captures the calling thread's stack from the innermost frame outside libseep's own text
 * outwards into frames[0..max). Re-entrant calls (a signal handler that allocates) return
 * 0. SIGNAL, no lock, at most 2 KiB of stack. frames is the caller's; see
 * unwind_scratch().
 */
int unwind_here(struct frame *frames, int max, enum unwind_end *out_end);

/* STW, SIGNAL. The stack of another, stopped thread. [lo, hi) are its stack's bounds; hi
 * 0: unknown, found from sp. */
int unwind_regs(const struct unwind_regs *regs, uintptr_t lo, uintptr_t hi,
		struct frame *frames, int max, enum unwind_end *out_end);

/* Is there call frame information for the code at pc? SLOW when it is new, else FAST. */
bool unwind_is_described(uintptr_t pc);

/* The calling thread's own scratch array of *out_max frames (opt stack= plus one), made
 * at first use from metadata; NULL when out of memory. SLOW. */
struct frame *unwind_scratch(int *out_max);

/* Gives the calling thread's scratch back. SLOW. */
void unwind_thread_end(void);

/* Code was mapped or unmapped (dlopen, dlclose): caches of rows are dropped. SLOW. */
void unwind_modules_changed(void);

#endif
