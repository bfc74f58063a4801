/* SPDX-License-Identifier: Apache-2.0 */
/*
 * words: looking for words that point into an object. Most of what a look costs, so four
 * words at a time where the processor can.
 */
#ifndef PROFILER_ESCAPE_WORDS_H
#define PROFILER_ESCAPE_WORDS_H

#include "preload/base/base.h"

/* INIT. */
void words_init(void);
/* FAST. The address of the first aligned word in [lo, hi) whose value lies in
 * [p, p + size), or 0. The memory may change meanwhile. */
uintptr_t words_find(uintptr_t lo, uintptr_t hi, uintptr_t p, size_t size);

#endif
