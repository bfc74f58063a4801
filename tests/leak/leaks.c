/* SPDX-License-Identifier: Apache-2.0 */
/* Known leaks and known non-leaks in C, by name. Pointers are lost in functions that are
 * not inlined; then stack and registers are scrubbed. */
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

struct node {
	struct node *volatile next;
	char rest[40];
};

void *volatile sink;
__thread void *volatile tls_slot;
void *volatile bss_slot;

NOINLINE static void scrub(void)
{
	volatile char buf[16384];

	memset((char *)buf, 0, sizeof(buf));
	__asm__ volatile(
		"xor %%ebx, %%ebx\n\txor %%r12d, %%r12d\n\txor %%r13d, %%r13d\n\t"
		"xor %%r14d, %%r14d\n\txor %%r15d, %%r15d"
		:
		:
		: "rbx", "r12", "r13", "r14", "r15");
}

NOINLINE static void lose(size_t size)
{
	sink = malloc(size);
	sink = NULL;
}

static void direct(void)
{
	lose(100);
}

static void large(void)
{
	lose(1 << 20);
}

static void thousand(void)
{
	for (int i = 0; i < 1000; i++)
		lose(16);
}

NOINLINE static struct node *chain(int n)
{
	struct node *head = NULL;

	for (int i = 0; i < n; i++) {
		struct node *x = malloc(sizeof(*x));

		x->next = head;
		head = x;
	}
	return head;
}

NOINLINE static void lose_chain(int n)
{
	sink = chain(n);
	sink = NULL;
}

static void indirect(void)
{
	lose_chain(10);
}

NOINLINE static void make_cycle(void)
{
	struct node *a = chain(3);

	a->next->next->next = a;
	sink = a;
	sink = NULL;
}

static void cyclic(void)
{
	make_cycle();
}

NOINLINE static void make_self(void)
{
	struct node *a = malloc(sizeof(*a));

	a->next = a;
	sink = a;
	sink = NULL;
}

static void self(void)
{
	make_self();
}

static void *lose_in_thread(void *arg)
{
	(void)arg;
	lose(333);
	scrub();
	return NULL;
}

static void thread(void)
{
	pthread_t t;

	pthread_create(&t, NULL, lose_in_thread, NULL);
	pthread_join(t, NULL);
}

NOINLINE static void lose_grown(void)
{
	char *p = malloc(10);

	p = realloc(p, 5000);
	sink = realloc(p, 70000);
	sink = NULL;
}

static void grown(void)
{
	lose_grown();
}

NOINLINE static void lose_others(void)
{
	void *p = NULL;

	sink = calloc(3, 11);
	sink = memalign(64, 100);
	if (posix_memalign(&p, 4096, 10) == 0)
		sink = p;
	p = NULL;
	sink = NULL;
}

static void others(void)
{
	lose_others();
}

static void forked(void)
{
	pid_t pid;

	bss_slot = malloc(50);
	pid = fork();
	if (pid == 0) {
		bss_slot = NULL; /* inherited: the parent's business */
		lose(60);
		scrub();
		exit(0);
	}
	waitpid(pid, NULL, 0);
}

/* ---- none of these is a leak ---- */

static void in_tls(void)
{
	tls_slot = chain(5);
}

static void interior(void)
{
	bss_slot = (char *)malloc(1000) + 500;
}

static void last_byte(void)
{
	bss_slot = (char *)malloc(100000) + 99999;
}

static void tsd_low(void)
{
	pthread_key_t key;

	pthread_key_create(&key, NULL);
	pthread_setspecific(key, chain(5));
}

static void tsd_high(void)
{
	pthread_key_t key = 0;

	for (int i = 0; i < 100; i++)
		pthread_key_create(&key, NULL);
	pthread_setspecific(key, chain(5));
}

static void in_mapping(void)
{
	void **page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	page[7] = chain(5);
}

static void in_shared_mapping(void)
{
	void **page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			   -1, 0);

	page[7] = chain(5);
}

/* Pages that nobody will ever supply stand around the one with the pointer. Where there
 * is no userfaultfd, it is in_mapping(). */
static void supplied(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register area = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *pages = mmap(NULL, 65536, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	*(void **)(pages + 5 * 4096) = chain(5);
	area.range.start = (uintptr_t)pages;
	area.range.len = 65536;
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0)
		ioctl(fd, UFFDIO_REGISTER, &area);
}

static int ready[2];

static void *hold_on_stack(void *arg)
{
	void *volatile held = chain(5);

	(void)arg;
	if (write(ready[1], "x", 1) == 1)
		pause();
	return held;
}

static void start_holder(void *(*fn)(void *))
{
	pthread_t t;
	char c;

	if (pipe(ready) != 0)
		_exit(9);
	pthread_create(&t, NULL, fn, NULL);
	if (read(ready[0], &c, 1) != 1)
		_exit(9);
}

static void other_stack(void)
{
	start_holder(hold_on_stack);
}

/* The only pointer is in r13 of a thread that blocks in a system call: it says that it is
 * ready and pauses, in one piece of assembly. */
static void *hold_in_register(void *arg)
{
	struct node *p = chain(5);

	(void)arg;
	__asm__ volatile("mov %0, %%r13\n\t"
			 "xor %0, %0\n\t"
			 "mov $1, %%eax\n\t" /* write(ready[1], "x", 1) */
			 "mov %1, %%edi\n\t"
			 "lea 1f(%%rip), %%rsi\n\t"
			 "mov $1, %%edx\n\t"
			 "syscall\n"
			 "2:\n\t"
			 "mov $34, %%eax\n\t" /* pause() */
			 "syscall\n\t"
			 "jmp 2b\n"
			 "1:\n\t"
			 ".byte 120"
			 : "+r"(p)
			 : "r"(ready[1])
			 : "rax", "rdi", "rsi", "rdx", "rcx", "r11", "r13", "memory");
	return NULL;
}

static void other_register(void)
{
	start_holder(hold_in_register);
}

static void in_library(void)
{
	void *handle = dlopen(getenv("VICTIM_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
	void **bss = handle ? dlsym(handle, "holder_bss") : NULL;
	void (*set_tls)(void *) =
		handle ? (void (*)(void *))dlsym(handle, "holder_set_tls") : NULL;

	if (!bss || !set_tls)
		_exit(9);
	*bss = chain(5);
	set_tls(chain(3));
}

static void on_alternate_stack(void)
{
	stack_t ss = { .ss_size = 65536 };
	void **top;

	ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaltstack(&ss, NULL);
	top = (void **)((char *)ss.ss_sp + ss.ss_size - 64);
	*top = chain(5);
}

static ucontext_t main_context, routine_context;

static void routine(void)
{
	void *volatile held = chain(5);

	swapcontext(&routine_context, &main_context);
	sink = held;
}

static void coroutine(void)
{
	getcontext(&routine_context);
	routine_context.uc_stack.ss_size = 65536;
	routine_context.uc_stack.ss_sp = mmap(NULL, 65536, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	makecontext(&routine_context, routine, 0);
	swapcontext(&main_context, &routine_context);
}

/* Pointers a little past the end, as scanners of text have them: of the last object, too,
 * before the heap must grow. */
static void past_end(void)
{
	static char *volatile start[512], *volatile past[512];
	const uintptr_t step = 1 << 20;

	for (int i = 0; i < 512; i++) {
		start[i] = malloc(130000);
		past[i] = start[i] + malloc_usable_size(start[i]);
		past[i] += 6;
		if ((uintptr_t)past[i] % step == 6)
			return;
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "direct", direct },
	{ "large", large },
	{ "thousand", thousand },
	{ "indirect", indirect },
	{ "cyclic", cyclic },
	{ "self", self },
	{ "thread", thread },
	{ "grown", grown },
	{ "others", others },
	{ "forked", forked },
	{ "in_tls", in_tls },
	{ "interior", interior },
	{ "last_byte", last_byte },
	{ "tsd_low", tsd_low },
	{ "tsd_high", tsd_high },
	{ "in_mapping", in_mapping },
	{ "in_shared_mapping", in_shared_mapping },
	{ "other_stack", other_stack },
	{ "other_register", other_register },
	{ "in_library", in_library },
	{ "on_alternate_stack", on_alternate_stack },
	{ "coroutine", coroutine },
	{ "past_end", past_end },
	{ "supplied", supplied },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			scrub();
			return 0;
		}
	return 2;
}
