/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cases: the classic ways of a heap object out of the function that made it, or not. Each
 * case is one function make_CASE that calls malloc, so that the profile can be read by
 * its name; test_cases.py has the depth and the place that must be found.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROUNDS 50
#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif
/* The compiler can neither see what becomes of p nor that the call is the last. */
#define KEEP(p)	  __asm__ volatile("" : "+r"(p) : : "memory")
#define BARRIER() __asm__ volatile("" : : : "memory")

struct pair {
	void *first, *second;
};

struct node {
	struct node *next;
	int value;
};

void *kept_global;
struct pair kept_pair;
__thread void *kept_tls;
void *(*volatile get)(size_t) = malloc;

/* ---- returned ---- */

NOINLINE void *make_returned(void)
{
	char *p = malloc(48);

	p[0] = 1;
	KEEP(p);
	return p;
}

NOINLINE void case_returned(void)
{
	char *p = make_returned();

	p[1] = 2;
	KEEP(p);
	free(p);
	BARRIER();
}

NOINLINE void *make_twice(void)
{
	char *p = malloc(56);

	KEEP(p);
	p[0] = 1;
	return p;
}

NOINLINE void *pass_twice(void)
{
	char *p = make_twice();

	p[1] = 1;
	KEEP(p);
	return p;
}

NOINLINE void case_twice(void)
{
	char *p = pass_twice();

	p[2] = 1;
	KEEP(p);
	free(p);
	BARRIER();
}

/* Does the caller read rax? It cannot be seen behind an lfence; the types of these two
 * say it. Both are freed by the caller. */
NOINLINE void *make_maybe(void)
{
	void *p = malloc(192);

	KEEP(p);
	return p;
}

uintptr_t hidden; /* the pointer, inverted */

NOINLINE void make_left(void)
{
	void *p = malloc(208);

	KEEP(p);
	hidden = ~(uintptr_t)p;
	__asm__ volatile("" : : "a"(p) : "memory"); /* there when it returns */
}

#define CALL_AND_FREE(name, callee, get)                                            \
	__asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" \
		".cfi_startproc\n\tsub $8, %rsp\n.cfi_adjust_cfa_offset 8\n"        \
		"\tcall " #callee "\n\tlfence\n\t" get "\n\tcall free@PLT\n"        \
		"\tadd $8, %rsp\n.cfi_adjust_cfa_offset -8\n\tret\n"                \
		".cfi_endproc\n.size " #name ", .-" #name "\n");                    \
	void name(void)

CALL_AND_FREE(case_maybe, make_maybe, "mov %rax, %rdi");
CALL_AND_FREE(case_left, make_left, "mov hidden(%rip), %rdi\n\tnot %rdi");

/* ---- global ---- */

NOINLINE void make_global(void)
{
	void *p = malloc(64);

	KEEP(p);
	kept_global = p;
	BARRIER();
}

NOINLINE void drop_global(void)
{
	free(kept_global);
	kept_global = NULL;
	BARRIER();
}

NOINLINE void case_global(void)
{
	make_global();
	drop_global();
	BARRIER();
}

/* A member of a larger variable. */
NOINLINE void make_member(void)
{
	void *p = malloc(72);

	KEEP(p);
	kept_pair.second = p;
	BARRIER();
}

NOINLINE void case_member(void)
{
	make_member();
	free(kept_pair.second);
	kept_pair.second = NULL;
	BARRIER();
}

/* ---- in another object ---- */

NOINLINE void make_element(void **slice, int i)
{
	void *p = malloc(80);

	KEEP(p);
	slice[i] = p;
	BARRIER();
}

NOINLINE void case_element(void)
{
	void **slice = malloc(10 * sizeof(*slice));

	KEEP(slice);
	memset(slice, 0, 10 * sizeof(*slice));
	make_element(slice, 3);
	free(slice[3]);
	free(slice);
	BARRIER();
}

/* Grown by append: each realloc that moves ends an object in the next call. */
struct slice {
	uint64_t *data;
	size_t used, room;
};

NOINLINE void make_append(struct slice *s, uint64_t value)
{
	if (s->used == s->room) {
		s->room = s->room ? 2 * s->room : 8;
		s->data = realloc(s->data, s->room * sizeof(*s->data));
	}
	s->data[s->used++] = value;
	BARRIER();
}

NOINLINE void case_append(void)
{
	struct slice *s = calloc(1, sizeof(*s));

	KEEP(s);
	for (int i = 0; i < 512; i++)
		make_append(s, (uint64_t)i);
	free(s->data);
	free(s);
	BARRIER();
}

/* Grown and gone in one function; and one that its caller frees. */
NOINLINE void make_grown(void)
{
	char *p = NULL;

	for (size_t n = 64; n <= 512; n *= 2) {
		p = realloc(p, n);
		KEEP(p);
	}
	free(p);
	BARRIER();
}

NOINLINE char *make_returned_grown(void)
{
	char *p = NULL;

	for (size_t n = 64; n <= 512; n *= 2) {
		p = realloc(p, n);
		KEEP(p);
	}
	return p;
}

NOINLINE void case_returned_grown(void)
{
	char *p = make_returned_grown();

	p[0] = 1;
	free(p);
	BARRIER();
}

/* A closure: its code and what it captured, by reference. */
struct closure {
	int (*call)(struct closure *self);
	int *captured;
};

NOINLINE int count_up(struct closure *self)
{
	return ++*self->captured;
}

NOINLINE struct closure *make_closure(int start)
{
	struct closure *c = malloc(sizeof(*c));
	int *n = malloc(88);

	*n = start;
	c->call = count_up;
	c->captured = n;
	KEEP(c);
	return c;
}

NOINLINE void case_closure(void)
{
	struct closure *c = make_closure(7);

	c->call(c);
	free(c->captured);
	free(c);
	BARRIER();
}

/* An interface: a table of functions and the value behind it. */
struct shape {
	double (*area)(const void *value);
	void (*destroy)(void *value);
};

static double area(const void *value)
{
	return *(const double *)value;
}

static void destroy(void *value)
{
	free(value);
	BARRIER();
}

static const struct shape square = { area, destroy };

struct any {
	const struct shape *type;
	void *value;
};

NOINLINE void make_interface(struct any *out)
{
	double *p = malloc(96);

	*p = 1.5;
	KEEP(p);
	out->type = &square;
	out->value = p;
	BARRIER();
}

NOINLINE void case_interface(void)
{
	struct any a;

	make_interface(&a);
	if (a.type->area(a.value) < 0)
		abort();
	a.type->destroy(a.value);
	BARRIER();
}

/* ---- not at all ---- */

NOINLINE void make_large(void)
{
	char *p = malloc(200000);

	memset(p, 1, 200000);
	KEEP(p);
	free(p);
	BARRIER();
}

NOINLINE void make_dynamic(size_t n)
{
	char *p = malloc(n);

	memset(p, 1, n);
	KEEP(p);
	free(p);
	BARRIER();
}

NOINLINE int look_at(const char *p)
{
	return p[0] + 1;
}

NOINLINE int make_lent(void)
{
	char *p = malloc(104);
	int n;

	p[0] = 5;
	KEEP(p);
	n = look_at(p);
	free(p);
	BARRIER();
	return n;
}

NOINLINE void consume(void *p)
{
	free(p);
	BARRIER();
}

NOINLINE void make_consumed(void)
{
	void *p = malloc(112);

	KEEP(p);
	consume(p);
	BARRIER();
}

/* free() is the last thing: the compiler may jump to it. */
NOINLINE void make_tail(void)
{
	void *p = malloc(120);

	KEEP(p);
	free(p);
}

/* ---- replaced in a loop ---- */

NOINLINE void make_replaced(size_t n)
{
	static char *buffer;

	free(buffer);
	buffer = malloc(n);
	KEEP(buffer);
	BARRIER();
}

NOINLINE void make_tls(size_t n)
{
	free(kept_tls);
	kept_tls = malloc(n);
	BARRIER();
}

/* ---- the caller's memory ---- */

NOINLINE int make_out(void **out)
{
	void *p = malloc(136);

	KEEP(p);
	*out = p;
	BARRIER();
	return -2; /* in rax: no address at all */
}

NOINLINE void case_out(void)
{
	void *p;

	if (make_out(&p) == -2)
		free(p);
	BARRIER();
}

struct big {
	void *p;
	long filler[8];
};

NOINLINE struct big make_by_value(void)
{
	struct big b = { .p = malloc(144) };

	BARRIER();
	return b;
}

NOINLINE void case_by_value(void)
{
	struct big b = make_by_value();

	free(b.p);
	BARRIER();
}

/* ---- two frames up, three frames up ---- */

NOINLINE void make_deep(struct pair *out)
{
	void *p = malloc(152);

	KEEP(p);
	out->first = p;
	BARRIER();
}

NOINLINE void deep_2(struct pair *out)
{
	make_deep(out);
	BARRIER();
}

NOINLINE void deep_1(struct pair *out)
{
	deep_2(out);
	BARRIER();
}

NOINLINE void case_deep(void)
{
	struct pair p;

	deep_1(&p);
	free(p.first);
	BARRIER();
}

/* ---- to another thread ---- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct node *head;
	int begun, done;
} queue = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0, 0 };

NOINLINE void make_sent(int value)
{
	struct node *n = malloc(160);

	n->value = value;
	pthread_mutex_lock(&queue.lock);
	n->next = queue.head;
	queue.head = n;
	pthread_cond_signal(&queue.more);
	pthread_mutex_unlock(&queue.lock);
	BARRIER();
}

static void *receive(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&queue.lock);
	while (!queue.done || queue.head) {
		struct node *n = queue.begun ? queue.head : NULL;

		if (!n) {
			pthread_cond_wait(&queue.more, &queue.lock);
			continue;
		}
		queue.head = n->next;
		free(n);
	}
	pthread_mutex_unlock(&queue.lock);
	return NULL;
}

static void set_queue(int *what)
{
	pthread_mutex_lock(&queue.lock);
	*what = 1;
	pthread_cond_signal(&queue.more);
	pthread_mutex_unlock(&queue.lock);
}

/* The first half is in the queue for certain when make_sent() returns; whether others are
 * is up to the scheduler. */
NOINLINE void case_sent(void)
{
	pthread_t t;

	pthread_create(&t, NULL, receive, NULL);
	for (int i = 0; i < ROUNDS / 2; i++)
		make_sent(i);
	set_queue(&queue.begun);
	for (int i = ROUNDS / 2; i < ROUNDS; i++)
		make_sent(i);
	set_queue(&queue.done);
	pthread_join(t, NULL);
}

/* Handed over by a variable that is empty again when the maker returns: only the other
 * thread's stack has it. */
enum hand { HAND_EMPTY, HAND_OFFERED, HAND_TAKEN, HAND_WANTED, HAND_BACK };

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	void *passing;
	enum hand state;
	int tid;
} hand = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, HAND_EMPTY, 0 };

/* Both with the lock. */
static void wait_for(enum hand state)
{
	while (hand.state != state)
		pthread_cond_wait(&hand.changed, &hand.lock);
}

static void set_hand(enum hand state)
{
	hand.state = state;
	pthread_cond_broadcast(&hand.changed);
}

NOINLINE void hold(void)
{
	void *volatile mine;

	wait_for(HAND_OFFERED);
	mine = hand.passing;
	hand.passing = NULL;
	hand.tid = gettid();
	set_hand(HAND_TAKEN);
	wait_for(HAND_WANTED);
	hand.passing = mine;
	mine = NULL;
	set_hand(HAND_BACK);
}

static void *holder(void *arg)
{
	pthread_mutex_lock(&hand.lock);
	for (int i = 0; i < ROUNDS; i++)
		hold();
	pthread_mutex_unlock(&hand.lock);
	return arg;
}

/* Until the holder waits in the kernel. */
static void wait_for_holder(void)
{
	char path[64], text[8] = "running";

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", hand.tid);
	for (int fd; text[0] == 'r'; sched_yield()) {
		fd = open(path, O_RDONLY);
		if (fd < 0 || read(fd, text, sizeof(text)) <= 0)
			abort();
		close(fd);
	}
}

NOINLINE void hand_over(void *p)
{
	pthread_mutex_lock(&hand.lock);
	hand.passing = p;
	set_hand(HAND_OFFERED);
	wait_for(HAND_TAKEN);
	pthread_mutex_unlock(&hand.lock);
	wait_for_holder();
}

NOINLINE void make_handed(void)
{
	hand_over(malloc(216));
	BARRIER();
}

NOINLINE void case_handed(void)
{
	make_handed();
	pthread_mutex_lock(&hand.lock);
	set_hand(HAND_WANTED);
	wait_for(HAND_BACK);
	free(hand.passing);
	hand.passing = NULL;
	hand.state = HAND_EMPTY;
	pthread_mutex_unlock(&hand.lock);
	BARRIER();
}

NOINLINE void case_holder(void)
{
	pthread_t t;

	pthread_create(&t, NULL, holder, NULL);
	for (int i = 0; i < ROUNDS; i++)
		case_handed();
	pthread_join(t, NULL);
	BARRIER();
}

/* ---- never freed ---- */

struct node *list;

NOINLINE void make_live(int value)
{
	struct node *n = malloc(168);

	n->value = value;
	n->next = list;
	list = n;
	BARRIER();
}

int main(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		case_returned();
		case_twice();
		case_maybe();
		case_left();
		case_global();
		case_member();
		case_element();
		make_grown();
		case_returned_grown();
		case_closure();
		case_interface();
		make_large();
		make_dynamic(1000 + 100 * (size_t)i);
		make_lent();
		make_consumed();
		make_tail();
		make_replaced(176);
		make_tls(184);
		case_out();
		case_by_value();
		case_deep();
		make_live(i);
	}
	case_append();
	case_sent();
	case_holder();
	puts("done");
	return 0;
}
