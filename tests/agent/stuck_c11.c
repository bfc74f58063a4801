/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stuck_c11: what stuck.c does, with the threads of C11.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <threads.h>
#include <unistd.h>

#define APART __attribute__((noinline))

struct queue {
	mtx_t lock;
	cnd_t more;
};

struct pair {
	mtx_t *first, *second;
	pthread_barrier_t *both;
};

static void *volatile kept;
static const char *name = "stuck";

void wait_until_all_wait(void);

static int take(void *arg)
{
	struct queue *q = arg;

	prctl(PR_SET_NAME, name);
	mtx_lock(&q->lock);
	for (;;)
		cnd_wait(&q->more, &q->lock);
}

static int join(void *arg)
{
	prctl(PR_SET_NAME, name);
	thrd_join(*(thrd_t *)arg, NULL);
	return 0;
}

/* Locks the first of both, then, when the other has locked the second, that one. */
static int lock_both(void *arg)
{
	struct pair *p = arg;

	prctl(PR_SET_NAME, name);
	mtx_lock(p->first);
	pthread_barrier_wait(p->both);
	mtx_lock(p->second);
	return 0;
}

static APART struct queue *make_queue(void)
{
	struct queue *q = calloc(1, sizeof(*q));

	mtx_init(&q->lock, mtx_plain);
	cnd_init(&q->more);
	return q;
}

static APART void start(thrd_start_t fn, void *arg)
{
	thrd_t t;

	thrd_create(&t, fn, arg);
}

static APART void joiner(void)
{
	thrd_t *t = malloc(sizeof(*t));

	thrd_create(t, take, make_queue());
	start(join, t);
}

static APART void deadlock(void)
{
	struct queue *a = make_queue(), *b = make_queue();
	struct pair *one = malloc(sizeof(*one)), *two = malloc(sizeof(*two));

	*one = (struct pair){ &a->lock, &b->lock, malloc(sizeof(*one->both)) };
	*two = (struct pair){ &b->lock, &a->lock, one->both };
	pthread_barrier_init(one->both, NULL, 2);
	start(lock_both, one);
	start(lock_both, two);
}

static APART void make(const char *what)
{
	if (strcmp(what, "condition") == 0)
		start(take, make_queue());
	else if (strcmp(what, "condition-known") == 0)
		name = "fine", start(take, kept = make_queue());
	else if (strcmp(what, "join") == 0)
		joiner();
	else if (strcmp(what, "deadlock") == 0)
		deadlock();
	else
		_exit(2);
}

/* On a stack that ends with it, where old pointers may stand. */
static int starter(void *what)
{
	make(what);
	return 0;
}

int main(int argc, char **argv)
{
	thrd_t t;
	char c;

	(void)argc;
	thrd_create(&t, starter, argv[1]);
	thrd_join(t, NULL);
	wait_until_all_wait();
	if (write(1, "up\n", 3) != 3)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
