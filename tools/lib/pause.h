/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pause: how long a process will stand still while a snapshot of it is made: mostly the
 * copying of its page tables, an entry for each 4 KiB page but one for a huge page, and
 * of the list of its mappings. Or, where the kernel tells which pages are written, while
 * those are searched that just were.
 */
#ifndef TOOLS_LIB_PAUSE_H
#define TOOLS_LIB_PAUSE_H

#include <stdbool.h>
#include <stdint.h>

struct pause {
	uint64_t huge_bytes, small_bytes; /* private memory in huge pages; the rest */
	unsigned threads;
	double screen_ms, confirm_ms;
	double uncopied_ms; /* of a confirm that needs no copy; 0: the kernel is too old
			     */
};

/* False: it cannot be seen. */
bool pause_predict(int pid, struct pause *out);

#endif
