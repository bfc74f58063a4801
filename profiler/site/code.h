/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code: a return address in 31 bits.
 *
 * Structure: code of a process lies in few places. A region is 16 MiB of address space
 * that some return address lies in; regions are numbered as they are met, and a code is
 * the number of one and an offset in it. What finds no region any more, and what is no
 * address (label.h), is put down in full in a list of its own, and its code is its number
 * there: two codes of that kind may mean the same pc.
 *
 * Concurrency: read without a lock; made by who holds the tree's lock.
 */
#ifndef PROFILER_SITE_CODE_H
#define PROFILER_SITE_CODE_H

#include "preload/base/atomic.h"
#include "preload/base/base.h"

#define CODE_LG_REGION 24
#define CODE_LONG      127u /* number of the region of those in full */
#define CODE_REGIONS   127  /* the numbers from 1 on are used: no code is 0 */
#define CODE_LG_CHUNK  12
#define CODE_CHUNKS    1024 /* 4 million in full */
#define CODE_HINTS     64

struct codes {
	uint32_t count;			 /* regions; atomic */
	uint32_t nlong;			 /* pcs in full, from 1 on; atomic */
	uint64_t regions[CODE_REGIONS];	 /* pc >> CODE_LG_REGION; atomic */
	uint8_t hints[CODE_HINTS];	 /* the last one with this hash; atomic */
	uint64_t *long_pcs[CODE_CHUNKS]; /* atomic */
};
extern struct codes codes HIDDEN;

/* FAST. */
static inline bool code_is_long(uint32_t code)
{
	return code >> CODE_LG_REGION == CODE_LONG;
}

/* FAST. The pc; 0: damaged. */
uintptr_t code_pc(uint32_t code);
/* FAST. The code of pc if it is not one in full; 0: there is none so far. */
uint32_t code_find(uintptr_t pc);
/* SLOW. One for it in any case; 0: out of memory. The caller holds the tree's lock. */
uint32_t code_make(uintptr_t pc);

/* DUMP. Takes those of a process that has ended. */
struct store_header;
void code_adopt(const struct store_header *h);

#endif
