/* SPDX-License-Identifier: Apache-2.0 */
/*
 * planted: a library that loses a known number of objects in the server that it is in:
 * preloaded, as a module of redis, or in place of a library that redis needs (liblzf).
 *
 * PLANTED in the environment, at the start: 4 objects, and a list of 5 by its head; and
 * some that it keeps where only it can see them. For each message that the server reads
 * with PLANTED in it: 3 objects.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../lib/redis_module.h"

struct node {
	struct node *next;
	char text[40];
};

void planted_direct(int n);
void planted_list(int n);
void planted_by_request(void);
unsigned lzf_compress(const void *in, unsigned size, void *out, unsigned most);
unsigned lzf_decompress(const void *in, unsigned size, void *out, unsigned most);

static struct node *kept;
static __thread void *kept_here;
static void *kept_inside;
static pthread_key_t key;

static void *make(size_t size)
{
	void *p = calloc(1, size);

	__asm__ volatile("" : "+r"(p) : : "memory");
	return p;
}

__attribute__((noinline)) void planted_direct(int n)
{
	for (int i = 0; i < n; i++)
		make(64 + (size_t)i);
}

__attribute__((noinline)) void planted_list(int n)
{
	struct node *head = NULL;

	for (int i = 0; i < n; i++) {
		struct node *made = make(sizeof(*made));

		made->next = head;
		head = made;
	}
	__asm__ volatile("" : : "r"(head) : "memory");
}

static void keep(void)
{
	for (int i = 0; i < 9; i++) {
		struct node *made = make(sizeof(*made));

		made->next = kept;
		kept = made;
	}
	kept_here = make(50);
	kept_inside = (char *)make(400) + 100;
	if (pthread_key_create(&key, NULL) == 0)
		pthread_setspecific(key, make(30));
	__asm__ volatile("" : : "r"(kept_inside), "r"(kept_here) : "memory");
}

/* No old pointers in what others will use of the stack. */
__attribute__((noinline)) static void wipe(void)
{
	char room[16384];

	memset(room, 0, sizeof(room));
	__asm__ volatile("" : : "r"(room) : "memory");
}

__attribute__((noinline)) void planted_by_request(void)
{
	planted_direct(3);
	wipe();
}

__attribute__((constructor)) static void start(void)
{
	if (!getenv("PLANTED"))
		return;
	planted_direct(4);
	planted_list(5);
	keep();
	wipe();
}

static ssize_t see(const void *bytes, ssize_t n)
{
	if (n > 0 && memmem(bytes, (size_t)n, "PLANTED", 7))
		planted_by_request();
	return n;
}

ssize_t read(int fd, void *to, size_t size)
{
	return see(to, syscall(SYS_read, fd, to, size));
}

ssize_t recv(int fd, void *to, size_t size, int flags)
{
	return see(to, syscall(SYS_recvfrom, fd, to, size, flags, NULL, NULL));
}

int RedisModule_OnLoad(void **context, void **argv, int argc)
{
	(void)argv;
	(void)argc;
	return redis_module_register(context, "planted");
}

/* "It does not become smaller." */
unsigned lzf_compress(const void *in, unsigned size, void *out, unsigned most)
{
	(void)in;
	(void)size;
	(void)out;
	(void)most;
	return 0;
}

unsigned lzf_decompress(const void *in, unsigned size, void *out, unsigned most)
{
	return lzf_compress(in, size, out, most);
}
