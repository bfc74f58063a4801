/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inner: pointers into the middle of an object that count like pointers to its start.
 */
#ifndef PROFILER_LEAK_INNER_H
#define PROFILER_LEAK_INNER_H

#include "preload/base/base.h"

struct marker;

/* DUMP. Where function tables can be, as of now; before the world is stopped. */
void inner_init(void);
/* STW. Is a pointer to base + inside all that a program keeps of such an object? size: of
 * its slot. */
bool inner_is_as_good(const struct marker *m, uintptr_t base, size_t inside, size_t size);

#endif
