/* SPDX-License-Identifier: Apache-2.0 */
/*
 * site_int: what site.c and counters.c share.
 */
#ifndef PROFILER_SITE_SITE_INT_H
#define PROFILER_SITE_SITE_INT_H

#include "profiler/site/site.h"

#define LG_FEW_CHUNK	 SITE_LG_FEW_CHUNK
#define FEW_CHUNK	 (1u << LG_FEW_CHUNK)
#define LG_COUNTER_CHUNK SITE_LG_COUNTER_CHUNK
#define COUNTER_CHUNK	 (1u << LG_COUNTER_CHUNK)

/* site.c. The number of the site's struct site_few goes into a cell, unless it has one by
 * now, or there is no memory. */
void site_put_few(uint32_t site, uint32_t number);
/* site.c. Whose number of struct site_few the cell has; SITE_NONE: it has none. */
uint32_t site_owner(uint32_t cell);

/* counters.c. */
void counters_fork_prepare(void);
void counters_fork_done(bool child);
bool counters_are_known(uint32_t few); /* is that a number of struct site_few? */
void counters_adopt(const struct store_header *h);

#endif
