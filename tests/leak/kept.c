/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept: programs that lose nothing, but keep the only pointer to a block in a place that
 * is easy to overlook, one a case; run by run_leak.py, which expects a clean verdict.
 *
 * Every case ends while the pointer is in its place. What other threads hold is ready
 * when they post `ready`; they then stay where they are until the process ends.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/leak/lose.h"

#define BLOCK	    112
#define MAP_BYTES   65536
#define MANY_KEYS   40
#define STACK_BYTES 65536

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static sem_t ready, never;
static const char *plugin_path;

/* The block holds a second one, so that being found is not enough: it must be scanned. */
static APART void *make_block(void)
{
	void **p = keep_alive(calloc(1, BLOCK));

	p[1] = keep_alive(calloc(1, BLOCK));
	return p;
}

/* Its address inverted: no reference. */
static APART uintptr_t make_hidden(void)
{
	return ~(uintptr_t)make_block();
}

static APART void *map_some(int flags)
{
	void *p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1,
		       0);

	if (p == MAP_FAILED)
		exit(99);
	return p;
}

static void start(void *(*routine)(void *))
{
	pthread_t t;

	if (pthread_create(&t, NULL, routine, NULL) != 0)
		exit(99);
	sem_wait(&ready);
}

static void stay(void)
{
	sem_post(&ready);
	for (;;)
		sem_wait(&never);
}

/* ---- data ---- */

static void *volatile in_bss;
static void *volatile in_data = &plugin_path;
static __thread void *volatile in_tls;

static APART void keep_bss(void)
{
	in_bss = make_block();
}

static APART void keep_data(void)
{
	in_data = make_block();
}

static APART void keep_tls(void)
{
	in_tls = make_block();
}

static APART void keep_interior(void)
{
	in_bss = (char *)make_block() + BLOCK - 1;
}

static APART void keep_tagged(void)
{
	in_bss = (char *)make_block() + 5;
}

/* In disguise: run with pointers=. */
static volatile uint64_t disguised[4];
static volatile char packed[64];

static APART void keep_high_tag(void)
{
	disguised[0] = (uint64_t)(uintptr_t)make_block() | 0xabcdull << 48;
}

static APART void keep_shifted(void)
{
	disguised[0] = (uint64_t)(uintptr_t)make_block() << 12 | 0x5a5;
}

static APART void keep_left(void)
{
	disguised[0] = (uint64_t)(uintptr_t)make_block() >> 3;
}

static APART void keep_xored(void)
{
	disguised[0] = (uint64_t)(uintptr_t)make_block() ^ 0x123456789abcdefull;
}

static APART void keep_low_half(void)
{
	disguised[0] = (uint64_t)(uintptr_t)make_block() << 32 | 77;
}

static APART void keep_packed(void)
{
	void *p = make_block();

	memcpy((char *)packed + 13, &p, sizeof(p));
}

static APART void keep_large_interior(void)
{
	char *p = keep_alive(calloc(1, 300000));

	*(void **)(p + 200000) = make_block();
	in_bss = p + 123457;
}

/* Only the address behind the last byte is kept; what lies there is another object. */
static APART void keep_end(size_t size)
{
	char *all[64];

	for (int i = 0; i < 64; i++)
		all[i] = keep_alive(calloc(1, size));
	for (int i = 0; i < 64; i++)
		if (i != 31)
			free(all[i]);
	in_bss = all[31] + size;
	for (int i = 0; i < 64; i++)
		all[i] = NULL;
}

static APART void keep_end_small(void)
{
	keep_end(64);
}

static APART void keep_end_large(void)
{
	keep_end(65536);
}

static APART void keep_end_aligned(void)
{
	in_bss = (char *)keep_alive(aligned_alloc(128, 256)) + 256;
}

/* ---- a library opened at run time ---- */

static APART void *plugin_symbol(const char *name)
{
	void *lib = dlopen(plugin_path, RTLD_NOW);
	void *symbol = lib ? dlsym(lib, name) : NULL;

	if (!symbol)
		exit(99);
	return symbol;
}

static APART void keep_plugin_bss(void)
{
	void (*hold)(void *) =
		(void (*)(void *))(uintptr_t)plugin_symbol("plugin_hold_bss");

	hold(make_block());
}

static APART void keep_plugin_relro(void)
{
	void (*hold)(void *) =
		(void (*)(void *))(uintptr_t)plugin_symbol("plugin_hold_relro");

	hold(make_block());
}

static APART void keep_plugin_tls(void)
{
	void (*hold)(void *) =
		(void (*)(void *))(uintptr_t)plugin_symbol("plugin_hold_tls");

	hold(make_block());
}

static void *holds_plugin_tls(void *arg)
{
	keep_plugin_tls();
	scrub();
	stay();
	return arg;
}

static APART void keep_thread_plugin_tls(void)
{
	start(holds_plugin_tls);
}

/* ---- thread-specific data ---- */

static APART void set_key(int nth)
{
	pthread_key_t key = 0;

	for (int i = 0; i < nth; i++)
		if (pthread_key_create(&key, NULL) != 0)
			exit(99);
	pthread_setspecific(key, make_block());
}

static APART void keep_key(void)
{
	set_key(3);
}

static APART void keep_high_key(void)
{
	set_key(MANY_KEYS);
}

static void *holds_high_key(void *arg)
{
	set_key(MANY_KEYS);
	scrub();
	stay();
	return arg;
}

static APART void keep_thread_key(void)
{
	start(holds_high_key);
}

/* ---- other threads ---- */

static void *holds_on_stack(void *arg)
{
	void *volatile local[32];

	local[7] = make_block();
	scrub();
	stay();
	(void)local[7];
	return arg;
}

static APART void keep_thread_stack(void)
{
	start(holds_on_stack);
}

static void *exits_process(void *arg)
{
	pthread_join(*(pthread_t *)arg, NULL); /* the main thread is a zombie from here */
	exit(0);
}

/* The main thread ends first; its stack and TLS still hold. */
static APART void keep_main_gone(void)
{
	static pthread_t self, t;
	void **p = map_some(MAP_PRIVATE);

	p[9] = make_block();
	self = pthread_self();
	if (pthread_create(&t, NULL, exits_process, &self) != 0)
		exit(99);
	pthread_exit(NULL);
}

static pthread_t main_thread;

/* It is given a place in a frame of main's, where it finds the object: so deep that what
 * main's thread does to end does not reach there. */
static void *uses_main_frame(void *arg)
{
	void *volatile *frame = arg;

	pthread_join(main_thread, NULL);
	if (frame[3])
		exit(0);
	return arg;
}

static APART void keep_in_main_frame(void)
{
	void *volatile local[8192] = { 0 };
	pthread_t t;

	local[3] = make_block();
	main_thread = pthread_self();
	if (pthread_create(&t, NULL, uses_main_frame, (void *)local) != 0)
		exit(99);
	pthread_exit(NULL);
}

static pid_t finished_tid;

static void *returns_block(void *arg)
{
	(void)arg;
	finished_tid = (pid_t)syscall(SYS_gettid);
	sem_post(&ready);
	return make_block();
}

/* The value that a finished thread returned and nobody has asked for yet. */
static APART void keep_unjoined_result(void)
{
	char path[64];

	start(returns_block);
	snprintf(path, sizeof(path), "/proc/self/task/%d", (int)finished_tid);
	while (access(path, F_OK) == 0) /* until the kernel has no such task any more */
		sched_yield();
}

/* ---- stacks of the program's own ---- */

static void on_alternate(int sig)
{
	void *volatile local[16];

	(void)sig;
	local[3] = make_block();
	scrub();
	if (local[3])
		exit(0);
}

/* The process ends inside a signal handler on an alternate stack. */
static APART void keep_sigaltstack(void)
{
	stack_t ss = { .ss_sp = map_some(MAP_PRIVATE), .ss_size = MAP_BYTES };
	struct sigaction act = { .sa_handler = on_alternate, .sa_flags = SA_ONSTACK };

	sigaltstack(&ss, NULL);
	sigaction(SIGUSR1, &act, NULL);
	raise(SIGUSR1);
}

static APART void give_signal_stack(void)
{
	stack_t ss = { .ss_sp = make_block(), .ss_size = MAP_BYTES };

	ss.ss_sp = realloc(ss.ss_sp, MAP_BYTES);
	sigaltstack(&ss, NULL);
}

/* Only the kernel knows where it is. */
static APART void keep_signal_stack(void)
{
	give_signal_stack();
	scrub();
}

static void *has_signal_stack(void *arg)
{
	give_signal_stack();
	scrub();
	__atomic_store_n((int *)arg, 1, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

static APART void keep_thread_signal_stack(void)
{
	static int ready;
	pthread_t t;

	pthread_create(&t, NULL, has_signal_stack, &ready);
	while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
		sched_yield();
	scrub();
}

static int begun;

static void *forgets_argument(void *arg)
{
	(void)arg;
	scrub();
	__atomic_store_n(&begun, 1, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

/* Given to a thread that runs, which does not use it: libc's descriptor has it. */
static APART void keep_argument(void)
{
	pthread_t t;

	pthread_create(&t, NULL, forgets_argument, make_block());
	while (!__atomic_load_n(&begun, __ATOMIC_ACQUIRE))
		sched_yield();
	scrub();
}

static ucontext_t main_context, coroutine;

static void coroutine_main(void)
{
	void *volatile local[16];

	local[3] = make_block();
	scrub();
	swapcontext(&coroutine, &main_context);
	(void)local[3];
}

static APART void run_coroutine(void *stack)
{
	getcontext(&coroutine);
	coroutine.uc_stack.ss_sp = stack;
	coroutine.uc_stack.ss_size = STACK_BYTES;
	coroutine.uc_link = &main_context;
	makecontext(&coroutine, coroutine_main, 0);
	swapcontext(&main_context, &coroutine);
}

static APART void keep_coroutine_mmap(void)
{
	run_coroutine(map_some(MAP_PRIVATE));
}

static APART void keep_coroutine_heap(void)
{
	run_coroutine(calloc(1, STACK_BYTES));
}

/* exit() is called on the coroutine; main's own stack holds the pointer. */
static void coroutine_exits(void)
{
	exit(0);
}

static APART void keep_exit_on_coroutine(void)
{
	void *volatile local[16];

	local[3] = make_block();
	getcontext(&coroutine);
	coroutine.uc_stack.ss_sp = map_some(MAP_PRIVATE);
	coroutine.uc_stack.ss_size = STACK_BYTES;
	makecontext(&coroutine, coroutine_exits, 0);
	swapcontext(&main_context, &coroutine);
	(void)local[3];
}

/* ---- the library's own ---- */

static APART void keep_libc(void)
{
	FILE *f = fopen("/dev/null", "r");

	setenv("SEEP_TEST_VARIABLE", "some value that needs memory", 1);
	if (!f || setvbuf(f, NULL, _IOFBF, 4096) != 0 || fgetc(f) != EOF)
		exit(99);
}

/* ---- a register of whoever called exit(), which it had to keep ---- */

static APART void keep_register_until(void (*end)(int))
{
	uintptr_t hidden = make_hidden();

	scrub();
	__asm__ volatile("mov %[p], %%r14\n\tnot %%r14\n\t"
			 "and $-16, %%rsp\n\txor %%edi, %%edi\n\tcall *%[exit]"
			 :
			 : [p] "b"(hidden), [exit] "a"(end)
			 : "r14", "rdi", "memory");
}

static void keep_exit_register(void)
{
	keep_register_until(exit);
}

static void keep_quick_exit_register(void)
{
	keep_register_until(quick_exit);
}

static void keep_at_once_register(void)
{
	keep_register_until(_exit);
}

/* ---- what lies above main()'s frame ---- */

static void keep_environment(void)
{
	char *value = make_block();

	memcpy(value, "A=b", 4);
	environ[0] = value;
}

/* ---- a check asked for, with the pointer in a register of the caller ---- */

static void keep_caller_register(void)
{
	uintptr_t hidden = make_hidden();
	int found;

	if (!__lsan_do_recoverable_leak_check)
		exit(99);
	scrub();
	__asm__ volatile("mov %[p], %%r15\n\tnot %%r15\n\t"
			 "mov %%rsp, %%rbx\n\tand $-16, %%rsp\n\t"
			 "xor %%ecx, %%ecx\n\txor %%edx, %%edx\n\txor %%esi, %%esi\n\t"
			 "call *%[check]\n\t"
			 "mov %%rbx, %%rsp\n\tnot %%r15\n\tmov %%r15, %[p]"
			 : "=a"(found), [p] "+D"(hidden)
			 : [check] "r"(__lsan_do_recoverable_leak_check)
			 : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r15",
			   "memory");
	in_bss = (void *)~hidden;
	if (found)
		exit(98);
}

static const struct {
	const char *name;
	void (*keep)(void);
} cases[] = {
	{ "bss", keep_bss },
	{ "data", keep_data },
	{ "tls", keep_tls },
	{ "interior", keep_interior },
	{ "tagged", keep_tagged },
	{ "high-tag", keep_high_tag },
	{ "shifted", keep_shifted },
	{ "left", keep_left },
	{ "xored", keep_xored },
	{ "low-half", keep_low_half },
	{ "packed", keep_packed },
	{ "large-interior", keep_large_interior },
	{ "end-small", keep_end_small },
	{ "end-large", keep_end_large },
	{ "end-aligned", keep_end_aligned },
	{ "plugin-bss", keep_plugin_bss },
	{ "plugin-relro", keep_plugin_relro },
	{ "plugin-tls", keep_plugin_tls },
	{ "thread-plugin-tls", keep_thread_plugin_tls },
	{ "key", keep_key },
	{ "high-key", keep_high_key },
	{ "thread-key", keep_thread_key },
	{ "thread-stack", keep_thread_stack },
	{ "main-gone", keep_main_gone },
	{ "main-gone-frame", keep_in_main_frame },
	{ "unjoined-result", keep_unjoined_result },
	{ "sigaltstack", keep_sigaltstack },
	{ "signal-stack", keep_signal_stack },
	{ "thread-signal-stack", keep_thread_signal_stack },
	{ "argument", keep_argument },
	{ "coroutine-mmap", keep_coroutine_mmap },
	{ "coroutine-heap", keep_coroutine_heap },
	{ "exit-on-coroutine", keep_exit_on_coroutine },
	{ "libc", keep_libc },
	{ "exit-register", keep_exit_register },
	{ "quick-exit-register", keep_quick_exit_register },
	{ "at-once-register", keep_at_once_register },
	{ "caller-register", keep_caller_register },
	{ "environment", keep_environment },
};

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	plugin_path = argc > 2 ? argv[2] : "";
	sem_init(&ready, 0, 0);
	sem_init(&never, 0, 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(name, cases[i].name) == 0) {
			cases[i].keep();
			scrub();
			return 0;
		}
	fprintf(stderr, "kept: no case %s\n", name);
	return 97;
}
