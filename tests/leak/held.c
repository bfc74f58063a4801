/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held: a program that loses nothing and holds much, for the list of what is reachable.
 */
#include "preload/api/seep.h"

#include <stdlib.h>

#include "tests/leak/lose.h"

struct entry {
	struct entry *next;
	void *padding[4];
	void *value;
};

void *cache_table[64];
static struct entry *volatile long_list;

static APART void *make_value(void)
{
	return keep_alive(calloc(1, 5000));
}

static APART struct entry *make_entry(void)
{
	return keep_alive(calloc(1, sizeof(struct entry)));
}

static APART void *make_last(void)
{
	return keep_alive(calloc(1, 7000));
}

/* Three checks; one site holds more each time, one always the same. */
static APART void grow(void)
{
	static void *all[30];
	int n = 0;

	all[n++] = make_value();
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 5; i++)
			all[n++] = make_last();
		if (seep_leak_check() != SEEP_CLEAN)
			exit(1);
	}
	keep_alive(all);
}

int main(int argc, char **argv)
{
	struct entry *e = make_entry();
	struct entry *at;

	e->value = make_value();
	cache_table[8] = e;
	long_list = at = make_entry();
	for (int i = 0; i < 20; i++)
		at = at->next = make_entry();
	at->value = make_last();
	if (argc > 1)
		grow();
	(void)argv;
	return 0;
}
