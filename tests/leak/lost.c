/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lost: programs that lose memory in a known way, one a case; run by run_leak.py, which
 * knows the exact set of leaks that each must be charged with.
 */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/leak/lose.h"

struct node {
	struct node *next, *other;
	char rest[24];
};

static APART struct node *make_node(void)
{
	return calloc(1, sizeof(struct node));
}

static APART void *make_block(size_t size)
{
	char *p = keep_alive(malloc(size));

	memset(p, 1, size);
	return p;
}

static APART void lose_direct(void)
{
	keep_alive(make_block(48));
}

static APART void lose_indirect(void)
{
	void **head = keep_alive(calloc(1, 32));

	head[0] = make_block(64);
	head[1] = make_block(64);
}

static APART void lose_chain(void)
{
	struct node *list = NULL;

	for (int i = 0; i < 5; i++) {
		struct node *n = make_node();

		n->next = list;
		list = n;
	}
	keep_alive(list);
}

static APART void lose_cycle(void)
{
	struct node *a = make_node(), *b = make_node(), *c = make_node();

	a->next = b;
	b->next = c;
	c->next = a;
	keep_alive(a);
}

/* The block behind the cycle is made first, so it lies at the lower address. */
static APART void lose_cycle_with_tail(void)
{
	void *tail = keep_alive(calloc(1, 36)); /* the same size class */
	struct node *a = make_node(), *b = make_node();

	a->next = b;
	b->next = a;
	b->other = tail;
	keep_alive(a);
}

static APART void lose_self(void)
{
	struct node *n = make_node();

	n->next = n;
	keep_alive(n);
}

static void *thread_loses(void *arg)
{
	char *volatile local[64];

	local[5] = make_block(100);
	(void)local[5];
	return arg;
}

static void *thread_returns(void *arg)
{
	(void)arg;
	return make_block(90);
}

/* What a thread has returned, to nobody: and what it was given. */
static APART void lose_result(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, thread_returns, make_block(91)) == 0)
		pthread_join(t, NULL);
	scrub();
}

static APART void lose_in_thread(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, thread_loses, NULL) == 0)
		pthread_join(t, NULL);
}

static APART void lose_small(void)
{
	for (int i = 0; i < 1000; i++)
		keep_alive(make_block(24));
}

static APART void lose_large(void)
{
	keep_alive(make_block(((size_t)1 << 20) + 100));
}

static APART void lose_realloc(void)
{
	void *p = make_block(10);

	keep_alive(realloc(p, 5000));
}

static APART void lose_realloc_in_place(void)
{
	void *p = make_block(200);

	keep_alive(realloc(p, 201));
}

static APART void lose_calloc(void)
{
	keep_alive(calloc(10, 13));
}

static APART void lose_aligned(void)
{
	void *p;

	keep_alive(memalign(256, 300));
	keep_alive(aligned_alloc(4096, 8192));
	if (posix_memalign(&p, 64, 100) == 0)
		keep_alive(p);
}

static APART void lose_strdup(void)
{
	keep_alive(strdup("hello"));
}

static APART void lose_empty(void)
{
	keep_alive(malloc(0));
}

/* The only pointer lies in memory that was freed. */
static APART void lose_behind_freed(void)
{
	void **holder = keep_alive(calloc(1, 64));

	holder[3] = make_block(80);
	free(keep_alive(holder));
}

/* A large block that was freed held the only pointer. */
static APART void lose_behind_freed_large(void)
{
	void **holder = keep_alive(calloc(1, 100000));

	holder[500] = make_block(80);
	free(keep_alive(holder));
}

/* A lost large block holds a pointer near its end. */
static APART void lose_large_holder(void)
{
	void **holder = keep_alive(calloc(1, 200000));

	holder[24990] = make_block(72);
}

/* Two lost blocks share a third. */
static APART void lose_shared(void)
{
	void **a = keep_alive(calloc(1, 32)), **b = keep_alive(calloc(1, 32));

	a[0] = b[0] = make_block(96);
}

static void *volatile kept;

static APART void lose_and_keep(void)
{
	kept = make_block(500);
	lose_direct();
}

/* A forked child answers only for what it made itself. */
static int lose_in_child(void)
{
	int status = 0;
	pid_t child;

	kept = make_block(333);
	child = fork();
	if (child == 0) {
		kept = NULL;
		lose_direct();
		scrub();
		exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 99;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

/* ---- losses that an old pointer could hide ---- */

#define HIDDEN 72

static APART uintptr_t make_hidden(void)
{
	return ~(uintptr_t)make_block(HIDDEN);
}

/* An object of old bytes, some of which are the pointer: a slot of the size asked next is
 * left full of it. */
static APART void leave_in_free_slots(uintptr_t hidden, size_t size)
{
	void **old[200];

	for (int i = 0; i < 200; i++) {
		old[i] = keep_alive(malloc(size));
		for (size_t k = 0; k < size / sizeof(void *); k++)
			old[i][k] = (void *)~hidden;
	}
	for (int i = 0; i < 200; i++)
		free(old[i]);
}

/* The last bytes of a slot, which nobody asked for this time. */
static APART void lose_behind_tail(void)
{
	leave_in_free_slots(make_hidden(), 175);
	kept = malloc(161);
	memset(kept, 0, 161);
}

/* Bytes that were asked for and not written yet. */
static APART void lose_behind_buffer(void)
{
	leave_in_free_slots(make_hidden(), 4095);
	kept = malloc(4095);
}

static APART void lose_behind_shrunk(void)
{
	void **p = malloc(175);

	for (int i = 0; i < 21; i++)
		p[i] = (void *)~make_hidden();
	kept = realloc(p, 161);
	memset(kept, 0, 161);
}

static APART void lose_behind_large_tail(void)
{
	uintptr_t hidden = make_hidden();
	void **p = malloc(90000);

	for (int i = 0; i < 90000 / 8; i++)
		p[i] = (void *)~hidden;
	kept = realloc(p, 83001);
	memset(kept, 0, 83001);
}

/* Code that is gone when the loss is reported, but named all the same. */
static int lose_in_closed_plugin(const char *path)
{
	void *lib = dlopen(path, RTLD_NOW);
	void (*lose)(void) =
		lib ? (void (*)(void))(uintptr_t)dlsym(lib, "plugin_lose") : NULL;

	if (!lose)
		return 99;
	lose();
	scrub();
	if (dlclose(lib) != 0 || dlopen(path, RTLD_NOW | RTLD_NOLOAD))
		return 98;
	return 0;
}

/* All words of the dead stack below. */
static APART void stain(uintptr_t hidden)
{
	void *volatile dead[SCRUB_SIZE / sizeof(void *)];

	for (size_t i = 0; i < sizeof(dead) / sizeof(dead[0]); i++)
		dead[i] = (void *)~hidden;
}

static APART void clear_red_zone(void)
{
	volatile char dead[512];

	for (size_t i = 0; i < sizeof(dead); i++)
		dead[i] = 0;
	__asm__ volatile("pxor %%xmm0, %%xmm0\n\txor %%eax, %%eax\n\t"
			 "xor %%ecx, %%ecx\n\txor %%edx, %%edx\n\t"
			 "xor %%esi, %%esi\n\txor %%edi, %%edi"
			 :
			 :
			 : "rax", "rcx", "rdx", "rsi", "rdi", "xmm0");
}

/* Then a signal's frame lies there, with words that the kernel does not write. */
static APART int lose_below_signal(void)
{
	uintptr_t hidden = make_hidden();

	stain(hidden);
	clear_red_zone();
	__builtin_trap();
}

/* Nothing lost: the pointers stand in registers when the signal comes. */
static APART int keep_below_signal(void)
{
	uintptr_t general = make_hidden(), low = make_hidden(), high = make_hidden();

	if (!__builtin_cpu_supports("avx"))
		high = low;
	__asm__ volatile("not %0\n\tnot %1\n\tnot %2\n\t"
			 "mov %0, %%rdi\n\tmovq %1, %%xmm5\n\t"
			 "test %3, %3\n\tjz 1f\n\t"
			 "vmovq %2, %%xmm6\n\t"
			 "vinsertf128 $1, %%xmm6, %%ymm7, %%ymm7\n\t"
			 "vpxor %%xmm6, %%xmm6, %%xmm6\n\t"
			 "1: xor %0, %0\n\txor %1, %1\n\txor %2, %2\n\tud2"
			 :
			 : "r"(general), "r"(low), "r"(high), "r"(high != low)
			 : "rdi", "xmm5", "xmm6", "xmm7", "memory");
	return 0;
}

/* main's own frame, which it has left by returning. */
static APART int lose_in_main_frame(void)
{
	void *volatile local[512];
	uintptr_t hidden = make_hidden();

	for (int i = 0; i < 512; i++)
		local[i] = (void *)~hidden;
	return local[511] == NULL;
}

/* Words of the stack below the caller that are left full of old pointers. */
static APART void leave_on_stack(uintptr_t hidden)
{
	void *volatile local[2048];

	for (int i = 0; i < 2048; i++)
		local[i] = (void *)~hidden;
}

static int waits; /* its tid */

static void *loses_and_waits(void *arg)
{
	uintptr_t hidden = make_hidden();

	leave_on_stack(hidden);
	__atomic_store_n(&waits, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
	/* The call has no arguments, and syscall() has no frame. */
	__asm__ volatile("mov %0, %%r8\n\tnot %%r8\n\tmov %%r8, %%r9\n\t"
			 "movq %%r8, %%xmm5"
			 :
			 : "r"(hidden)
			 : "r8", "r9", "xmm5");
	syscall(SYS_pause);
	return arg;
}

static APART char state_of(int tid)
{
	char path[64], text[256] = "";
	const char *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "r");
	if (!f || !fgets(text, sizeof(text), f))
		exit(99);
	fclose(f);
	end = strrchr(text, ')');
	return end && end[1] ? end[2] : '?';
}

/* Below the stack pointer of a thread that waits in the C library. */
static APART void lose_in_waiting_thread(void)
{
	pthread_t t;
	int tid;

	pthread_create(&t, NULL, loses_and_waits, NULL);
	while ((tid = __atomic_load_n(&waits, __ATOMIC_ACQUIRE)) == 0 ||
	       state_of(tid) != 'S')
		sched_yield();
}

/* No destructor runs: the check is made by what the program calls here. */
static APART void lose_at_once(void)
{
	leave_on_stack(make_hidden());
	_exit(0);
}

static void *exits(void *arg)
{
	(void)arg;
	exit(0);
}

/* The second exit() finds nothing left to do. */
static APART void lose_in_two_exits(void)
{
	pthread_t t;

	lose_direct();
	scrub();
	pthread_create(&t, NULL, exits, NULL);
	exit(0);
}

static void *holds_stream(void *arg)
{
	flockfile(stdin);
	__atomic_store_n(&waits, 1, __ATOMIC_RELEASE);
	for (;;)
		pause();
	return arg;
}

/* Another thread has a stream locked, as one that reads from it. */
static APART void lose_while_stream_is_held(void)
{
	pthread_t t;

	lose_direct();
	pthread_create(&t, NULL, holds_stream, NULL);
	while (__atomic_load_n(&waits, __ATOMIC_ACQUIRE) == 0)
		sched_yield();
	printf("written at the end");
}

static int ends_slowly;

/* The first exit() has not come to the check yet when the second comes to its end. */
__attribute__((destructor)) static void end_slowly(void)
{
	pthread_t t;

	if (!ends_slowly)
		return;
	pthread_create(&t, NULL, exits, NULL);
	for (;;)
		pause();
}

static APART void lose_before_late_exit(void)
{
	lose_direct();
	ends_slowly = 1;
}

static ssize_t leaves(void *cookie, const char *text, size_t size)
{
	(void)cookie;
	(void)text;
	(void)size;
	_exit(0);
}

/* Streams are written out after the check; here the program goes on for a last time. */
static APART void lose_and_leave_at_flush(void)
{
	static FILE *stream;

	stream = fopencookie(NULL, "w", (cookie_io_functions_t){ .write = leaves });
	if (!stream || fputc('x', stream) != 'x')
		exit(99);
	lose_direct();
}

static void *outlives_main(void *arg)
{
	pthread_join(*(pthread_t *)arg, NULL);
	return NULL;
}

/* The frame of a main thread that has ended; the last one ends the process. */
static APART void lose_with_main(void)
{
	static pthread_t self;
	void *volatile local[8192] = { 0 };
	pthread_t t;

	local[3] = (void *)~make_hidden();
	self = pthread_self();
	if (pthread_create(&t, NULL, outlives_main, &self) != 0 || !local[3])
		exit(99);
	pthread_detach(t);
	pthread_exit(NULL);
}

/* What a constructor leaves lies below main()'s frame, in those of its callers. */
__attribute__((constructor)) static void lose_before_main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "before-main") == 0)
		leave_on_stack(make_hidden());
}

static void nothing(void)
{
}

/* In an ending function, on stack where the check itself is made afterwards. */
static void lose_in_handler(void)
{
	lose_direct();
	scrub();
	stain(make_hidden());
}

static void lose_in_quick_handler(void)
{
	at_quick_exit(lose_in_handler);
	quick_exit(0);
}

/* The tid is known from then on that it is written to where. */
static void *thread_tells_and_returns(void *where)
{
	__atomic_store_n((pid_t *)where, gettid(), __ATOMIC_RELEASE);
	return make_block(93);
}

/* Nobody can ask for the result of a detached thread; but it stays in the descriptor. */
static APART void lose_detached_result(void)
{
	static pid_t tid;
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_create(&t, &attr, thread_tells_and_returns, &tid);
	pthread_attr_destroy(&attr);
	while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE) == 0 ||
	       tgkill(getpid(), tid, 0) == 0)
		sched_yield();
}

/* As well when it has been detached later. */
static APART void lose_late_detached_result(void)
{
	static pid_t tid;
	pthread_t t;

	pthread_create(&t, NULL, thread_tells_and_returns, &tid);
	while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE) == 0 ||
	       tgkill(getpid(), tid, 0) == 0)
		sched_yield();
	pthread_detach(t);
}

static const struct {
	const char *name;
	void (*lose)(void);
} cases[] = {
	{ "direct", lose_direct },
	{ "indirect", lose_indirect },
	{ "chain", lose_chain },
	{ "cycle", lose_cycle },
	{ "cycle-tail", lose_cycle_with_tail },
	{ "self", lose_self },
	{ "thread", lose_in_thread },
	{ "result", lose_result },
	{ "detached-result", lose_detached_result },
	{ "late-detached-result", lose_late_detached_result },
	{ "small", lose_small },
	{ "large", lose_large },
	{ "realloc", lose_realloc },
	{ "realloc-in-place", lose_realloc_in_place },
	{ "calloc", lose_calloc },
	{ "aligned", lose_aligned },
	{ "strdup", lose_strdup },
	{ "empty", lose_empty },
	{ "behind-freed", lose_behind_freed },
	{ "behind-freed-large", lose_behind_freed_large },
	{ "large-holder", lose_large_holder },
	{ "shared", lose_shared },
	{ "and-keep", lose_and_keep },
	{ "behind-tail", lose_behind_tail },
	{ "behind-buffer", lose_behind_buffer },
	{ "behind-shrunk", lose_behind_shrunk },
	{ "behind-large-tail", lose_behind_large_tail },
	{ "quick-handler", lose_in_quick_handler },
	{ "waiting-thread", lose_in_waiting_thread },
	{ "at-once", lose_at_once },
	{ "two-exits", lose_in_two_exits },
	{ "before-main", nothing },
	{ "stream-held", lose_while_stream_is_held },
	{ "late-exit", lose_before_late_exit },
	{ "main-gone", lose_with_main },
	{ "left-at-flush", lose_and_leave_at_flush },
};

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (strcmp(name, "child") == 0)
		return lose_in_child();
	if (strcmp(name, "closed-plugin") == 0)
		return lose_in_closed_plugin(argv[2]);
	if (strcmp(name, "below-signal") == 0)
		return lose_below_signal();
	if (strcmp(name, "keep-below-signal") == 0)
		return keep_below_signal();
	if (strcmp(name, "main-frame") == 0)
		return lose_in_main_frame();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(name, cases[i].name) == 0) {
			cases[i].lose();
			scrub();
			return 0;
		}
	fprintf(stderr, "lost: no case %s\n", name);
	return 97;
}
