/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cfi_full: one step outwards by all that DWARF's call frame information can say: any
 * register, any expression. For the few frames (hand-written assembly, mostly) that the
 * packed rows of cfi.h cannot describe. Slow, but SIGNAL: no lock, no malloc.
 */
#ifndef PROFILER_STACK_CFI_FULL_H
#define PROFILER_STACK_CFI_FULL_H

#include "profiler/stack/cfi_int.h"

/* The registers in one frame, by DWARF's numbers; [CFI_REG_RA] is the pc. */
struct cfi_regs {
	uintptr_t value[CFI_NREGS];
	uint32_t known; /* bit: value[] holds it */
	uintptr_t slot; /* where the pc was read, 0: in a register */
	bool precise;	/* the pc is exact, not a return address */
};

enum cfi_step {
	CFI_STEP_OK,
	CFI_STEP_END,	  /* outermost frame */
	CFI_STEP_MISSING, /* no description of this pc */
	CFI_STEP_BAD,	  /* not understood, not readable, or no register's value */
};

typedef bool (*cfi_read_fn)(void *arg, uintptr_t addr, uintptr_t *out);

/* From the frame *r to its caller. The pc is as it was found: maybe a stub's. */
enum cfi_step cfi_full_step(struct cfi_regs *r, cfi_read_fn read, void *arg);

#endif
