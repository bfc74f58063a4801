/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held: a program that loses nothing and holds much, for the list of what is reachable.
 */
#include <pthread.h>
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

int main(void)
{
	struct entry *e = make_entry();
	struct entry *at;

	e->value = make_value();
	cache_table[8] = e;
	long_list = at = make_entry();
	for (int i = 0; i < 20; i++)
		at = at->next = make_entry();
	at->value = make_last();
	return 0;
}
