/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stuck: threads that can never run again, and threads that look like it. The argument
 * names the case. Threads named "stuck" are blocked for ever; "fine" ones are not. When
 * all wait, prints a line and reads standard input to its end; with a second argument,
 * ends at once.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noinline)) /* a frame of its own */

struct queue {
	pthread_mutex_t lock;
	pthread_cond_t more;
	int length;
	sem_t count;
	pthread_rwlock_t door;
	pthread_barrier_t both;
};

struct node {
	struct queue *of;
};

struct pair {
	pthread_mutex_t *first, *second;
	pthread_barrier_t *both;
	const char *name;
};

static struct queue *known;
static pthread_cond_t *known_condition;
static struct node *volatile known_node;
static __thread struct node own_node;
static int *volatile known_errno;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t locks[3] = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
				    PTHREAD_MUTEX_INITIALIZER };
static pthread_barrier_t barrier;

static void named(const char *name)
{
	prctl(PR_SET_NAME, name);
}

static APART pthread_t start(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	pthread_create(&t, NULL, fn, arg);
	return t;
}

static struct queue *make_queue(void)
{
	struct queue *q = calloc(1, sizeof(*q));

	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->more, NULL);
	sem_init(&q->count, 0, 0);
	pthread_rwlock_init(&q->door, NULL);
	pthread_barrier_init(&q->both, NULL, 2);
	return q;
}

static APART void take(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	while (q->length == 0)
		pthread_cond_wait(&q->more, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

static void *stuck_worker(void *q)
{
	named("stuck");
	take(q);
	return NULL;
}

static void *fine_worker(void *q)
{
	named("fine");
	take(q);
	return NULL;
}

static void *stuck_semaphore(void *q)
{
	named("stuck");
	sem_wait(&((struct queue *)q)->count);
	return NULL;
}

static void *fine_semaphore(void *q)
{
	named("fine");
	sem_wait(&((struct queue *)q)->count);
	return NULL;
}

static void *stuck_freed(void *arg)
{
	struct queue *q = arg;

	named("stuck");
	sem_wait(&q->count);
	return NULL;
}

static void *stuck_door(void *q)
{
	named(q == known ? "fine" : "stuck");
	pthread_rwlock_rdlock(&((struct queue *)q)->door);
	return NULL;
}

static void *stuck_barrier(void *q)
{
	named(q == known ? "fine" : "stuck");
	pthread_barrier_wait(&((struct queue *)q)->both);
	return NULL;
}

/* Who looks at the list finds the queue. */
static void *listed(void *q)
{
	struct node node = { q };

	known_node = &node;
	fine_semaphore(q);
	return node.of;
}

static void *listed_storage(void *q)
{
	own_node.of = q;
	known_node = &own_node;
	return fine_semaphore(q);
}

/* As runtimes tell threads apart: nobody gets from there to what the thread has. */
static void *known_by_errno(void *q)
{
	own_node.of = q;
	known_errno = &errno;
	return stuck_semaphore(q);
}

static void never_done(void)
{
	pthread_cond_t never = PTHREAD_COND_INITIALIZER;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct timespec late = { 4000000000, 0 };

	pthread_mutex_lock(&lock);
	pthread_cond_timedwait(&never, &lock, &late);
}

static void *does_once(void *arg)
{
	named("fine");
	pthread_once(&once, never_done);
	return arg;
}

static void *locks_lost(void *lock)
{
	named("fine");
	pthread_mutex_lock(lock);
	return NULL;
}

static void *fine_timed(void *arg)
{
	struct timespec t;
	struct queue *q = arg;

	named("fine");
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 1000;
	pthread_mutex_lock(&q->lock);
	pthread_cond_timedwait(&q->more, &q->lock, &t);
	return NULL;
}

/* Does its part and ends without a word. */
static void *producer(void *arg)
{
	struct queue *q = arg;

	pthread_mutex_lock(&q->lock);
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

static void *locks_two(void *arg)
{
	struct pair *p = arg;

	named(p->name);
	pthread_mutex_lock(p->first);
	pthread_barrier_wait(p->both);
	pthread_mutex_lock(p->second);
	return NULL;
}

static void *waits_on_own_stack(void *arg)
{
	struct queue q = { .length = 0 };

	named(arg ? "fine" : "stuck");
	pthread_mutex_init(&q.lock, NULL);
	pthread_cond_init(&q.more, NULL);
	if (arg)
		*(pthread_cond_t **)arg = &q.more;
	take(&q);
	return NULL;
}

static void *joiner(void *thread)
{
	named("stuck");
	pthread_join((pthread_t)thread, NULL);
	return NULL;
}

static void *fine_joiner(void *thread)
{
	named("fine");
	pthread_join((pthread_t)thread, NULL);
	return NULL;
}

static void *holds_and_waits(void *q)
{
	named("stuck");
	pthread_mutex_lock(&locks[0]);
	pthread_barrier_wait(&barrier);
	take(q);
	return NULL;
}

static void *waits_for_lock(void *arg)
{
	named(arg ? arg : "stuck");
	pthread_mutex_lock(&locks[0]);
	return NULL;
}

static void *ends(void *arg)
{
	return arg;
}

static void on_signal(int sig)
{
	(void)sig;
}

static APART void deadlock(int n)
{
	pthread_barrier_init(&barrier, NULL, (unsigned)n);
	for (int i = 0; i < n; i++) {
		struct pair *p = malloc(sizeof(*p));

		*p = (struct pair){ &locks[i], &locks[(i + 1) % n], &barrier, "stuck" };
		start(locks_two, p);
	}
}

static APART void holder(void)
{
	pthread_barrier_init(&barrier, NULL, 2);
	start(holds_and_waits, make_queue());
	pthread_barrier_wait(&barrier);
	start(waits_for_lock, NULL);
	start(waits_for_lock, NULL);
}

static APART void self_lock(void)
{
	struct pair *p = malloc(sizeof(*p));

	pthread_barrier_init(&barrier, NULL, 1);
	*p = (struct pair){ &locks[0], &locks[0], &barrier, "stuck" };
	start(locks_two, p);
}

static APART void freed(void)
{
	struct queue *q = make_queue();
	pthread_t t = start(stuck_freed, q);
	char path[64], text[8];
	FILE *f;

	do { /* until it waits */
		snprintf(path, sizeof(path), "/proc/self/task/%d/syscall",
			 *(int *)((char *)t + 0x2d0));
		f = fopen(path, "r");
		text[0] = '\0';
		if (f && !fgets(text, 4, f))
			text[0] = '\0';
		if (f)
			fclose(f);
	} while (strcmp(text, "202") != 0);
	free(q);
}

static APART void pool(void)
{
	pthread_attr_t a;

	known = make_queue();
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < 4; i++) {
		pthread_t t;

		pthread_create(&t, &a, fine_worker, known);
	}
}

static APART void shared(void)
{
	struct queue *q = make_queue();

	sem_init(&q->count, 1, 0);
	start(fine_semaphore, q);
}

static APART void in_epoll(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	int fd = epoll_create1(0), pipes[2];

	pipe(pipes);
	e.data.ptr = make_queue();
	epoll_ctl(fd, EPOLL_CTL_ADD, pipes[0], &e);
	start(fine_worker, e.data.ptr);
	e.data.ptr = NULL;
}

static APART void mapped(void)
{
	struct queue *q = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	start(fine_semaphore, q);
}

/* A mutex of a kind that says nothing about who can wake its waiters. */
static APART void odd_mutex(int robust, int protocol)
{
	pthread_mutex_t *lock = malloc(sizeof(*lock));
	pthread_mutexattr_t a;

	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, robust);
	pthread_mutexattr_setprotocol(&a, protocol);
	pthread_mutex_init(lock, &a);
	pthread_mutex_lock(lock);
	start(locks_lost, lock);
}

static APART struct queue *closed_door(void)
{
	struct queue *q = make_queue();

	pthread_rwlock_wrlock(&q->door);
	return q;
}

/* 100 for nobody, 10 joined, 10 detached, 10 detached later. */
static APART void ended(void)
{
	pthread_attr_t a;
	pthread_t t;

	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < 100; i++)
		start(ends, NULL);
	for (int i = 0; i < 10; i++) {
		pthread_join(start(ends, NULL), NULL);
		pthread_detach(start(ends, NULL));
		pthread_create(&t, &a, ends, NULL);
		t = start(ends, NULL);
		while (pthread_tryjoin_np(t, NULL) != 0)
			;
	}
}

static APART void handler(void)
{
	struct sigaction act = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &act, NULL);
}

void wait_until_all_wait(void);

/* The child has the parent's thread in its memory only. */
static void forked(void)
{
	pid_t child;

	start(fine_timed, make_queue());
	wait_until_all_wait();
	child = fork();
	if (child == 0)
		_exit(0);
	waitpid(child, NULL, 0);
}

static APART void make(const char *what)
{
	if (strcmp(what, "lost") == 0)
		for (int i = 0; i < 3; i++)
			start(stuck_worker, make_queue());
	else if (strcmp(what, "freed") == 0)
		freed();
	else if (strcmp(what, "producer") == 0)
		start(producer, start(stuck_worker, make_queue()) ? make_queue() : NULL);
	else if (strcmp(what, "deadlock2") == 0)
		deadlock(2);
	else if (strcmp(what, "deadlock3") == 0)
		deadlock(3);
	else if (strcmp(what, "self") == 0)
		self_lock();
	else if (strcmp(what, "holder") == 0)
		holder();
	else if (strcmp(what, "own-stack") == 0)
		start(waits_on_own_stack, NULL);
	else if (strcmp(what, "own-stack-known") == 0)
		start(waits_on_own_stack, &known_condition);
	else if (strcmp(what, "join") == 0)
		start(joiner, (void *)start(stuck_worker, make_queue()));
	else if (strcmp(what, "join-fine") == 0)
		start(fine_joiner, (void *)start(fine_timed, make_queue()));
	else if (strcmp(what, "semaphore") == 0)
		start(stuck_semaphore, make_queue());
	else if (strcmp(what, "semaphore-signals") == 0)
		handler(), start(fine_semaphore, make_queue());
	else if (strcmp(what, "rwlock") == 0)
		start(stuck_door, closed_door());
	else if (strcmp(what, "rwlock-signals") == 0)
		handler(), start(stuck_door, closed_door());
	else if (strcmp(what, "rwlock-known") == 0)
		start(stuck_door, known = closed_door());
	else if (strcmp(what, "barrier") == 0)
		handler(), start(stuck_barrier, make_queue());
	else if (strcmp(what, "barrier-known") == 0)
		start(stuck_barrier, known = make_queue());
	else if (strcmp(what, "once") == 0)
		start(does_once, NULL), start(does_once, NULL);
	else if (strcmp(what, "listed") == 0)
		start(listed, make_queue());
	else if (strcmp(what, "listed-storage") == 0)
		start(listed_storage, make_queue());
	else if (strcmp(what, "known-by-errno") == 0)
		start(known_by_errno, make_queue());
	else if (strcmp(what, "robust") == 0)
		odd_mutex(PTHREAD_MUTEX_ROBUST, PTHREAD_PRIO_NONE);
	else if (strcmp(what, "inherits") == 0)
		odd_mutex(PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_INHERIT);
	else if (strcmp(what, "global") == 0)
		start(fine_worker, known = make_queue());
	else if (strcmp(what, "timed") == 0)
		start(fine_timed, make_queue());
	else if (strcmp(what, "pool") == 0)
		pool();
	else if (strcmp(what, "shared") == 0)
		shared();
	else if (strcmp(what, "epoll") == 0)
		in_epoll();
	else if (strcmp(what, "mapped") == 0)
		mapped();
	else if (strcmp(what, "locked") == 0)
		pthread_mutex_lock(&locks[0]), start(waits_for_lock, "fine");
	else if (strcmp(what, "ended") == 0)
		ended();
	else if (strcmp(what, "forked") == 0)
		forked();
	else
		_exit(2);
}

/* On a stack that ends with it, where old pointers may stand. */
static void *starter(void *what)
{
	make(what);
	return NULL;
}

int main(int argc, char **argv)
{
	char c;

	named("main");
	if (strcmp(argv[1], "locked") == 0 || strcmp(argv[1], "robust") == 0 ||
	    strcmp(argv[1], "inherits") == 0 || strcmp(argv[1], "forked") == 0)
		make(argv[1]); /* main() holds the lock, or forks */
	else
		pthread_join(start(starter, argv[1]), NULL);
	wait_until_all_wait();
	if (argc > 2)
		return 0;
	write(1, "up\n", 3);
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
