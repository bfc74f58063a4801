/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intern: see intern.h. Open addressing, at most half full.
 */
#include "tools/lib/intern.h"

#include <stdlib.h>
#include <string.h>

#include "tools/lib/say.h"

#define FIRST_SLOTS 1024u

static uint64_t hash_of(const unsigned char *bytes, size_t n)
{
	uint64_t h = 0xcbf29ce484222325u ^ n;

	for (; n >= 8; n -= 8, bytes += 8) {
		uint64_t word;

		memcpy(&word, bytes, 8);
		h = (h ^ word) * 0x9e3779b97f4a7c15u;
		h ^= h >> 32;
	}
	for (; n > 0; n--)
		h = (h ^ *bytes++) * 0x100000001b3u;
	h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
	return h ^ h >> 32;
}

/* The slot that holds the key, or the empty one where it belongs. */
static uint32_t *probe(const struct intern *t, uint64_t hash, const void *key,
		       size_t size)
{
	for (size_t i = hash;; i++) {
		uint32_t *slot = &t->slots[i & (t->nslots - 1)];
		const struct intern_key *k;

		if (*slot == 0)
			return slot;
		k = &t->keys[*slot - 1];
		if (k->hash == hash && k->size == size &&
		    memcmp(k->bytes, key, size) == 0)
			return slot;
	}
}

static void grow(struct intern *t)
{
	size_t n = t->nslots ? t->nslots * 2 : FIRST_SLOTS;

	free(t->slots);
	t->slots = allocate(n * sizeof(*t->slots));
	t->nslots = n;
	t->keys = realloc(t->keys, n / 2 * sizeof(*t->keys));
	if (!t->keys || n > UINT32_MAX)
		die(EXIT_INCOMPLETE, "out of memory");
	for (size_t i = 0; i < t->count; i++) {
		const struct intern_key *k = &t->keys[i];

		*probe(t, k->hash, k->bytes, k->size) = (uint32_t)i + 1;
	}
}

size_t intern_bytes(struct intern *t, const void *key, size_t size)
{
	uint64_t hash = hash_of(key, size);
	uint32_t *slot;

	if (t->count * 2 >= t->nslots)
		grow(t);
	slot = probe(t, hash, key, size);
	if (*slot == 0) {
		t->keys[t->count] =
			(struct intern_key){ hash, size,
					     arena_text(&t->arena, key, size) };
		*slot = (uint32_t)++t->count;
	}
	return *slot - 1;
}

size_t intern_find(const struct intern *t, const void *key, size_t size)
{
	uint32_t slot = t->nslots ? *probe(t, hash_of(key, size), key, size) : 0;

	return slot ? slot - 1 : INTERN_NONE;
}

size_t intern_text(struct intern *t, const char *text)
{
	return intern_bytes(t, text, strlen(text));
}

const char *intern_key(const struct intern *t, size_t number)
{
	return t->keys[number].bytes;
}

void intern_free(struct intern *t)
{
	arena_free(&t->arena);
	free(t->keys);
	free(t->slots);
	*t = (struct intern){ 0 };
}
