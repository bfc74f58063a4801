/* SPDX-License-Identifier: Apache-2.0 */
/*
 * odd: a process in a state that few are in, until its standard input ends. It has lost
 * five objects by then, and said "up".
 *
 *   odd leader   the main thread has ended, another one goes on
 *   odd thread   a thread waits for its child of vfork(), the main thread for that one
 *   odd alone    the only thread waits for its child of vfork()
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOST 5

__attribute__((noinline)) static void lose(void)
{
	for (int i = 0; i < LOST; i++) {
		void *p = malloc(77);

		__asm__ volatile("" : : "r"(p) : "memory");
	}
}

__attribute__((noinline)) static void scrub(void)
{
	volatile char room[8192];

	for (size_t i = 0; i < sizeof(room); i++)
		room[i] = 0;
}

static void up(void)
{
	lose();
	scrub();
	puts("up");
	fflush(stdout);
}

static void await_end(void)
{
	char c;

	while (read(0, &c, 1) > 0)
		;
}

static void *go_on(void *leader)
{
	pthread_join(*(pthread_t *)leader, NULL);
	up();
	await_end();
	exit(0);
}

static void *wait_for_child(void *arg)
{
	if (vfork() == 0) {
		await_end();
		_exit(0);
	}
	return arg;
}

int main(int argc, char **argv)
{
	static pthread_t self, t;

	self = pthread_self();
	if (argc < 2)
		return 1;
	if (strcmp(argv[1], "leader") == 0) {
		if (pthread_create(&t, NULL, go_on, &self) != 0)
			return 1;
		pthread_exit(NULL);
	}
	up();
	if (strcmp(argv[1], "alone") == 0) {
		wait_for_child(NULL);
		return 0;
	}
	if (pthread_create(&t, NULL, wait_for_child, NULL) != 0)
		return 1;
	pthread_join(t, NULL);
	return 0;
}
