/* SPDX-License-Identifier: Apache-2.0 */
/* malloc on stacks and in frames that are not what one expects: the smallest thread
 * stacks, coroutines, signal stacks, frame pointers with anything in them, deep
 * recursion, and threads that are cancelled. */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "cases.h"

static void use_all(void)
{
	void *p = malloc(24), *q = calloc(3, 100);

	p = realloc(p, 300);
	free(q);
	q = memalign(256, 50);
	free(p);
	p = malloc(100000);
	p = realloc(p, 300000);
	free(p);
	free(q);
}

static void *use_all_thread(void *arg)
{
	use_all();
	return arg;
}

/* Bytes at the low end of a stack that were never written. */
static size_t untouched(const char *stack, size_t size)
{
	size_t n = 0;

	while (n < size && stack[n] == 0x5a)
		n++;
	return n;
}

/* 16 KiB is the least that there is; libc takes its share of it. */
static int test_small(void)
{
	size_t size = 16384;
	char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attr;
	pthread_t t;
	void *ret = NULL;

	memset(stack, 0x5a, size);
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, stack, size);
	if (pthread_create(&t, &attr, use_all_thread, stack) != 0)
		return 0;
	pthread_join(t, &ret);
	printf("of %zu bytes never used: %zu\n", size, untouched(stack, size));
	return ret == stack && HOLDS(untouched(stack, size) > 2048);
}

#define COROUTINES 8
#define CO_STACK   8192

static struct {
	ucontext_t main, co[COROUTINES];
	char *stack[COROUTINES];
	void *held[COROUTINES];
	int done;
} ring;

/* Blocks are freed by another coroutine than the one that made them. */
static void coroutine(int self)
{
	int after = (self + 1) % COROUTINES;

	for (int i = 0; i < 200; i++) {
		free(ring.held[after]);
		ring.held[after] = malloc((size_t)i * 7);
		use_all();
		swapcontext(&ring.co[self], &ring.co[after]);
	}
	ring.done++;
	swapcontext(&ring.co[self],
		    ring.done == COROUTINES ? &ring.main : &ring.co[after]);
}

static int test_coroutines(void)
{
	size_t least = CO_STACK;

	for (int i = 0; i < COROUTINES; i++) {
		ring.stack[i] = mmap(NULL, CO_STACK, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memset(ring.stack[i], 0x5a, CO_STACK);
		getcontext(&ring.co[i]);
		ring.co[i].uc_stack.ss_sp = ring.stack[i];
		ring.co[i].uc_stack.ss_size = CO_STACK;
		makecontext(&ring.co[i], (void (*)(void))coroutine, 1, i);
	}
	swapcontext(&ring.main, &ring.co[0]);
	for (int i = 0; i < COROUTINES; i++) {
		size_t n = untouched(ring.stack[i], CO_STACK);

		least = n < least ? n : least;
		free(ring.held[i]);
	}
	printf("of %d bytes never used: %zu\n", CO_STACK, least);
	return HOLDS(ring.done == COROUTINES) && HOLDS(least > 1024);
}

static volatile int on_stack;

static void on_signal(int sig)
{
	(void)sig;
	use_all();
	on_stack++;
}

static int test_signal_stack(void)
{
	char *stack = malloc(16384);
	stack_t ss = { .ss_sp = stack, .ss_size = 16384 };
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };

	sigaltstack(&ss, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	for (int i = 0; i < 50; i++) {
		raise(SIGUSR1); /* outside malloc */
		use_all();
	}
	return on_stack == 50;
}

/* call_with_rbp(fn, size, rbp): calls fn(size) with rbp as it is told. */
void *call_with_rbp(void *(*fn)(size_t), size_t size, uintptr_t rbp);
__asm__(".text\n.globl call_with_rbp\n.type call_with_rbp, @function\n"
	"call_with_rbp:\n"
	"	push %rbp\n	push %rbx\n	push %r12\n"
	"	mov %rdi, %rax\n	mov %rsi, %rdi\n	mov %rdx, %rbp\n"
	"	mov %rdx, %rbx\n	mov %rdx, %r12\n"
	"	call *%rax\n"
	"	pop %r12\n	pop %rbx\n	pop %rbp\n	ret\n"
	".size call_with_rbp, .-call_with_rbp\n");

static int test_frame_pointer(void)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	uintptr_t loop[2], chain[4];
	const uintptr_t values[] = { 0,
				     1,
				     7,
				     0xdeadbeef,
				     (uintptr_t)1 << 63,
				     0x0000800000000000,
				     UINTPTR_MAX,
				     UINTPTR_MAX - 7,
				     (uintptr_t)page,
				     (uintptr_t)page + 4088,
				     (uintptr_t)page + 8184,
				     (uintptr_t)loop,
				     (uintptr_t)chain,
				     (uintptr_t)chain + 3,
				     (uintptr_t)&loop + 100000,
				     (uintptr_t)use_all };

	mprotect(page + 4096, 4096, PROT_NONE);
	loop[0] = (uintptr_t)loop; /* a frame that is its own caller */
	loop[1] = (uintptr_t)use_all;
	chain[0] = (uintptr_t)&chain[2];
	chain[1] = 0x1234;
	chain[2] = (uintptr_t)chain; /* backwards */
	chain[3] = (uintptr_t)malloc;
	for (int round = 0; round < 200; round++)
		for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
			void *p = call_with_rbp(malloc, 1000, values[i]);

			if (!HOLDS(p != NULL))
				return 0;
			free(p);
			free(call_with_rbp(malloc, 1 << 20, values[i]));
		}
	return 1;
}

static void *recurse(int depth)
{
	void *p = malloc(64), *q;

	q = depth > 0 ? recurse(depth - 1) : NULL;
	free(q);
	return p;
}

static int test_deep(void)
{
	free(recurse(40000));
	return 1;
}

static volatile int reached, after_cancel;

/* No function of the malloc family may be a cancellation point. */
static void *cancelled(void *arg)
{
	pthread_cancel(pthread_self());
	for (int i = 0; i < 200; i++) {
		use_all();
		free(malloc((size_t)i * 5000));
	}
	malloc_trim(0);
	malloc_stats();
	(void)mallinfo2();
	reached = 1;
	pthread_testcancel();
	after_cancel = 1;
	return arg;
}

static void clean_up(void *p)
{
	free(p);
}

static void *waits(void *arg)
{
	void *p = malloc(5000);

	pthread_cleanup_push(clean_up, p);
	for (;;)
		pause();
	pthread_cleanup_pop(1);
	return arg;
}

static int test_cancel(void)
{
	pthread_t t;
	void *ret;

	pthread_create(&t, NULL, cancelled, NULL);
	pthread_join(t, &ret);
	if (!HOLDS(ret == PTHREAD_CANCELED && reached && !after_cancel))
		return 0;
	for (int i = 0; i < 300; i++) {
		pthread_create(&t, NULL, waits, NULL);
		pthread_cancel(t);
		pthread_join(t, &ret);
		if (!HOLDS(ret == PTHREAD_CANCELED))
			return 0;
	}
	return 1;
}

static const struct test_case cases[] = {
	{ "small_stack", test_small },	       { "coroutines", test_coroutines },
	{ "signal_stack", test_signal_stack }, { "frame_pointer", test_frame_pointer },
	{ "deep_recursion", test_deep },       { "cancel", test_cancel },
};

int main(int argc, char **argv)
{
	return run_case(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
