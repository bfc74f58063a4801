/* SPDX-License-Identifier: Apache-2.0 */
/*
 * partly: calls that have moved a part of their bytes when somebody looks at the program.
 * Each must return the whole in the end, with every byte in its place.
 *
 *   blocked  threads, each blocked in such a call; the rest is moved when the input ends
 *   flow     threads that move bytes all the time, until the input ends
 *   alone    one thread that writes BYTES to its output
 *
 * With "unseen" behind it the kernel refuses ptrace. The first two say "up".
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/leak/refuse.h"

#define BYTES	((size_t)1 << 20)
#define PERIOD	4093 /* of the bytes that are sent */
#define SOME	100
#define NCALLS	5
#define RECEIVE (NCALLS - 1)

static char data[BYTES + PERIOD], got[BYTES];
static int ends[NCALLS][2]; /* the other side's, the call's */
static atomic_bool over, wrong;

static ssize_t by_write(int fd, const char *from, size_t n)
{
	return write(fd, from, n);
}

static ssize_t by_send(int fd, const char *from, size_t n)
{
	return send(fd, from, n, 0);
}

static ssize_t by_writev(int fd, const char *from, size_t n)
{
	const size_t a = n / 9, b = n / 2;
	char *p = (char *)(uintptr_t)from;
	const struct iovec v[6] = { { p, a },
				    { p, 0 },
				    { p + a, b },
				    { p + a + b, 1 },
				    { p + a + b + 1, 0 },
				    { p + a + b + 1, n - a - b - 1 } };

	return writev(fd, v, 6);
}

static ssize_t (*const calls[])(int, const char *, size_t) = { by_write, by_writev,
							       by_send, by_writev };

/* The bytes from the at-th on. */
static const char *bytes(size_t at)
{
	return data + at % PERIOD;
}

static void fail(size_t call, const char *what, ssize_t n)
{
	printf("call %zu: %s %zd\n", call, what, n);
	wrong = 1;
}

static void *blocked(void *arg)
{
	const size_t i = (uintptr_t)arg;
	const int fd = ends[i][1];
	ssize_t n = i == RECEIVE ? recv(fd, got, BYTES, MSG_WAITALL)
				 : calls[i](fd, data, BYTES);

	if (n != (ssize_t)BYTES)
		fail(i, "returned", n);
	close(fd); /* or the other end would wait for the rest */
	return NULL;
}

static size_t below(size_t n, unsigned *seed)
{
	return 1 + (size_t)rand_r(seed) % n;
}

/* Calls until it is over. */
static void *flow(void *arg)
{
	const size_t i = (uintptr_t)arg;
	const int fd = ends[i][1];
	unsigned seed = (unsigned)i;
	size_t at = 0;

	while (!over || i == RECEIVE) {
		size_t size = below(300000, &seed);
		ssize_t n = i == RECEIVE ? recv(fd, got, size, MSG_WAITALL)
					 : calls[i](fd, bytes(at), size);

		if (i == RECEIVE && n > 0 && memcmp(got, bytes(at), (size_t)n) != 0)
			fail(i, "other bytes at", (ssize_t)at);
		if (n != (ssize_t)size) {
			if (i != RECEIVE || !over)
				fail(i, "returned", n);
			break;
		}
		at += size;
	}
	close(fd);
	return NULL;
}

/* The other side: in small pieces, up to the end. */
static void *other(void *arg)
{
	const size_t i = (uintptr_t)arg;
	const int fd = ends[i][0];
	unsigned seed = 77;
	char buf[20000];
	size_t at = 0;

	for (;;) {
		size_t size = below(sizeof(buf), &seed);
		ssize_t n =
			i == RECEIVE ? write(fd, bytes(at), size) : read(fd, buf, size);

		if (n <= 0)
			break;
		if (i != RECEIVE && memcmp(buf, bytes(at), (size_t)n) != 0)
			fail(i, "other bytes at", (ssize_t)at);
		at += (size_t)n;
		if (i == RECEIVE && over)
			break;
	}
	close(fd);
	return NULL;
}

/* Until the kernel has taken what it takes. */
static void await_part(size_t i)
{
	int n = 0, before;

	do {
		before = n;
		poll(NULL, 0, 20);
		if (ioctl(ends[i][i == RECEIVE], FIONREAD, &n) != 0)
			abort();
	} while (i == RECEIVE ? n > 0 : n == 0 || n != before);
}

/* What is left for the other side. */
static void move_rest(size_t i)
{
	size_t at = 0;

	if (i == RECEIVE) {
		if (write(ends[i][0], bytes(SOME), BYTES - SOME) != BYTES - SOME)
			fail(i, "not taken", 0);
		return;
	}
	while (at < BYTES) {
		char buf[8192];
		ssize_t n = read(ends[i][0], buf, sizeof(buf));

		if (n <= 0 || memcmp(buf, bytes(at), (size_t)n) != 0) {
			fail(i, "other bytes at", (ssize_t)at);
			return;
		}
		at += (size_t)n;
	}
}

static void start(void *(*function)(void *), pthread_t *threads)
{
	for (size_t i = 0; i < NCALLS; i++)
		if (pthread_create(&threads[i], NULL, function, (void *)i) != 0)
			abort();
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	const int flows = strcmp(what, "flow") == 0;
	pthread_t threads[NCALLS], others[NCALLS];
	char c;

	signal(SIGPIPE, SIG_IGN);
	if (argc > 2)
		refuse_call(SYS_ptrace, 0, UINT32_MAX);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)((i % PERIOD) * 2654435761u >> 13);
	if (strcmp(what, "alone") == 0)
		return write(1, data, BYTES) != BYTES;
	for (size_t i = 0; i < NCALLS; i++)
		if ((i < 2 ? pipe(ends[i])
			   : socketpair(AF_UNIX, SOCK_STREAM, 0, ends[i])) != 0)
			return 1;
	if (flows)
		start(other, others);
	else if (write(ends[RECEIVE][0], data, SOME) != SOME)
		return 1;
	start(flows ? flow : blocked, threads);
	for (size_t i = 0; i < NCALLS && !flows; i++)
		await_part(i);
	puts("up");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	over = 1;
	for (size_t i = 0; i < NCALLS; i++) {
		if (!flows)
			move_rest(i);
		pthread_join(threads[i], NULL);
		if (flows)
			pthread_join(others[i], NULL);
	}
	if (!flows && memcmp(got, data, BYTES) != 0)
		fail(RECEIVE, "other bytes", 0);
	puts(wrong ? "wrong" : "whole");
	return wrong;
}
