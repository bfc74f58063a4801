/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intern: numbers distinct keys (texts or bytes) in the order in which they first come.
 */
#ifndef TOOLS_LIB_INTERN_H
#define TOOLS_LIB_INTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/lib/arena.h"

struct intern_key {
	uint64_t hash;
	size_t size;
	const char *bytes; /* a NUL follows them */
};

struct intern { /* zeroed: empty */
	struct arena arena;
	struct intern_key *keys; /* by number */
	uint32_t *slots;	 /* hash table of numbers + 1 */
	size_t count, nslots;
};

/* The key's number, from 0; it is added when it is new: then the number equals the count
 * before the call. */
size_t intern_bytes(struct intern *t, const void *key, size_t size);
size_t intern_text(struct intern *t, const char *text);
/* The same without adding: INTERN_NONE when it is not there. */
#define INTERN_NONE SIZE_MAX
size_t intern_find(const struct intern *t, const void *key, size_t size);
const char *intern_key(const struct intern *t, size_t number);
void intern_free(struct intern *t);

#endif
