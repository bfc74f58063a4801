/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tables: a runtime that looks up return addresses in a table of its own, as OCaml's
 * collector does: one that is not there is the end. It has the name of OCaml's entry.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))
#define ROUNDS	 30

static uintptr_t table[2];
static void *volatile made;

/* The return addresses of the caller and of its caller; all have frame pointers. */
static NOINLINE void look_up(int learn)
{
	uintptr_t *frame = __builtin_frame_address(0);

	for (size_t i = 0; i < 2; i++) {
		frame = (uintptr_t *)frame[0];
		if (learn)
			table[i] = frame[1];
		if (table[i] != frame[1])
			abort();
	}
}

NOINLINE void make_under_table(int round)
{
	look_up(round == 0);
	if (round == 0)
		return;
	made = malloc(100);
	look_up(0);
	free(made);
	look_up(0);
}

NOINLINE void caml_start_program(void)
{
	for (int round = 0; round <= ROUNDS; round++)
		make_under_table(round);
}

int main(void)
{
	caml_start_program();
	puts("done");
	return 0;
}
