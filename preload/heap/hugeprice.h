/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hugeprice: what a huge page costs to fault in, and whether that is worth it.
 *
 * Mostly one is had for a quarter of what its 512 small pages would cost. Not so on a
 * virtual machine that reports its free memory to the host: only whole huge pages are
 * reported, so these come from the host anew, at many times the price, while small pages
 * come from what is left of broken ones. Measured on such a machine, per 2 MiB: 0.2 to
 * 0.3 ms when the memory was freed a moment ago, 1.1 ms in small pages, 3.5 to 5.9 ms
 * else; a program of 60 ms with a heap of 25 MiB took more than twice as long.
 *
 * What was freed last is had first, so after some cheap ones all are dear. Therefore
 * huge pages are advised one by one, and each is faulted in at once and timed: of a
 * large object's the first half, up to 64 MiB, since it may never fill them. When one was
 * dear, what follows gets none until the heap is some times as large, or simply large, or
 * the program has run for so long that huge pages, which save it some time in every
 * second, are likely to be worth that price. So it is with our own memory (meta.h).
 *
 * Concurrency: guarded by mheap_lock, like the arena.
 */
#ifndef PRELOAD_HEAP_HUGEPRICE_H
#define PRELOAD_HEAP_HUGEPRICE_H

#include "preload/base/base.h"

#define HUGE_PAGE (2 * MIB)

/* May a heap of so many bytes ask for another huge page? cpu_ns: of the process so far.
 * FAST. */
bool hugeprice_is_fair(size_t heap_bytes, uint64_t cpu_ns);
/* One took ns to fault in. FAST. */
void hugeprice_note(uint64_t ns, size_t heap_bytes);
/* Advises huge pages for new memory from lo to hi, multiples of HUGE_PAGE, as far as they
 * are worth it. SLOW. */
void hugeprice_advise(uintptr_t lo, uintptr_t hi, size_t heap_bytes);

#endif
