/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernelrefs: pointers that the program has given to the kernel and may get back: the
 * user data of what its epoll sets watch, values of its timers, counts of its eventfds.
 */
#ifndef PROFILER_LEAK_KERNELREFS_H
#define PROFILER_LEAK_KERNELREFS_H

#include "preload/base/base.h"

enum {
	KERNELREFS_UNSEEN = 1, /* some cannot be read */
	KERNELREFS_KEPT = 2    /* there are ways to give some that nothing shows */
};

/* DUMP. Calls fn for each, of process pid, or of the descriptors of the thread pid.
 * Returns what is missing, as bits of the above. */
unsigned kernelrefs_each(int pid, void (*fn)(uintptr_t word, void *arg), void *arg);
/* DUMP. The same of what is shown, at less cost; read is called with the name of each
 * descriptor that may have some. Only UNSEEN is told for sure. */
unsigned kernelrefs_each_shown(int pid, void (*fn)(uintptr_t word, void *arg),
			       void (*read)(const char *fd, void *arg), void *arg);
/* DUMP. The same of one descriptor, whatever it is; of the timers. */
unsigned kernelrefs_each_of(int pid, const char *fd,
			    void (*fn)(uintptr_t word, void *arg), void *arg);
void kernelrefs_each_timer(int pid, void (*fn)(uintptr_t word, void *arg), void *arg);
/* DUMP. Calls fn with the name of each descriptor of pid. False: they are not shown. */
bool kernelrefs_descriptors(int pid, void (*fn)(const char *fd, void *arg), void *arg);

#endif
