/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api: what the files of this folder share. Only this folder exports symbols.
 */
#ifndef PRELOAD_API_API_H
#define PRELOAD_API_API_H

#include "preload/base/base.h"

/* Functions that <malloc.h> and <stdlib.h> do not declare. */
void cfree(void *p);
void free_sized(void *p, size_t size);
void free_aligned_sized(void *p, size_t align, size_t size);
void *__libc_malloc(size_t size);
void __libc_free(void *p);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_reallocarray(void *p, size_t count, size_t size);
void *__libc_memalign(size_t align, size_t size);
void *__libc_valloc(size_t size);
void *__libc_pvalloc(size_t size);
int __posix_memalign(void **out, size_t align, size_t size);

/* INIT. Each file's share of the constructor. */
void foreign_init(void);
void thread_api_init(void);
void dl_init(void);
void longjmp_init(void);
void fork_init(void);
/* The real function behind one of ours; NULL when there is none. INIT or SLOW. */
void *api_next_symbol(const char *name);

/* entry.c: our malloc itself, whatever the name malloc is bound to. */
void *api_own_malloc(size_t size);
/* INIT. False: the program exports a malloc of its own, so its calls do not reach us. */
bool api_is_bound(void);

/* exit.c: what is written at the end of the process. */
void exit_init(void);
void exit_reports(void);
void exit_fork_child(void);
/* Nothing will be recorded: only the row in the tool's table says so. */
void exit_set_passive(void);

#endif
