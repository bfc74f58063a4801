/* SPDX-License-Identifier: Apache-2.0 */
/*
 * running: what a thread holds that never waits. make_shared's objects are on its stack
 * while their maker returns; make_private's never are, but come at an address that the
 * thread has seen earlier and left lying on its stack.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUNDS	    40
#define SIZE(i)	    (100 + 64 * (size_t)((i) % 8)) /* not at one address */
#define NOINLINE    __attribute__((noinline))
#define KEEP(p)	    __asm__ volatile("" : "+r"(p) : : "memory")
#define BARRIER()   __asm__ volatile("" : : : "memory")
#define LOAD(x)	    __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

enum hand { HAND_EMPTY, HAND_OFFERED, HAND_TAKEN, HAND_WANTED, HAND_BACK, HAND_END };

static int hand;
static void *passing;

static void spin_until(int state)
{
	while (LOAD(hand) != state)
		__builtin_ia32_pause();
}

/* Keeps what it is given in its frame, and leaves it there. */
NOINLINE static void hold(void)
{
	void *volatile mine[8];

	mine[3] = passing;
	passing = NULL;
	STORE(hand, HAND_TAKEN);
	spin_until(HAND_WANTED);
	passing = mine[3];
	STORE(hand, HAND_BACK);
}

static void *holder(void *arg)
{
	int state;

	while ((state = LOAD(hand)) != HAND_END)
		if (state == HAND_OFFERED)
			hold();
	return arg;
}

NOINLINE void make_shared(size_t size)
{
	void *p = malloc(size);

	KEEP(p);
	passing = p;
	STORE(hand, HAND_OFFERED);
	spin_until(HAND_TAKEN);
	BARRIER();
}

NOINLINE void case_shared(size_t size)
{
	make_shared(size);
	STORE(hand, HAND_WANTED);
	spin_until(HAND_BACK);
	free(passing);
	passing = NULL;
	BARRIER();
}

static char *hidden; /* one byte too far */

NOINLINE void make_private(size_t size)
{
	char *p = malloc(size);

	KEEP(p);
	hidden = p + size + 64;
	BARRIER();
}

NOINLINE void case_private(size_t size)
{
	make_private(size);
	free(hidden - size - 64);
	hidden = NULL;
	BARRIER();
}

int main(void)
{
	pthread_t t;

	pthread_create(&t, NULL, holder, NULL);
	for (int i = 0; i < ROUNDS; i++)
		case_shared(SIZE(i));
	for (int i = 0; i < ROUNDS; i++)
		case_private(SIZE(ROUNDS - 1)); /* at the last one's address */
	STORE(hand, HAND_END);
	pthread_join(t, NULL);
	puts("done");
	return 0;
}
