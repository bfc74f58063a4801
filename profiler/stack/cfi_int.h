/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cfi_int: reading .eh_frame, for cfi.c and cfi_full.c. All is SIGNAL.
 */
#ifndef PROFILER_STACK_CFI_INT_H
#define PROFILER_STACK_CFI_INT_H

#include "preload/base/base.h"

/* DWARF's numbers of registers. */
#define CFI_REG_RBX 3
#define CFI_REG_RBP 6
#define CFI_REG_RSP 7
#define CFI_REG_R12 12
#define CFI_REG_R15 15
#define CFI_REG_RA  16
#define CFI_NREGS   17

struct cfi_reader {
	const uint8_t *p, *end;
	bool bad; /* ran over the end, or something unknown */
};

struct cfi_cie {
	uint64_t code_align;
	int64_t data_align;
	uint8_t fde_encoding;
	bool signal, augmented;
	struct cfi_reader program;
};

struct cfi_fde {
	uintptr_t start, end;
	struct cfi_cie cie;
	struct cfi_reader program;
};

/* The description of the function that holds pc; false: none. */
bool cfi_find_fde(uintptr_t pc, struct cfi_fde *out);

uint8_t cfi_u8(struct cfi_reader *r);
uint64_t cfi_fixed(struct cfi_reader *r, size_t size);
uint64_t cfi_uleb(struct cfi_reader *r);
int64_t cfi_sleb(struct cfi_reader *r);
/* A pointer in one of the encodings of the LSB core, exception frames. */
uintptr_t cfi_encoded(struct cfi_reader *r, uint8_t enc, uintptr_t data_base);
/* A length and that many bytes. */
struct cfi_reader cfi_block(struct cfi_reader *r);

#endif
