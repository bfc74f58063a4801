/* SPDX-License-Identifier: Apache-2.0 */
/*
 * growth: sites whose reachable bytes rise from check to check: no leak in the sense of
 * reachability, but perhaps in that of the program.
 */
#ifndef PROFILER_LEAK_GROWTH_H
#define PROFILER_LEAK_GROWTH_H

#include "profiler/leak/leak.h"

struct seen_site {
	uint32_t site; /* SITE_NONE: free */
	uint32_t rises;
	uint64_t bytes, begin_bytes, begin_objects;
};

/* With the leak check's lock held. Compares the reachable records with those of the
 * checks before and sets their rises, grown_bytes, and whether they grow. */
void growth_compare(struct leak_result *r);
void growth_forget(void);
void growth_lose(void); /* where the table may be in the middle of a change */
/* As history_give() and history_take(). */
size_t growth_give(struct seen_site *to, size_t max);
void growth_take(const struct seen_site *from, size_t count);

#endif
