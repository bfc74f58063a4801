/* SPDX-License-Identifier: Apache-2.0 */
/*
 * other: is an object on the stack of another thread?
 */
#ifndef PROFILER_ESCAPE_OTHER_H
#define PROFILER_ESCAPE_OTHER_H

#include "preload/base/base.h"

/* SLOW; reads /proc. Looks through the stacks, thread-local storage included, of other
 * threads that wait in the kernel: what a running one holds cannot be told from what it
 * left. *left: bytes that may be read, counted down. True: found; *out_site is that of
 * the call that made the thread, 0: not known. */
bool other_has(uintptr_t p, size_t size, size_t *left, uint32_t *out_site);

#endif
