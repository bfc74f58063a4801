/* SPDX-License-Identifier: Apache-2.0 */
/* One wrong thing each, by name; "NAME late" does it in a process that has freed so much
 * before that frees are no longer looked at closely, "NAME crowd" does so in a thread
 * beside others that keep all that threads may. The script knows which end the
 * program with one line and SIGABRT, and which are not found; those must leave an
 * allocator that works. */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/misuse/misuse.h"

static char global[256] __attribute__((aligned(64)));
static __thread char per_thread[64] __attribute__((aligned(64)));
extern char **environ;
void *volatile misuse_unused;

/* ---- what was never a block ---- */

/* Handed out again before the array is flushed. */
static void interior_reused(void)
{
	char *p = malloc(1000);

	free(p + 48);
	misuse_unused = malloc(1000);
}

static void interior_small(void)
{
	char *p = malloc(1000);

	free(p + 16);
	malloc_trim(0);
}

static void interior_until_exit(void)
{
	char *p = malloc(200);

	free(p + 16);
	exit(0);
}

static void interior_small_flushed(void)
{
	char *p = malloc(1000);

	free(p + 16);
}

static void interior_large(void)
{
	char *p = malloc(1 << 20);

	free(p + 4096);
}

static void before_block(void)
{
	char *p = malloc(1000);

	free(p - 16);
	malloc_trim(0);
}

static void behind_block(void)
{
	char *p = malloc(1 << 20);

	free(p + malloc_usable_size(p));
}

static void stack_pointer(void)
{
	char local[64] __attribute__((aligned(16)));
	void *volatile p = local;

	free(p);
}

static void *free_own_stack(void *arg)
{
	stack_pointer();
	return arg;
}

static void stack_pointer_thread(void)
{
	misuse_in_thread(free_own_stack, NULL);
}

static void thread_local_pointer(void)
{
	void *volatile p = per_thread;

	free(p);
}

static void global_pointer(void)
{
	void *volatile p = global;

	free(p);
}

static void code_pointer(void)
{
	free((void *)((uintptr_t)global_pointer & ~(uintptr_t)15));
}

static void constant_pointer(void)
{
	static const char text[64] __attribute__((aligned(16))) = "constant";

	free((void *)text);
}

static void environment_pointer(void)
{
	free((void *)((uintptr_t)environ[0] & ~(uintptr_t)15));
}

static void unaligned_pointer(void)
{
	void *volatile p = global + 1;

	free(p);
}

static void unaligned_block(void)
{
	char *volatile p = malloc(100);

	free(p + 1);
}

static void wild_pointer(void)
{
	free((void *)(uintptr_t)0x123450);
}

static void noncanonical_pointer(void)
{
	free((void *)(uintptr_t)0xdead00000000bee0);
}

static void mapped_pointer(void)
{
	char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	free(p + 4096);
}

static void mapped_pointer_start(void)
{
	free(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		  0));
}

static void mapped_unreadable(void)
{
	char *p = mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	free(p + 4096);
}

static void break_pointer(void)
{
	char *p = sbrk(65536);

	free(p + 256);
}

/* ---- realloc ---- */

static void realloc_freed(void)
{
	void *p = malloc(1 << 20);

	free(p);
	free(realloc(p, 1 << 21));
}

static void realloc_freed_large(void)
{
	void *p = malloc(100000), *q = malloc(100000);

	free(p);
	free(q);
	free(realloc(p, 90000));
}

static void realloc_freed_small(void)
{
	void *p = malloc(100);

	free(p);
	free(realloc(p, 2000));
}

static void realloc_freed_small_later(void)
{
	void *p = malloc(100), *q = malloc(100);

	free(p);
	free(q);
	free(realloc(p, 2000));
}

/* Ten others of the size were freed since. */
static void realloc_freed_between(void)
{
	void *p[11];

	for (int i = 0; i < 11; i++)
		p[i] = malloc(100);
	for (int i = 0; i < 11; i++)
		free(p[i]);
	misuse_unused = realloc(p[0], 3000);
	for (int i = 0; i < 20; i++)
		misuse_unused = malloc(100);
}

static void realloc_interior(void)
{
	char *p = malloc(1000);

	free(realloc(p + 32, 2000));
}

static void realloc_stack(void)
{
	char local[64] __attribute__((aligned(16)));
	void *volatile p = local;

	free(realloc(p, 100));
}

static void usable_size_wild(void)
{
	malloc_usable_size((void *)(uintptr_t)0x123450);
}

static void usable_size_unaligned(void)
{
	malloc_usable_size((void *)(uintptr_t)1);
}

static void usable_size_interior(void)
{
	char *p = malloc(16);

	malloc_usable_size(p + 1);
}

static void usable_size_interior_large(void)
{
	char *p = malloc(1 << 20);

	malloc_usable_size(p + 4096);
}

static void usable_size_freed(void)
{
	void *p = malloc(100);

	free(p);
	malloc_usable_size(p);
}

static void usable_size_freed_large(void)
{
	void *p = malloc(1 << 20);

	free(p);
	malloc_usable_size(p);
}

/* ---- writes: not found in this mode, but without power over the allocator ---- */

static void write_after_free(void)
{
	char *p[500];

	for (int i = 0; i < 500; i++)
		p[i] = malloc(48);
	for (int i = 0; i < 500; i++)
		free(p[i]);
	for (int i = 0; i < 500; i++)
		memset(p[i], 0x41, 48);
}

static void write_after_free_large(void)
{
	char *p = malloc(1 << 20);

	free(p);
	memset(p, 0x41, 1 << 20);
}

static void write_behind(void)
{
	char *p[100];

	for (int i = 0; i < 100; i++)
		p[i] = malloc(64);
	for (int i = 0; i < 100; i++)
		memset(p[i], 0x41, 64 + 8);
	for (int i = 0; i < 100; i++)
		free(p[i]);
}

static void free_as_other_size(void)
{
	void (*give)(void *, size_t) =
		(void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");

	give(malloc(100), 3000);
}

static void delete_of_array(void)
{
	void *(*make)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znam");
	void (*give)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "_ZdlPv");

	give(make(100));
}

/* Every block that malloc gives is whole, aligned, and nobody else's. */
static void allocator_works(void)
{
	static unsigned char *p[3000];
	static const size_t sizes[] = { 24, 48, 64, 100, 1000, 5000, 40000 };

	for (size_t i = 0; i < 3000; i++) {
		size_t n = sizes[i % 7];

		p[i] = malloc(n);
		if (!p[i] || (uintptr_t)p[i] % 16 != 0)
			_exit(3);
		memset(p[i], (int)(i % 251), n);
	}
	for (size_t i = 0; i < 3000; i++) {
		size_t n = sizes[i % 7];

		for (size_t k = 0; k < n; k += 1 + n / 32)
			if (p[i][k] != i % 251)
				_exit(4);
		free(p[i]);
	}
	malloc_trim(0);
}

static const struct misuse_case cases[] = {
	CASE(interior_reused),
	CASE(interior_small),
	CASE(interior_until_exit),
	CASE(interior_small_flushed),
	CASE(interior_large),
	CASE(before_block),
	CASE(behind_block),
	CASE(stack_pointer),
	CASE(stack_pointer_thread),
	CASE(thread_local_pointer),
	CASE(global_pointer),
	CASE(code_pointer),
	CASE(constant_pointer),
	CASE(environment_pointer),
	CASE(unaligned_pointer),
	CASE(unaligned_block),
	CASE(wild_pointer),
	CASE(noncanonical_pointer),
	CASE(mapped_pointer),
	CASE(mapped_pointer_start),
	CASE(mapped_unreadable),
	CASE(break_pointer),
	CASE(realloc_freed),
	CASE(realloc_freed_large),
	CASE(realloc_freed_small),
	CASE(realloc_freed_small_later),
	CASE(realloc_freed_between),
	CASE(realloc_interior),
	CASE(realloc_stack),
	CASE(usable_size_wild),
	CASE(usable_size_unaligned),
	CASE(usable_size_interior),
	CASE(usable_size_interior_large),
	CASE(usable_size_freed),
	CASE(usable_size_freed_large),
	CASE(write_after_free),
	CASE(write_after_free_large),
	CASE(write_behind),
	CASE(free_as_other_size),
	CASE(delete_of_array),
};

static void grow_old(void)
{
	for (int i = 0; i < 20000; i++)
		free(malloc(24));
}

#define CROWD 12 /* threads */

static pthread_barrier_t crowded;

/* Some objects of each size, all at a time. */
static void use_every_size(int count)
{
	void **last = NULL;

	for (int n = 0; n < count; n++)
		for (size_t size = 1; size <= 32768;) {
			void **p = malloc(size);

			size = malloc_usable_size(p) + 1;
			*p = last;
			last = p;
		}
	while (last) {
		void **p = last;

		last = *p;
		free(p);
	}
}

static void *crowd(void *arg)
{
	use_every_size(16);
	pthread_barrier_wait(&crowded);
	pause();
	return arg;
}

static void *run_case(void *arg)
{
	use_every_size(1);
	((const struct misuse_case *)arg)->run();
	return NULL;
}

static void run_in_crowd(const struct misuse_case *c)
{
	pthread_t t;

	pthread_barrier_init(&crowded, NULL, CROWD + 1);
	for (int i = 0; i < CROWD; i++)
		pthread_create(&t, NULL, crowd, NULL);
	pthread_barrier_wait(&crowded);
	pthread_create(&t, NULL, run_case, (void *)(uintptr_t)c);
	pthread_join(t, NULL);
}

/* Is name among those up to end? Without a name they are listed. */
static int run_among(const struct misuse_case *c, const struct misuse_case *end,
		     const char *name, const char *when)
{
	for (; c < end; c++) {
		if (!name) {
			puts(c->name);
		} else if (strcmp(name, c->name) == 0) {
			if (strcmp(when, "late") == 0)
				grow_old();
			if (strcmp(when, "crowd") == 0)
				run_in_crowd(c);
			else
				c->run();
			allocator_works();
			puts("survived");
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	const struct misuse_case *end = cases + sizeof(cases) / sizeof(cases[0]);
	const char *when = argc > 2 ? argv[2] : "";

	if (run_among(misuse_double_frees, misuse_double_frees_end, argv[1], when) ||
	    run_among(cases, end, argv[1], when))
		return 0;
	return argc != 1;
}
