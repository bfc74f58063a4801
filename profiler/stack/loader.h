/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader: the lock that the loader holds while somebody walks its list of modules. fork()
 * of a program with threads can copy it held, by a thread that the child does not have;
 * glibc resets its other locks, not this one. The child must then never ask the loader;
 * unless the thread was ours (a live check's), whose lock is given back there.
 */
#ifndef PROFILER_STACK_LOADER_H
#define PROFILER_STACK_LOADER_H

#include <link.h>

#include "preload/base/base.h"

typedef int (*loader_callback)(struct dl_phdr_info *info, size_t size, void *arg);

/* INIT. Finds the lock among the loader's data; without it the child is taken for sound.
 */
void loader_init(void);
/* In a forked child, before it has threads. */
void loader_fork_child(void);
/* FAST. False: a thread of the parent holds the lock for ever. */
bool loader_is_usable(void);
/* DUMP. dl_iterate_phdr(); 0 without a call where the loader is not usable. */
int loader_each(loader_callback fn, void *arg);
/* DUMP. Calls fn once with the loader's lock held, info NULL or any module's. Where the
 * lock is lost nobody else can have it: fn is called without. */
void loader_with_lock(loader_callback fn, void *arg);

#endif
