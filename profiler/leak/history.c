/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history: see history.h.
 *
 * Structure: an open hash table by address. It is built anew at the end of every check,
 * from the entries that the check has seen. Objects past MAX_ENTRIES are not remembered:
 * they count as new each time and are never retracted.
 */
#include "profiler/leak/history.h"

#include <string.h>

#include "preload/base/meta.h"

#define FIRST_ENTRIES 4096
#define MAX_ENTRIES   (1u << 20)

static struct {
	struct history_entry *table;
	size_t size, used; /* size is a power of two */
	uint32_t check;	   /* number of the present one */
} history;

static struct history_entry *slot_of(uintptr_t base)
{
	size_t i = (base >> 4) * 0x9e3779b97f4a7c15u >> 20;

	for (;; i++) {
		struct history_entry *e = &history.table[i & (history.size - 1)];

		if (e->base == 0 || e->base == base)
			return e;
	}
}

static void insert_all(const struct history_entry *from, size_t size, uint32_t check)
{
	for (size_t i = 0; i < size; i++)
		if (from[i].base && (check == 0 || from[i].seen == check)) {
			*slot_of(from[i].base) = from[i];
			history.used++;
		}
}

/* A table of n entries with those that the check has seen (0: with all). False: the old
 * one stands. */
static bool rebuild(size_t n, uint32_t check)
{
	struct history_entry *old = history.table;
	struct history_entry *table = meta_map(n * sizeof(*table), META_LEAK);
	size_t old_size = history.size;

	if (!table)
		return false;
	history.table = table;
	history.size = n;
	history.used = 0;
	insert_all(old, old_size, check);
	meta_unmap(old, old_size * sizeof(*old), META_LEAK);
	return true;
}

void history_begin(void)
{
	history.check++;
}

bool history_note(const struct history_entry *e)
{
	struct history_entry *slot;
	bool known;

	if (history.used * 2 >= history.size &&
	    (history.size >= MAX_ENTRIES * 2 ||
	     !rebuild(history.size ? history.size * 2 : FIRST_ENTRIES, 0)))
		return false;
	slot = slot_of(e->base);
	known = slot->base && slot->born_ns == e->born_ns;
	if (slot->base == 0)
		history.used++;
	*slot = *e;
	slot->seen = history.check;
	return known;
}

void history_end(void (*fn)(const struct history_entry *e, void *arg), void *arg)
{
	for (size_t i = 0; i < history.size; i++) {
		struct history_entry *e = &history.table[i];

		if (e->base == 0 || e->seen == history.check)
			continue;
		if (!e->is_reached)
			fn(e, arg);
		e->is_reached = true;
		if (e->is_live && e->born_ns)
			e->seen = history.check;
	}
	if (history.size)
		rebuild(history.size, history.check);
}

static const struct history_entry *find(const struct history_entry *e)
{
	const struct history_entry *slot = history.size ? slot_of(e->base) : NULL;

	return slot && slot->base && slot->born_ns == e->born_ns ? slot : NULL;
}

bool history_knows(const struct history_entry *e)
{
	const struct history_entry *slot = find(e);

	return slot && !slot->is_reached;
}

bool history_has(const struct history_entry *e)
{
	return find(e) != NULL;
}

void history_ask(bool (*is_live)(const struct history_entry *e, void *arg), void *arg)
{
	for (size_t i = 0; i < history.size; i++)
		if (history.table[i].base)
			history.table[i].is_live = is_live(&history.table[i], arg);
}

size_t history_size(void)
{
	return history.used;
}

size_t history_give(struct history_entry *to, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < history.size && n < max; i++)
		if (history.table[i].base)
			to[n++] = history.table[i];
	return n;
}

void history_take(const struct history_entry *from, size_t count)
{
	history_forget();
	history_begin();
	for (size_t i = 0; i < count; i++)
		history_note(&from[i]);
}

void history_lose(void)
{
	memset(&history, 0, sizeof(history));
}

void history_forget(void)
{
	meta_unmap(history.table, history.size * sizeof(*history.table), META_LEAK);
	history.table = NULL;
	history.size = history.used = 0;
}
