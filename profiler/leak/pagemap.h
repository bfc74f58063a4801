/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pagemap: which pages of our memory are there, by the kernel's own list (PAGEMAP_SCAN,
 * Linux 6.7).
 */
#ifndef PROFILER_LEAK_PAGEMAP_H
#define PROFILER_LEAK_PAGEMAP_H

#include "preload/base/base.h"

#define PAGEMAP_WRITTEN	   (1u << 1)
#define PAGEMAP_FILE	   (1u << 2)
#define PAGEMAP_PRESENT	   (1u << 3)
#define PAGEMAP_SWAPPED	   (1u << 4)
#define PAGEMAP_HUGE	   (1u << 6)
#define PAGEMAP_GUARD	   (1u << 8) /* Linux 6.16 */
#define PAGEMAP_HUGE_BYTES (2 * MIB)

/* DUMP. A descriptor, to be closed by os_close(), or -errno. */
int pagemap_open(void);
/* DUMP. Calls fn for the runs of pages of [lo, hi), in order, that have one of the
 * categories. False: the kernel does not tell. */
bool pagemap_each(int pagemap, uintptr_t lo, uintptr_t hi, uint64_t categories,
		  void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* DUMP. The same for pages that were written, where that is watched (written.h), since
 * the last call with `again`; where it is not, all that are there, but none with `again`.
 */
bool pagemap_each_written(int pagemap, uintptr_t lo, uintptr_t hi, bool again,
			  void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* DUMP. Without `again`, in half the time: some pages may be told, too, that are swapped
 * out, or not there though others of their 2 MiB are. */
bool pagemap_each_written_or_absent(int pagemap, uintptr_t lo, uintptr_t hi,
				    void (*fn)(uintptr_t lo, uintptr_t hi, void *arg),
				    void *arg);
/* Is nobody there who might kill for it? As of pagemap_open(). */
bool pagemap_may_ask(void);
/* DUMP. The same for pages that are present or swapped out; of ranges up to 4 TiB on
 * older kernels, too, page by page. */
bool pagemap_each_filled(int pagemap, uintptr_t lo, uintptr_t hi,
			 void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* DUMP. Calls fn, in order, for the runs of pages of [lo, hi) that may be guards: pages
 * without any right in a mapping that has rights (MADV_GUARD_INSTALL, Linux 6.13). Older
 * kernels show them as swapped out. False: all may be such. */
bool pagemap_each_guard(int pagemap, uintptr_t lo, uintptr_t hi,
			void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* DUMP. Has the kernel look at what a copy of the process is made of, for three
 * milliseconds at most: the caches of the processor hold it then. */
void pagemap_warm(int pagemap);

#endif
