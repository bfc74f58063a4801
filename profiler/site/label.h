/* SPDX-License-Identifier: Apache-2.0 */
/*
 * label: sites split by what is not in the stack: the name of the thread, the size
 * (labels=). Off unless asked for, since both multiply sites.
 *
 * Structure: a label is one node or more of the tree below the stack's own, with pcs that
 * no code has. So a labelled site has counters like any other, and survives the process
 * like any other; who shows a stack reads the labels off first.
 */
#ifndef PROFILER_SITE_LABEL_H
#define PROFILER_SITE_LABEL_H

#include "preload/base/base.h"

#define LABEL_NAME_BYTES 16 /* of a thread's name, as the kernel keeps it */

struct labels {
	char thread[LABEL_NAME_BYTES]; /* empty: not split by it */
	uint64_t size;		       /* 0: likewise */
};

/* SLOW. site for an object of the calling thread in a slot of so many bytes: site itself
 * without labels=, or when memory is out. */
uint32_t label_site(uint32_t site, size_t slot_bytes);
/* SLOW. The stack's own site, and what the labels say (out may be NULL). */
uint32_t label_read(uint32_t site, struct labels *out);

#endif
