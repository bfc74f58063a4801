/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cfi: how to step from one frame to its caller, read from .eh_frame and packed into 64
 * bits, so that a cache of rows needs no lock. Format: DWARF 4, section 6.4, with the
 * augmentations of the Linux Standard Base (.eh_frame, .eh_frame_hdr).
 */
#ifndef PROFILER_STACK_CFI_H
#define PROFILER_STACK_CFI_H

#include "preload/base/base.h"

enum cfi_kind {
	CFI_NONE,      /* no row: an empty cache entry */
	CFI_RSP,       /* CFA = rsp + cfa_offset */
	CFI_RBP,       /* CFA = rbp + cfa_offset */
	CFI_RBP_DEREF, /* CFA = *(rbp + cfa_offset): a realigned frame */
	CFI_PLT,       /* CFA = rsp + cfa_offset + 8 in the second half of a PLT entry */
	CFI_END,       /* outermost frame: no caller */
	CFI_SIGNAL,    /* the return trampoline of a signal handler */
	CFI_MISSING,   /* no module, or no entry for this pc */
	CFI_UNSUPPORTED, /* a rule that we cannot evaluate */
};

enum cfi_rbp {
	CFI_RBP_SAME,	/* rbp keeps its value */
	CFI_RBP_AT_CFA, /* saved at CFA + rbp_offset */
	CFI_RBP_AT_RBP, /* saved at rbp + rbp_offset */
};

struct cfi_row {
	uint8_t kind, rbp;  /* enum cfi_kind, enum cfi_rbp */
	int16_t rbp_offset; /* bytes */
	int32_t cfa_offset; /* bytes, 24 bits */
};

/* SIGNAL. The row for pc (not a return address: subtract one first). Looks it up in the
 * modules' tables; slow (a microsecond or so), so callers cache. */
struct cfi_row cfi_find_row(uintptr_t pc);

/* A row as one word that is never 0: kind 4 bits, rbp 4 bits, cfa_offset 24 bits,
 * rbp_offset 16 bits, 16 bits zero. */
uint64_t cfi_pack(struct cfi_row row);

/* FAST. And back. */
static inline struct cfi_row cfi_unpack(uint64_t w)
{
	struct cfi_row row = { .kind = w & 15, .rbp = (w >> 4) & 15 };

	row.cfa_offset = (int32_t)(uint32_t)w >> 8;
	row.rbp_offset = (int16_t)(uint16_t)(w >> 32);
	return row;
}

#endif
