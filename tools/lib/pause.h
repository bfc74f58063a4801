/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pause: how long a process will stand still while a snapshot of it is made: mostly the
 * copying of its page tables, an entry for each 4 KiB page but one for a huge page, and
 * of the list of its mappings.
 */
#ifndef TOOLS_LIB_PAUSE_H
#define TOOLS_LIB_PAUSE_H

#include <stdbool.h>
#include <stdint.h>

struct pause {
	uint64_t huge_bytes, small_bytes; /* private memory in huge pages; the rest */
	unsigned threads;
	double screen_ms, confirm_ms;
};

/* False: it cannot be seen. */
bool pause_predict(int pid, struct pause *out);

#endif
