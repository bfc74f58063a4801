/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dynsym: where a loaded module's exported symbol is, by the hash table in its memory.
 * dlsym() would wait for whoever loads a library, which may hang itself.
 */
#ifndef PROFILER_STACK_DYNSYM_H
#define PROFILER_STACK_DYNSYM_H

#include <link.h>

#include "preload/base/base.h"

/* In a callback of loader_each(). False: the module has no such symbol of its default
 * version. */
bool dynsym_find(const struct dl_phdr_info *info, const char *name, uintptr_t *out_start,
		 size_t *out_size);
/* SIGNAL. The same for a module that stays loaded. */
bool dynsym_find_at(uintptr_t bias, uintptr_t dynamic, const char *name,
		    uintptr_t *out_start, size_t *out_size);
/* A function of the vDSO; 0: there is none. */
uintptr_t dynsym_find_in_vdso(const char *name);

#endif
