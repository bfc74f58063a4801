/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks that are freed twice. */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/misuse/misuse.h"

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

/* Of larger slots a thread may have no room to keep any. */
static void double_free_larger(void)
{
	void *p = malloc(3000);

	free(p);
	free(p);
}

static void double_free_larger_one_between(void)
{
	void *p = malloc(3000), *q = malloc(3000);

	free(p);
	free(q);
	free(p);
}

static void double_free_largest_slot(void)
{
	void *p = malloc(32768);

	free(p);
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

/* What was freed twice is handed out twice soon. */
static void double_free_many_between(void)
{
	void *p[200];

	for (int i = 0; i < 200; i++)
		p[i] = malloc(64);
	for (int i = 0; i < 200; i++)
		free(p[i]);
	free(p[0]);
	for (int i = 0; i < 400; i++)
		misuse_unused = malloc(64);
}

/* The array has been flushed meanwhile, which is full of slots but this one. */
static void double_free_of_flushed(void)
{
	void *p[1000];

	for (int i = 0; i < 1000; i++)
		p[i] = malloc(64);
	for (int i = 0; i < 1000; i++)
		free(p[i]);
	free(p[0]);
	for (int i = 0; i < 2000; i++)
		misuse_unused = malloc(64);
}

static void double_free_used_between(void)
{
	void *p[10];

	for (int i = 0; i < 10; i++)
		p[i] = malloc(500);
	for (int i = 0; i < 10; i++)
		free(p[i]);
	for (int i = 0; i < 3; i++)
		misuse_unused = malloc(500);
	free(p[0]);
	for (int i = 0; i < 20; i++)
		misuse_unused = malloc(500);
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

void misuse_in_thread(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	pthread_create(&t, NULL, fn, arg);
	pthread_join(t, NULL);
}

static void double_free_thread(void)
{
	void *p = malloc(100);

	misuse_in_thread(free_it, p);
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
	misuse_in_thread(free_twice, malloc(100));
}

static void double_free_two_threads(void)
{
	void *p = malloc(100);

	misuse_in_thread(free_it, p);
	misuse_in_thread(free_it, p);
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

	misuse_in_thread(free_it, p);
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
	misuse_in_thread(free_ten, malloc(100));
}

static void *free_and_go_on(void *p)
{
	pthread_barrier_t *freed = ((void **)p)[1];

	free(((void **)p)[0]);
	pthread_barrier_wait(freed);
	pthread_barrier_wait(freed);
	return NULL;
}

/* It lies among the slots of a thread that goes on. */
static void double_free_of_others(void)
{
	pthread_barrier_t freed;
	void *p[2] = { malloc(100), &freed };
	pthread_t thread;

	pthread_barrier_init(&freed, NULL, 2);
	pthread_create(&thread, NULL, free_and_go_on, p);
	pthread_barrier_wait(&freed);
	free(p[0]);
	misuse_unused = malloc(100);
	pthread_barrier_wait(&freed);
	pthread_join(thread, NULL);
}

static void double_free_after_realloc(void)
{
	char *p = malloc(40), *q = realloc(p, 5000);

	free(p);
	free(q);
}

static void *volatile at_exit;

static void free_again(void)
{
	free(at_exit);
}

static void double_free_at_exit(void)
{
	void *p = malloc(40);

	at_exit = p;
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

/* Some of what was freed has left the array by then. */
static void double_free_passed_on(void)
{
	void *p[100];

	for (int i = 0; i < 100; i++)
		p[i] = malloc(1500);
	for (int i = 0; i < 100; i++)
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

const struct misuse_case misuse_double_frees[] = {
	CASE(double_free),
	CASE(double_free_one_between),
	CASE(double_free_larger),
	CASE(double_free_larger_one_between),
	CASE(double_free_largest_slot),
	CASE(double_free_three_between),
	CASE(double_free_many_between),
	CASE(double_free_of_flushed),
	CASE(double_free_used_between),
	CASE(double_free_of_others),
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
	CASE(double_free_passed_on),
	CASE(double_delete),
};

const struct misuse_case *const misuse_double_frees_end =
	misuse_double_frees +
	sizeof(misuse_double_frees) / sizeof(misuse_double_frees[0]);
