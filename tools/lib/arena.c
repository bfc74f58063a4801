/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena: see arena.h.
 */
#include "tools/lib/arena.h"

#include <stdlib.h>
#include <string.h>

#include "tools/lib/say.h"

#define CHUNK_BYTES (256u << 10)
#define ALIGN	    16u

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, size; /* of bytes */
	_Alignas(ALIGN) char bytes[];
};

static struct arena_chunk *add_chunk(struct arena *a, size_t least)
{
	size_t size = least > CHUNK_BYTES ? least : CHUNK_BYTES;
	struct arena_chunk *c = malloc(sizeof(*c) + size);

	if (!c)
		die(EXIT_INCOMPLETE, "out of memory");
	c->used = 0;
	c->size = size;
	c->next = a->chunks;
	a->chunks = c;
	return c;
}

void *arena_alloc(struct arena *a, size_t size)
{
	struct arena_chunk *c = a->chunks;
	void *p;

	size = size < SIZE_MAX - ALIGN ? (size + ALIGN - 1) & ~(size_t)(ALIGN - 1)
				       : SIZE_MAX / 2;
	if (!c || c->size - c->used < size)
		c = add_chunk(a, size);
	p = c->bytes + c->used;
	c->used += size;
	return p;
}

void *arena_zalloc(struct arena *a, size_t size)
{
	return memset(arena_alloc(a, size), 0, size);
}

char *arena_text(struct arena *a, const char *text, size_t n)
{
	char *copy = arena_alloc(a, n + 1);

	memcpy(copy, text, n);
	copy[n] = '\0';
	return copy;
}

void arena_free(struct arena *a)
{
	while (a->chunks) {
		struct arena_chunk *next = a->chunks->next;

		free(a->chunks);
		a->chunks = next;
	}
}
