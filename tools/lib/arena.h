/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena: memory that is freed all at once.
 */
#ifndef TOOLS_LIB_ARENA_H
#define TOOLS_LIB_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena { /* zeroed: empty */
	struct arena_chunk *chunks;
};

/* Not cleared, 16-byte aligned; dies when memory is out. */
void *arena_alloc(struct arena *a, size_t size);
void *arena_zalloc(struct arena *a, size_t size);
/* A copy of n bytes, with a NUL after them. */
char *arena_text(struct arena *a, const char *text, size_t n);
void arena_free(struct arena *a);

#endif
