/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held: a program for the live check's benchmark: holds MEGABYTES in objects of SIZE
 * bytes, a list, with THREADS threads of which most wait and BUSY allocate and free. Says
 * "up" when it is, obeys "touch N": writes into N objects all over the heap; ends with
 * its standard input.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct object {
	struct object *next;
	uint64_t number;
};

static struct object *list; /* newest first: by address */
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

int main(int argc, char **argv)
{
	int threads = argc > 3 ? atoi(argv[3]) : 1, busy = argc > 4 ? atoi(argv[4]) : 0;
	char line[64];
	size_t n;

	fill(argc > 1 ? (size_t)atoi(argv[1]) : 100,
	     argc > 2 ? (size_t)atoi(argv[2]) : 64);
	for (int i = 1; i < threads; i++) {
		pthread_t t;

		if (pthread_create(&t, NULL, i <= busy ? work : wait_for_ever,
				   (void *)(uintptr_t)i) != 0)
			return 1;
	}
	printf("up\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		if (sscanf(line, "touch %zu", &n) == 1) {
			touch(n);
			printf("touched\n");
			fflush(stdout);
		}
	return 0;
}
