/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_seen: what a look has seen, and what became of what others have; see sweep.h. */
#include "profiler/leak/sweep.h"

#include "profiler/sample/sample.h"

#define HASHED_WORDS 32

#define NO_SANITIZE  __attribute__((no_sanitize("address", "thread", "undefined")))

NO_SANITIZE uint32_t sweep_hash_content(const struct mspan *s, uintptr_t base)
{
	size_t n = mspan_slot_bytes(s) / sizeof(uintptr_t);
	const volatile uintptr_t *word = (const volatile uintptr_t *)base;
	uint64_t hash = 0;

	for (size_t i = 0; i < n && i < HASHED_WORDS; i++)
		hash = (hash ^ word[i]) * 0x9e3779b97f4a7c15u;
	return (uint32_t)(hash >> 32);
}

void sweep_sort_seen(struct sweep_candidate *list, size_t n)
{
	for (size_t gap = n / 2; gap > 0; gap /= 2)
		for (size_t i = gap; i < n; i++) {
			struct sweep_candidate x = list[i];
			size_t k = i;

			for (; k >= gap && list[k - gap].entry.base > x.entry.base;
			     k -= gap)
				list[k] = list[k - gap];
			list[k] = x;
		}
}

const struct sweep_candidate *sweep_find_seen(const struct sweep_seen *seen,
					      uintptr_t base)
{
	size_t first = 0, end = seen->count;

	while (first < end) {
		size_t middle = (first + end) / 2;

		if (seen->list[middle].entry.base < base)
			first = middle + 1;
		else
			end = middle;
	}
	return first < seen->count && seen->list[first].entry.base == base
		       ? &seen->list[first]
		       : NULL;
}

static bool is_live(const struct history_entry *e, void *arg)
{
	uint32_t index;
	size_t bit;
	const struct mspan *s = mark_find(arg, e->base, &index, &bit);
	const struct sample_record *r = s ? sample_find(s, index) : NULL;

	return s && sample_site(r) == e->site &&
	       (r ? sample_birth_ns(r) : 0) == e->born_ns;
}

void sweep_ask_history(struct marker *m)
{
	history_ask(is_live, m);
}
