/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inner: a program that holds its objects by pointers into their middles, one way a case;
 * run by run_leak.py. Some are as good as pointers to their starts.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/leak/lose.h"

#define BLOCK 112

static void *volatile held;
static void *in_data = &in_data;

/* The block holds a second one, so that being found is not enough: it must be scanned. */
static APART void *make_block(void)
{
	void **p = keep_alive(calloc(1, BLOCK));

	p[1] = keep_alive(calloc(1, BLOCK));
	return p;
}

static APART void keep_middle(void)
{
	held = (char *)make_block() + 48;
}

static APART char *make_behind(void)
{
	return keep_alive(calloc(1, 40));
}

/* What leads to the second one is only possibly there; so is the second one. */
static APART void keep_chain_by_middle(size_t inside)
{
	char **p = keep_alive(calloc(1, 64));

	p[1] = make_behind() + inside;
	held = &p[6];
}

static APART void keep_behind_middle(void)
{
	keep_chain_by_middle(0);
}

static APART void keep_middle_of_middle(void)
{
	keep_chain_by_middle(24);
}

/* As a compiler lays out an object with two bases: each begins with a pointer to a table
 * in the program's data. */
static APART void keep_second_base(void)
{
	static void *const table[4];
	void **p = make_block();

	p[0] = (void *)&table[0];
	p[5] = (void *)&table[2];
	held = &p[5];
}

/* An array of things with destructors: their count stands before the first. */
static APART void keep_cookie(void)
{
	void **p = make_block();

	p[2] = p[1];
	p[0] = (void *)8;
	held = &p[1];
}

/* Of elements aligned to 64: there cannot be so many. */
static APART void keep_many_aligned(void)
{
	size_t *p = keep_alive(aligned_alloc(64, 256));

	memset(p, 0, 256);
	p[7] = 40;
	held = &p[8];
}

/* Nothing is aligned to 48, though the address is a multiple. */
static APART void keep_odd_aligned(void)
{
	static size_t *volatile all[8];

	for (size_t i = 0; i < 8; i++) {
		all[i] = calloc(1, 200);
		if ((uintptr_t)all[i] % 48 != 0)
			continue;
		all[i][5] = 2;
		held = (void *)&all[i][6];
		all[i] = NULL;
		return;
	}
}

/* More than a count of none. */
static APART void keep_not_empty(void)
{
	held = (char *)keep_alive(calloc(1, 12)) + 8;
}

/* As what was thrown, but for the language's name, or the type. */
static APART void keep_not_thrown(uint64_t language, void *type, size_t inside)
{
	uint64_t *p = keep_alive(calloc(1, 160));

	p[2] = (uint64_t)(uintptr_t)type;
	p[12] = language;
	held = (char *)p + inside;
}

static APART void keep_other_language(void)
{
	keep_not_thrown(0x474e5543432b2b02, &in_data, 128);
}

static APART void keep_no_type(void)
{
	keep_not_thrown(0x474e5543432b2b00, NULL, 128);
}

static APART void keep_behind_thrown(void)
{
	keep_not_thrown(0x474e5543432b2b00, &in_data, 136);
}

/* Behind a header as of a shared string, for one that would not fill the block. */
static APART void keep_short_string(void)
{
	size_t *p = keep_alive(calloc(1, 112));

	p[0] = 5;
	p[1] = 30;
	held = &p[3];
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "middle", keep_middle },
	{ "behind-middle", keep_behind_middle },
	{ "middle-of-middle", keep_middle_of_middle },
	{ "second-base", keep_second_base },
	{ "cookie", keep_cookie },
	{ "many-aligned", keep_many_aligned },
	{ "odd-aligned", keep_odd_aligned },
	{ "not-empty", keep_not_empty },
	{ "other-language", keep_other_language },
	{ "no-type", keep_no_type },
	{ "behind-thrown", keep_behind_thrown },
	{ "short-string", keep_short_string },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (argc > 1 && strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			scrub();
			return 0;
		}
	fprintf(stderr, "unknown case\n");
	return 99;
}
