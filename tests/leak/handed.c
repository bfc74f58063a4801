/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handed: programs that hand the only pointer to a block to the kernel, and may have it
 * back some day, or not any more; one a case, run by run_leak.py.
 */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/leak/lose.h"
#include "tests/leak/refuse.h"

#define BLOCK 112
#define MANY  400

static APART void *make_block(void)
{
	void **p = keep_alive(calloc(1, BLOCK));

	p[1] = keep_alive(calloc(1, BLOCK));
	return p;
}

static void require(int condition)
{
	if (!condition)
		exit(99);
}

/* The descriptor that is waited for. */
static APART int hand_to(int epoll)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = make_block() };
	const int fd = eventfd(0, 0);

	require(fd >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) == 0);
	return fd;
}

static APART int new_epoll(void)
{
	const int epoll = epoll_create1(EPOLL_CLOEXEC);

	require(epoll >= 0);
	return epoll;
}

static APART void keep_in_epoll(void)
{
	hand_to(new_epoll());
}

static APART void keep_in_many(void)
{
	for (int i = 0; i < 2; i++)
		for (int k = 0, epoll = new_epoll(); k < MANY / 2; k++)
			hand_to(epoll);
}

static APART void *end_in_thread(void *arg)
{
	usleep(20000);
	exit(0);
	return arg;
}

/* It is another thread that ends the process, and the main thread is gone. */
static APART void keep_without_main(void)
{
	pthread_t t;

	keep_in_epoll();
	require(pthread_create(&t, NULL, end_in_thread, NULL) == 0);
	scrub();
	pthread_exit(NULL);
}

static APART void lose_removed(void)
{
	const int epoll = new_epoll();

	require(epoll_ctl(epoll, EPOLL_CTL_DEL, hand_to(epoll), NULL) == 0);
}

static APART void lose_closed(void)
{
	const int epoll = new_epoll();

	hand_to(epoll);
	close(epoll);
}

static APART timer_t new_timer(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL,
			      .sigev_signo = SIGUSR1,
			      .sigev_value.sival_ptr = make_block() };
	timer_t t;

	require(timer_create(CLOCK_MONOTONIC, &e, &t) == 0);
	return t;
}

static APART void keep_in_timer(void)
{
	new_timer();
}

static APART void lose_timer(void)
{
	timer_delete(new_timer());
}

/* ---- where the kernel is hard to ask ---- */

/* In a container a filter is there before the program is. */
static APART void keep_in_container(void)
{
	refuse_call(SYS_kcmp, 2, 0xffff);
	execl("/proc/self/exe", "handed", "epoll", (char *)NULL);
	exit(99);
}

static APART void keep_unseen(void)
{
	refuse_call(SYS_readlink, 0, UINT32_MAX);
	refuse_call(SYS_readlinkat, 1, UINT32_MAX);
	keep_in_epoll();
}

/* No memory that copies of the process share. */
static APART void keep_unshared(void)
{
	refuse_call(SYS_mmap, 3, MAP_SHARED);
	keep_in_epoll();
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "epoll", keep_in_epoll },	  { "many", keep_in_many },
	{ "no-main", keep_without_main }, { "removed", lose_removed },
	{ "closed", lose_closed },	  { "timer", keep_in_timer },
	{ "no-timer", lose_timer },	  { "container", keep_in_container },
	{ "unseen", keep_unseen },	  { "unshared", keep_unshared },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (argc > 1 && strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			scrub();
			return 0;
		}
	fprintf(stderr, "handed: no such case\n");
	return 97;
}
