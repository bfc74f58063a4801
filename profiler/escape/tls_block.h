/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls_block: where the thread-local variables of the program and of the libraries loaded
 * at start lie: at the same distance below every thread's thread pointer.
 */
#ifndef PROFILER_ESCAPE_TLS_BLOCK_H
#define PROFILER_ESCAPE_TLS_BLOCK_H

#include "preload/base/base.h"

struct tls_block {
	uintptr_t below; /* thread pointer - start */
	size_t size;
	uintptr_t code; /* an address in its module */
};

/* INIT. Finds the blocks of all but the C library, the loader and ourselves. */
void tls_block_init(void);
size_t tls_block_count(void);
const struct tls_block *tls_block_at(size_t i);
/* FAST. Is this file's data the C library's own? */
bool module_path_is_libc(const char *path);

#endif
