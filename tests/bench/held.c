/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held: a program for the live check's benchmark: holds MEGABYTES in objects of SIZE
 * bytes, a list, with THREADS threads of which most wait and BUSY allocate and free. Says
 * "up" when it is, obeys "touch N": writes into N objects all over the heap; ends with
 * its standard input.
 *
 * One thread more serves a client, a process of its own that sends a byte every so many
 * microseconds and waits for it to come back; the thread allocates, and writes into an
 * object, for each. "latency" answers with what the client has seen since the last time:
 * requests, then p50, p99 and the longest in microseconds.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct object {
	struct object *next;
	uint64_t number;
};

#define CLIENT_US 200
#define SEEN	  (1 << 20)

static struct object *list; /* newest first: by address */
static int served = -1;	    /* the thread's end; the client's reports */
static int reports = -1;
static size_t count;
static volatile int done;

static void fill(size_t megabytes, size_t size)
{
	count = (megabytes << 20) / size;
	for (size_t i = 0; i < count; i++) {
		struct object *o = malloc(size);

		memset(o, 0, size);
		o->next = list;
		list = o;
	}
}

static void *wait_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void *work(void *arg)
{
	void *slots[256] = { NULL };
	unsigned x = (unsigned)(uintptr_t)arg;

	while (!done) {
		x = x * 1103515245u + 12345u;
		free(slots[x >> 16 & 255]);
		slots[x >> 16 & 255] = malloc(16 + (x >> 24));
		if ((x & 0xfff) == 0)
			usleep(1000);
	}
	for (int i = 0; i < 256; i++)
		free(slots[i]);
	return NULL;
}

static void touch(size_t n)
{
	size_t step = n ? count / n + 1 : count, i = 0;

	for (struct object *o = list; o; o = o->next)
		if (i++ % step == 0)
			o->number++;
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_time(const void *a, const void *b)
{
	const float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/* A byte on `asked` asks for a report. */
static void client(int line, int asked)
{
	static float seen[SEEN];
	size_t n = 0;
	char c = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		double start = now_us();

		if (write(line, &c, 1) != 1 || read(line, &c, 1) != 1)
			_exit(0);
		if (n < SEEN)
			seen[n++] = (float)(now_us() - start);
		if (recv(asked, &c, 1, MSG_DONTWAIT) == 1) {
			qsort(seen, n, sizeof(*seen), by_time);
			dprintf(asked, "%zu %.0f %.0f %.0f\n", n, seen[n / 2],
				seen[n - 1 - n / 100], seen[n - 1]);
			n = 0;
		}
		usleep(CLIENT_US);
	}
}

static void *serve(void *arg)
{
	struct object *at = list;
	char c;

	while (read(served, &c, 1) == 1) {
		void *p = malloc(100);

		at->number++;
		for (int i = 0; i < 1000; i++) /* another place for the next one */
			at = at->next ? at->next : list;
		if (write(served, &c, 1) != 1)
			break;
		free(p);
	}
	return arg;
}

/* Before there is anything that its fork would copy. */
static void start_client(void)
{
	int line[2], asked[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, line) != 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, asked) != 0)
		exit(1);
	if (fork() == 0)
		client(line[1], asked[1]);
	close(line[1]);
	close(asked[1]);
	served = line[0];
	reports = asked[0];
}

static void latency(void)
{
	char text[100];
	ssize_t got;

	if (write(reports, "?", 1) != 1)
		exit(1);
	got = read(reports, text, sizeof(text));
	if (got > 0)
		fwrite(text, 1, (size_t)got, stdout);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	pthread_t server;
	int threads = argc > 3 ? atoi(argv[3]) : 1, busy = argc > 4 ? atoi(argv[4]) : 0;
	char line[64];
	size_t n;

	start_client();
	fill(argc > 1 ? (size_t)atoi(argv[1]) : 100,
	     argc > 2 ? (size_t)atoi(argv[2]) : 64);
	for (int i = 1; i < threads; i++) {
		pthread_t t;

		if (pthread_create(&t, NULL, i <= busy ? work : wait_for_ever,
				   (void *)(uintptr_t)i) != 0)
			return 1;
	}
	if (pthread_create(&server, NULL, serve, NULL) != 0)
		return 1;
	printf("up\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (strcmp(line, "latency\n") == 0)
			latency();
		if (sscanf(line, "touch %zu", &n) == 1) {
			touch(n);
			printf("touched\n");
			fflush(stdout);
		}
	}
	return 0;
}
