/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unwind_int: what unwind.c, trail.c and unwind_full.c share.
 */
#ifndef PROFILER_STACK_UNWIND_INT_H
#define PROFILER_STACK_UNWIND_INT_H

#include "preload/base/atomic.h"
#include "profiler/stack/cfi.h"
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
	const struct unwind_regs *regs; /* where it began; NULL: in our own frame */
	bool known;   /* hi is the stack's end; else it grows page by page */
	bool precise; /* pc is exact, not a return address */
};

/* Goes on at sp, which may lie on another stack. SIGNAL. */
void walk_enter_stack(struct walk *w, uintptr_t sp);

/* Our own code; empty: the first return address met is taken for the program's. */
struct own_text {
	uintptr_t start, size;
};
extern struct own_text own_text HIDDEN; /* written by INIT */

/* Return addresses that stand for others, see unwind_set_stubs(). */
struct return_stubs {
	uintptr_t start, size, table;
};
extern struct return_stubs return_stubs HIDDEN; /* written by INIT */

/* FAST. The return address that a stub stands for, or ra itself. */
ALWAYS_INLINE NO_SANITIZE uintptr_t walk_true_return(uintptr_t ra)
{
	if (LIKELY(ra - return_stubs.start >= return_stubs.size))
		return ra;
	return *(const volatile uintptr_t *)(return_stubs.table +
					     align_down(ra - return_stubs.start, 16));
}

/* FAST. Of our own frames, which have frame pointers, the outermost; fp is one of them.
 * They lie in our own stack, so plain reads are safe. */
ALWAYS_INLINE NO_SANITIZE const uintptr_t *walk_last_own_frame(const uintptr_t *fp)
{
	const uintptr_t start = own_text.start, size = own_text.size;

	if (LIKELY(return_stubs.size == 0)) {
		while (fp[1] - start < size)
			fp = (const uintptr_t *)fp[0];
		return fp;
	}
	while (fp[1] - start < size) {
		if (UNLIKELY(fp[1] - return_stubs.start < return_stubs.size) &&
		    walk_true_return(fp[1]) - start >= size)
			break;
		fp = (const uintptr_t *)fp[0];
	}
	return fp;
}

/* FAST. unwind_caller() for who has the frame fp and whose caller is ours, too. */
ALWAYS_INLINE NO_SANITIZE uintptr_t walk_own_caller(const uintptr_t *fp)
{
	return walk_true_return(walk_last_own_frame((const uintptr_t *)fp[0])[1]);
}

/* Appends frames from w outwards to frames[n..max). Returns the new count. SIGNAL. */
int walk_run(struct walk *w, struct frame *frames, int n, int max,
	     enum unwind_end *out_end);
/* Reads the word at addr if it lies above the walk's frontier and inside the stack. */
bool walk_read(struct walk *w, uintptr_t addr, uintptr_t *out);
/* Is all from the walk's frontier up to end readable? Widens the window. */
bool walk_can_read_up_to(struct walk *w, uintptr_t end);
/* One step outwards from a frame whose row is CFI_MISSING. */
enum step walk_step_missing(struct walk *w);

/* The pseudo frame behind one that gave STEP_NO_CFI: FRAME_JIT_PC where code that is in
 * no module runs or has called it. */
uintptr_t walk_end_mark(struct walk *w);

/* FAST. Counts module changes; trails of another generation are void. */
extern uint32_t unwind_changes HIDDEN; /* atomic, written by unwind.c */
static inline uint32_t unwind_generation(void)
{
	return atomic_load_acquire(&unwind_changes);
}

/* Rows by pc, cached for all threads. An entry's key is pc ^ row, so that a torn entry
 * does not match. The upper 16 bits of a row, which cfi_pack() leaves free, are those of
 * the generation that it is of: nothing need be cleared when modules change. A program
 * that meets little code uses little of the table: each further page costs a fault. */
#define ROW_TABLE_LG_FIRST 10
#define ROW_TABLE_LG	   15 /* 512 KiB */

struct row_table {
	unsigned lg;	 /* of the entries in use; atomic */
	uint32_t nfound; /* since lg was set; atomic */
	struct row_entry {
		uint64_t row; /* packed; 0: empty */
		uint64_t key; /* pc ^ row */
	} entries[];
};
/* NULL: not made; rows are looked up each time. Written once, atomic. */
extern struct row_table *row_table_made HIDDEN;

static inline struct row_table *row_table(void)
{
	return atomic_load_acquire(&row_table_made);
}

static inline struct row_entry *row_entry_at(struct row_table *t, uintptr_t pc)
{
	return &t->entries[(pc * 0x9e3779b97f4a7c15u) >>
			   (64 - atomic_load_relaxed(&t->lg))];
}

/* Looks the row up and remembers it. */
uint64_t row_find(struct row_table *t, uintptr_t pc);

ALWAYS_INLINE uint64_t row_for(struct row_table *t, uintptr_t pc)
{
	const struct row_entry *e = row_entry_at(t, pc);
	uint64_t row = atomic_load_relaxed(&e->row);

	if (LIKELY((row ^ atomic_load_relaxed(&e->key)) == pc && row != 0) &&
	    LIKELY(row >> 48 == (uint16_t)unwind_generation()))
		return row;
	return row_find(t, pc);
}

/* SIGNAL. From a frame whose row is CFI_UNSUPPORTED to its caller. Slow: walks the whole
 * stack up to there again, with all registers. */
enum step unwind_full_step(struct walk *w);

#endif
