/* SPDX-License-Identifier: Apache-2.0 */
/* One wrong thing each, by name. The script knows which end the program with one line and
 * SIGABRT, and which are not found; those must leave an allocator that works. */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char global[256] __attribute__((aligned(64)));
static __thread char per_thread[64] __attribute__((aligned(64)));
extern char **environ;

/* ---- double free ---- */

static void double_free(void)
{
	void *p = malloc(40);

	free(p);
	free(p);
}

static void double_free_one_between(void)
{
	void *p = malloc(40), *q = malloc(40);

	free(p);
	free(q);
	free(p);
}

static void double_free_three_between(void)
{
	void *p[4];

	for (int i = 0; i < 4; i++)
		p[i] = malloc(40);
	for (int i = 0; i < 4; i++)
		free(p[i]);
	free(p[0]);
}

/* Both are in the thread's array when it is full. */
static void double_free_before_flush(void)
{
	void *p[2000];

	for (int i = 0; i < 2000; i++)
		p[i] = malloc(40);
	for (int i = 0; i < 10; i++)
		free(p[i]);
	free(p[0]);
	for (int i = 10; i < 2000; i++)
		free(p[i]);
}

static void *free_ten(void *p)
{
	void *q[10];

	for (int i = 0; i < 10; i++)
		q[i] = malloc(100);
	free(p);
	for (int i = 0; i < 10; i++)
		free(q[i]);
	free(p);
	return NULL;
}

static void double_free_later(void)
{
	void *p[2000];

	for (int i = 0; i < 2000; i++)
		p[i] = malloc(40);
	for (int i = 0; i < 2000; i++)
		free(p[i]);
	free(p[0]); /* its slot was given back when the array was flushed */
	for (int i = 0; i < 2000; i++)
		p[i] = malloc(40);
	for (int i = 0; i < 2000; i++)
		free(p[i]);
	malloc_trim(0);
}

static void double_free_large(void)
{
	void *p = malloc(1 << 20);

	free(p);
	free(p);
}

static void double_free_large_later(void)
{
	void *p = malloc(1 << 20), *q = malloc(3 << 20);

	free(p);
	free(q);
	free(malloc(100));
	free(p);
}

static void double_free_aligned(void)
{
	void *p = memalign(1024, 100);

	free(p);
	free(p);
}

static void *free_it(void *p)
{
	free(p);
	return NULL;
}

static void in_thread(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	pthread_create(&t, NULL, fn, arg);
	pthread_join(t, NULL);
}

static void double_free_thread(void)
{
	void *p = malloc(100);

	in_thread(free_it, p);
	free(p);
	malloc_trim(0);
}

static void *free_twice(void *p)
{
	free(p);
	free(p);
	return NULL;
}

/* The thread's first call. */
static void double_free_in_thread(void)
{
	in_thread(free_twice, malloc(100));
}

static void double_free_two_threads(void)
{
	void *p = malloc(100);

	in_thread(free_it, p);
	in_thread(free_it, p);
}

/* Others of its size come and go in between. */
static void double_free_large_between(void)
{
	void *p[8];

	for (int i = 0; i < 8; i++)
		p[i] = malloc(100000);
	for (int i = 0; i < 8; i++)
		free(p[i]);
	free(malloc(100000));
	free(p[2]);
}

static void double_free_large_thread(void)
{
	void *p = malloc(100000);

	in_thread(free_it, p);
	free(p);
}

/* A longer one was cut in two: the second part is no object. */
static void double_free_large_part(void)
{
	char *p = malloc(400000), *q;

	free(p);
	q = malloc(100000);
	free(q == p ? p + 131072 : p);
}

/* Both are in the thread's array when it ends. */
static void double_free_ending_thread(void)
{
	in_thread(free_ten, malloc(100));
}

static void double_free_after_realloc(void)
{
	char *p = malloc(40), *q = realloc(p, 5000);

	free(p);
	free(q);
}

static void free_again(void)
{
	free(*(void **)global);
}

static void double_free_at_exit(void)
{
	void *p = malloc(40);

	*(void **)global = p;
	atexit(free_again);
	free(p);
	exit(0);
}

static void double_free_until_exit(void)
{
	void *p[20];

	for (int i = 0; i < 20; i++)
		p[i] = malloc(40);
	for (int i = 0; i < 20; i++)
		free(p[i]);
	free(p[0]);
	exit(0);
}

static void double_delete(void)
{
	void *(*make)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
	void (*give)(void *, size_t) =
		(void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "_ZdlPvm");
	void *p = make(24);

	give(p, 24);
	give(p, 24);
}

/* ---- what was never a block ---- */

static void interior_small(void)
{
	char *p = malloc(1000);

	free(p + 16);
	malloc_trim(0);
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
	in_thread(free_own_stack, NULL);
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

#define CASE(name)          \
	{                   \
#name, name \
	}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	CASE(double_free),
	CASE(double_free_one_between),
	CASE(double_free_three_between),
	CASE(double_free_before_flush),
	CASE(double_free_later),
	CASE(double_free_large),
	CASE(double_free_large_later),
	CASE(double_free_aligned),
	CASE(double_free_thread),
	CASE(double_free_in_thread),
	CASE(double_free_two_threads),
	CASE(double_free_large_between),
	CASE(double_free_large_thread),
	CASE(double_free_large_part),
	CASE(double_free_ending_thread),
	CASE(double_free_after_realloc),
	CASE(double_free_at_exit),
	CASE(double_free_until_exit),
	CASE(double_delete),
	CASE(interior_small),
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

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (argc == 1)
			puts(cases[i].name);
		else if (strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			if (argc == 2)
				allocator_works();
			puts("survived");
			return 0;
		}
	}
	return argc != 1;
}
