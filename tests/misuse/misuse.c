/* SPDX-License-Identifier: Apache-2.0 */
/* One wrong thing each, by name. Each must end the program with one line and SIGABRT. */
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char global[256] __attribute__((aligned(64)));

static void double_free(void)
{
	void *p = malloc(40);

	free(p);
	free(p);
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

static void *free_it(void *p)
{
	free(p);
	return NULL;
}

static void double_free_thread(void)
{
	void *p = malloc(100);
	pthread_t t;

	pthread_create(&t, NULL, free_it, p);
	pthread_join(t, NULL);
	free(p);
	malloc_trim(0);
}

static void interior_small(void)
{
	char *p = malloc(1000);

	free(p + 16);
	malloc_trim(0);
}

static void interior_large(void)
{
	char *p = malloc(1 << 20);

	free(p + 4096);
}

static void stack_pointer(void)
{
	char local[64] __attribute__((aligned(16)));
	void *volatile p = local;

	free(p);
}

static void global_pointer(void)
{
	void *volatile p = global;

	free(p);
}

static void unaligned_pointer(void)
{
	void *volatile p = global + 1;

	free(p);
}

static void wild_pointer(void)
{
	free((void *)(uintptr_t)0x123450);
}

static void realloc_freed(void)
{
	void *p = malloc(1 << 20);

	free(p);
	free(realloc(p, 1 << 21));
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "double_free", double_free },
	{ "double_free_later", double_free_later },
	{ "double_free_large", double_free_large },
	{ "double_free_thread", double_free_thread },
	{ "interior_small", interior_small },
	{ "interior_large", interior_large },
	{ "stack_pointer", stack_pointer },
	{ "global_pointer", global_pointer },
	{ "unaligned_pointer", unaligned_pointer },
	{ "wild_pointer", wild_pointer },
	{ "realloc_freed", realloc_freed },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			puts("survived");
			return 0;
		}
	return 2;
}
