/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle: a program that waits far longer than it works, has much memory to look through,
 * and objects that are found nowhere in it, of many sites.
 */
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))
#define KEEP(p)	 __asm__ volatile("" : "+r"(p) : : "memory")
#define WAIT_MS	 500
#define DEPTHS	 100

uint64_t table[1 << 16] = { 1 };
static uintptr_t hidden;

NOINLINE void make(int depth)
{
	void *p = NULL;

	if (depth > 0) {
		make(depth - 1);
		KEEP(p);
		return;
	}
	p = malloc(300);
	KEEP(p);
	hidden = ~(uintptr_t)p;
}

int main(void)
{
	poll(NULL, 0, WAIT_MS);
	for (int i = 0; i < 8 * DEPTHS; i++) {
		make(i % DEPTHS);
		free((void *)~hidden);
	}
	return table[0] != 1;
}
