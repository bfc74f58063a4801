/* SPDX-License-Identifier: Apache-2.0 */
/*
 * growth: sites whose reachable bytes rise from check to check: no leak in the sense of
 * reachability, but perhaps in that of the program.
 */
#ifndef PROFILER_LEAK_GROWTH_H
#define PROFILER_LEAK_GROWTH_H

#include "profiler/leak/leak.h"

/* With the leak check's lock held. Compares the reachable records with those of the
 * checks before and sets their rises and grown_bytes. */
void growth_compare(struct leak_result *r);
void growth_forget(void);

#endif
