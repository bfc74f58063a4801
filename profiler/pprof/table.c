/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table: see table.h.
 */
#include "profiler/pprof/table.h"

#include "preload/base/meta.h"

#define FIRST_SLOTS 1024

static struct slot *probe(const struct table *t, uint64_t key)
{
	size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 20);

	for (;; i++) {
		struct slot *s = &t->slots[i & (t->nslots - 1)];

		if (s->key == key || s->key == 0)
			return s;
	}
}

void table_begin(struct table *t, struct slot *slots)
{
	*t = (struct table){ .slots = slots, .nslots = TABLE_BEGIN, .borrowed = true };
}

static bool grow(struct table *t)
{
	struct table fresh = { .nslots = t->nslots >= FIRST_SLOTS ? t->nslots * 2
								  : FIRST_SLOTS,
			       .used = t->used };

	fresh.slots = meta_map(fresh.nslots * sizeof(*fresh.slots), META_PPROF);
	if (!fresh.slots)
		return false;
	for (size_t i = 0; i < t->nslots; i++)
		if (t->slots[i].key)
			*probe(&fresh, t->slots[i].key) = t->slots[i];
	table_free(t);
	*t = fresh;
	return true;
}

struct slot *table_at(struct table *t, uint64_t key)
{
	struct slot *s;

	if (t->used * 2 >= t->nslots && !grow(t))
		return NULL;
	s = probe(t, key);
	if (s->key == 0) {
		s->key = key;
		t->used++;
	}
	return s;
}

void table_free(struct table *t)
{
	if (!t->borrowed)
		meta_unmap(t->slots, t->nslots * sizeof(*t->slots), META_PPROF);
	*t = (struct table){ 0 };
}
