/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program whose lists hang by one pointer each, which is where nothing was a moment
 * ago: deep in a stack, on the stack of a thread that has just begun, in memory that was
 * closed until now, or in a hole of a large mapping. Or it has a pointer into its middle
 * in memory, too, and that to its start in a register. Or the kernel keeps it, as epoll's
 * data. WANDER says where. Another thread writes to many pages meanwhile. Nothing is
 * lost. It ends with stdin, and says so.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LENGTH	   50 /* of a list */
#define PAGE	   4096
#define FRAME	   8192
#define DEEPEST	   700 /* frames */
#define RESERVED   ((size_t)256 << 20)
#define APART	   ((size_t)4 << 20)
#define WRITTEN	   1500 /* pages */
#define STAYS_US   4000
#define WRITES_US  200
#define PAST_START 16

struct item {
	struct item *next;
	char rest[92];
};

static int ends; /* atomic */
static char written[WRITTEN * PAGE];
static struct item *given; /* to the thread that has just begun */

static int goes_on(void)
{
	return !__atomic_load_n(&ends, __ATOMIC_ACQUIRE);
}

static void make_list(uintptr_t *place)
{
	struct item *list = NULL;

	for (int i = 0; i < LENGTH; i++) {
		struct item *item = calloc(1, sizeof(*item));

		if (!item)
			_exit(1);
		item->next = list;
		list = item;
	}
	*place = (uintptr_t)list;
}

static void drop_list(uintptr_t place)
{
	struct item *item = (struct item *)place, *next;
	int n = 0;

	for (; item; item = next, n++) {
		next = item->next;
		free(item);
	}
	if (n != LENGTH)
		_exit(2);
}

/* ---- deep in a stack ---- */

static __attribute__((noinline)) void dive(volatile uintptr_t *from, int depth)
{
	volatile char frame[FRAME];

	frame[0] = frame[FRAME - 1] = (char)depth;
	if (depth > 0) {
		dive(from, depth - 1);
	} else {
		volatile uintptr_t here = *from;

		*from = 0;
		usleep(STAYS_US);
		*from = here;
		here = 0;
	}
	frame[1] = frame[0];
}

static void *diver(void *arg)
{
	static uintptr_t head;
	unsigned seed = 1;

	make_list(&head);
	while (goes_on()) {
		usleep(STAYS_US);
		dive(&head, 100 + rand_r(&seed) % (DEEPEST - 100));
	}
	drop_list(head);
	return arg;
}

/* ---- in a thread that has just begun ---- */

static void *keeper(void *arg)
{
	struct item *volatile here = given;

	__atomic_store_n(&given, NULL, __ATOMIC_RELEASE);
	usleep(STAYS_US);
	__atomic_store_n(&given, here, __ATOMIC_RELEASE);
	here = NULL;
	return arg;
}

static void *spawner(void *arg)
{
	make_list((uintptr_t *)&given);
	while (goes_on()) {
		pthread_t t;

		if (pthread_create(&t, NULL, keeper, NULL) != 0)
			_exit(3);
		pthread_join(t, NULL);
		usleep(STAYS_US);
	}
	drop_list((uintptr_t)given);
	return arg;
}

/* ---- in memory that was closed, or never written ---- */

static void move_about(int closed)
{
	char *base = mmap(NULL, RESERVED, closed ? PROT_NONE : PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t *at = NULL, *to;
	size_t turn = 0;

	if (base == MAP_FAILED)
		_exit(4);
	while (goes_on()) {
		to = (uintptr_t *)(base + turn++ * APART % RESERVED);
		if (closed && mprotect(to, PAGE, PROT_READ | PROT_WRITE) != 0)
			_exit(5);
		if (at)
			*to = *at;
		else
			make_list(to);
		if (at) {
			*at = 0;
			madvise(at, PAGE, MADV_DONTNEED);
		}
		if (at && closed && mprotect(at, PAGE, PROT_NONE) != 0)
			_exit(6);
		at = to;
		usleep(STAYS_US);
	}
	drop_list(at ? *at : 0);
}

static void *opener(void *arg)
{
	move_about(1);
	return arg;
}

static void *filler(void *arg)
{
	move_about(0);
	return arg;
}

/* ---- in a register ---- */

static char *volatile middle;

static void *holder(void *arg)
{
	static const struct timespec nap = { .tv_nsec = 1000 * STAYS_US };

	make_list((uintptr_t *)&given);
	middle = given->rest + PAST_START;
	__asm__ volatile("movq %[given], %%r12\n\t"
			 "movq $0, %[given]\n"
			 "1:\tmovl %[call], %%eax\n\t"
			 "movq %[nap], %%rdi\n\t"
			 "xorl %%esi, %%esi\n\t"
			 "syscall\n\t"
			 "cmpl $0, %[ends]\n\t"
			 "je 1b\n\t"
			 "movq %%r12, %[given]"
			 : [given] "+m"(given)
			 : [call] "i"(SYS_nanosleep), [nap] "r"(&nap), [ends] "m"(ends)
			 : "rax", "rcx", "rdi", "rsi", "r11", "r12", "memory", "cc");
	drop_list((uintptr_t)given);
	return arg;
}

/* ---- in the kernel ---- */

static void hand_over(int epoll, int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = given };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0)
		_exit(7);
	given = NULL;
	e.data.ptr = NULL;
	__asm__ volatile("" : : "r"(&e) : "memory");
}

static void take_back(int epoll, int fd)
{
	struct epoll_event e = { .events = 0 };

	if (epoll_wait(epoll, &e, 1, -1) != 1 ||
	    epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL) != 0)
		_exit(8);
	given = e.data.ptr;
}

static void *giver(void *arg)
{
	const int epoll = epoll_create1(EPOLL_CLOEXEC), fd = eventfd(1, EFD_CLOEXEC);

	make_list((uintptr_t *)&given);
	while (goes_on()) {
		hand_over(epoll, fd);
		usleep(STAYS_US);
		take_back(epoll, fd);
		usleep(STAYS_US);
	}
	drop_list((uintptr_t)given);
	return arg;
}

static void *writer(void *arg)
{
	while (goes_on()) {
		for (size_t i = 0; i < WRITTEN; i++)
			written[i * PAGE]++;
		usleep(WRITES_US);
	}
	return arg;
}

int main(void)
{
	static const struct {
		const char *name;
		void *(*run)(void *arg);
	} all[] = { { "deep", diver },	{ "begun", spawner },	{ "closed", opener },
		    { "hole", filler }, { "register", holder }, { "kernel", giver } };
	const char *where = getenv("WANDER");
	pthread_t threads[2];

	for (size_t i = 0; where && i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(where, all[i].name) == 0 &&
		    (pthread_create(&threads[0], NULL, all[i].run, NULL) != 0 ||
		     pthread_create(&threads[1], NULL, writer, NULL) != 0))
			return 1;
	while (getchar() != EOF)
		;
	__atomic_store_n(&ends, 1, __ATOMIC_RELEASE);
	for (size_t i = 0; where && i < 2; i++)
		pthread_join(threads[i], NULL);
	puts("1");
	return 0;
}
