/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live: a program whose leaks are looked for while it runs. Obeys lines of standard
 * input, each answered by a line with a number.
 *
 *   lose N         N objects, lost          list N    a list of N, lost as a whole
 *   grow N         N more on a kept list    hide N    N whose pointers are kept disguised
 *   turn           the pointers of the hidden ones are plain, or disguised again
 *   tables N       keeps N, 1 to N KiB large, that hold an object each; spill N: loses
 * such show           frees the hidden ones    inner N   N with pointers to their middle
 *                                              behind N  such with two others behind
 *   plugin PATH    opened, loses, closed    sleepers N  threads that wait for ever
 *   sites N        loses N objects from N places; keeps N: keeps them, larger ones
 *   user ID        becomes that user
 *   dontfork, wipe the only pointer is in memory that fork does not copy
 *   close, open    the only pointer is in memory that is closed (PROT_NONE), and opened
 *   supply         pages of a mapping would come from it (userfaultfd); or errno
 *   exec           becomes another program, which answers "here"
 *   fork           answers with the number of a child that obeys from now on; the parent
 *                  ends as it does
 *   children       SIGCHLDs, and children that waitpid() has shown, so far
 *   pipes N        N times: does the end of a pipe come when its writer closes it?
 *   filter WHAT    refuses the calls: "clone" (of processes), "ptrace",
 *                  "munmap", "socket", "exit_group", "exit", "mmap", "wait4"
 *   agent NAME     its main thread is called so
 *   move N         N threads move the only pointers to objects around; stay: they stop,
 *                  and answers how many objects were found damaged
 *   renew N        the same for N threads whose objects have a new holder all the time,
 * and are replaced by copies of themselves large N        the same for N threads with
 * large objects that grow, and that only the allocator knows while it is at work
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define DISGUISE 0x5555555555555555u
#define MANY	 1000
#define TABLES	 64
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

struct node {
	struct node *next;
	char rest[40];
};

static struct node *kept;
static uintptr_t hidden[MANY];
static char *volatile inside[MANY];
static void *volatile held[MANY];
static int nhidden, ninside;
static uintptr_t *volatile tables[TABLES];
static int ntables;
static volatile int sigchlds, strangers;

static void *fresh(size_t size)
{
	void *p = calloc(1, size);

	__asm__ volatile("" : "+r"(p) : : "memory");
	return p;
}

/* What was on the stack below is no more. */
NOINLINE static void scrub(void)
{
	volatile char room[8192];

	for (size_t i = 0; i < sizeof(room); i++)
		room[i] = 0;
}

NOINLINE static void lose(long n)
{
	while (n-- > 0)
		fresh(48);
}

NOINLINE static void lose_list(long n)
{
	struct node *list = NULL;

	while (n-- > 0) {
		struct node *one = fresh(sizeof(*one));

		one->next = list;
		list = one;
		__asm__ volatile("" : : "r"(list) : "memory");
	}
}

NOINLINE static void grow(long n)
{
	while (n-- > 0) {
		struct node *one = fresh(sizeof(*one));

		one->next = kept;
		kept = one;
	}
}

NOINLINE static void keep_tables(long n)
{
	for (long i = 0; i < n && ntables < TABLES; i++) {
		uintptr_t *table = fresh((size_t)(i + 1) * 1024);

		table[i] = (uintptr_t)fresh(64);
		tables[ntables++] = table;
	}
}

NOINLINE static void lose_tables(long n)
{
	for (long i = 0; i < n; i++)
		fresh((size_t)(i + 1) * 1024);
}

NOINLINE static void hide(long n)
{
	while (n-- > 0 && nhidden < MANY)
		hidden[nhidden++] = (uintptr_t)fresh(64) ^ DISGUISE;
}

static void turn(void)
{
	for (size_t i = 0; i < nhidden; i++)
		hidden[i] ^= DISGUISE;
}

static void show(void)
{
	while (nhidden > 0)
		free((void *)(hidden[--nhidden] ^ DISGUISE));
}

NOINLINE static void keep_inner(long n)
{
	while (n-- > 0 && ninside < MANY)
		inside[ninside++] = (char *)fresh(64) + 24;
}

/* Whose own ones lead to more. */
NOINLINE static void keep_behind(long n)
{
	while (n-- > 0 && ninside < MANY) {
		char **p = fresh(96);

		p[0] = fresh(64);
		p[1] = (char *)fresh(64) + 24;
		inside[ninside++] = (char *)p + 24;
	}
}

/* A stack of its own for every n: the bits choose the calls. */
NOINLINE static void *at_site(unsigned n, int depth, size_t size);
NOINLINE static void *left(unsigned n, int depth, size_t size)
{
	void *p = at_site(n, depth, size);

	__asm__ volatile("" : "+r"(p));
	return p;
}
NOINLINE static void *right(unsigned n, int depth, size_t size)
{
	void *p = at_site(n, depth, size);

	__asm__ volatile("" : "+r"(p));
	return p;
}
NOINLINE static void *at_site(unsigned n, int depth, size_t size)
{
	void *p;

	if (depth == 0)
		p = fresh(size);
	else if (n & 1)
		p = left(n >> 1, depth - 1, size);
	else
		p = right(n >> 1, depth - 1, size);
	__asm__ volatile("" : "+r"(p));
	return p;
}

static void at_sites(long n)
{
	for (long i = 0; i < n; i++)
		at_site((unsigned)i, 15, 32);
}

static void keep_at_sites(long n)
{
	for (long i = 0; i < n && i < MANY; i++)
		held[i] = at_site((unsigned)i, 15, 320);
}

static int keep_apart(int advice)
{
	void **page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED || madvise(page, 4096, advice) != 0)
		return errno;
	page[7] = fresh(96);
	return 0;
}

static int set_rights(int rights)
{
	static void **page;

	if (!page) {
		page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (page == MAP_FAILED)
			return errno;
		page[7] = fresh(96);
	}
	return mprotect(page, 4096, rights) ? errno : 0;
}

static int supply(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register all = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = (int)syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY);
	void *pages = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	all.range.start = (uintptr_t)pages;
	all.range.len = 1 << 16;
	return fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0 ||
			       ioctl(fd, UFFDIO_REGISTER, &all) != 0
		       ? errno
		       : 0;
}

static int use_plugin(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW);
	void (*fn)(void);

	*(void **)&fn = handle ? dlsym(handle, "plugin_loses") : NULL;
	if (!fn)
		return 1;
	fn();
	return dlclose(handle);
}

/* ---- what the program must not notice ---- */

static void on_chld(int sig)
{
	(void)sig;
	sigchlds++;
}

static void *wait_for_children(void *arg)
{
	for (;;) {
		if (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD)
			strangers++;
		usleep(100);
	}
	return arg;
}

static int try_pipes(long n)
{
	for (; n > 0; n--) {
		int fds[2];
		char c;

		if (pipe(fds) != 0)
			return errno;
		close(fds[1]);
		if (read(fds[0], &c, 1) != 0)
			return 1;
		close(fds[0]);
	}
	return 0;
}

static int filter(const char *what)
{
	/* Of clone only what makes no thread (CLONE_THREAD, bit 16). */
	const unsigned call = strcmp(what, "ptrace") == 0	? SYS_ptrace
			      : strcmp(what, "munmap") == 0	? SYS_munmap
			      : strcmp(what, "socket") == 0	? SYS_socket
			      : strcmp(what, "exit_group") == 0 ? SYS_exit_group
			      : strcmp(what, "exit") == 0	? SYS_exit
			      : strcmp(what, "mmap") == 0	? SYS_mmap
			      : strcmp(what, "wait4") == 0	? SYS_wait4
								: SYS_clone;
	const unsigned mask = call == SYS_clone ? 0x10000 : 0;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, args[0])),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
		       &program) != 0;
}

static void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static int start(long n, void *(*fn)(void *), pthread_t *out)
{
	for (long i = 0; i < n; i++) {
		pthread_t t;

		if (pthread_create(&t, NULL, fn, NULL) != 0)
			return 1;
		if (out)
			out[i] = t;
	}
	return 0;
}

/* ---- pointers on the move ---- */

#define MOVERS 64
#define SPIN   2000
#define MARK   0x6d6f766564000000u

struct cell {
	uintptr_t *object;
};

static uintptr_t *global_slots[MOVERS];
static pthread_t movers[MOVERS];
static long nmovers;
static volatile int stop_moving;
static volatile int next_mover;
static volatile int damaged;

/* Holds p in a register and nowhere else for a while. */
static inline __attribute__((always_inline)) uintptr_t *in_general(uintptr_t *p)
{
	register uintptr_t *r __asm__("r14") = p;
	long n = SPIN, call = SYS_sched_yield;

	__asm__ volatile("1: dec %1\n\t"
			 "jnz 1b\n\t"
			 "syscall"
			 : "+r"(r), "+r"(n), "+a"(call)
			 :
			 : "rcx", "r11", "cc", "memory");
	return r;
}

static inline __attribute__((always_inline)) uintptr_t *in_vector(uintptr_t *p)
{
	long n = SPIN;

	__asm__ volatile("movq %0, %%xmm13\n\t"
			 "xor %0, %0\n\t"
			 "1: dec %1\n\t"
			 "jnz 1b\n\t"
			 "movq %%xmm13, %0\n\t"
			 "pxor %%xmm13, %%xmm13"
			 : "+r"(p), "+r"(n)
			 :
			 : "cc", "memory", "xmm13");
	return p;
}

static uintptr_t *take(uintptr_t *volatile *from)
{
	uintptr_t *p = *from;

	*from = NULL;
	return p;
}

/* No copy of a pointer stays in a register that some call would save on the stack, nor on
 * the stack below. */
#define FORGET()                                                             \
	do {                                                                 \
		__asm__ volatile("xor %%ebx, %%ebx\n\t"                      \
				 "xor %%r12d, %%r12d\n\t"                    \
				 "xor %%r13d, %%r13d\n\t"                    \
				 "xor %%r14d, %%r14d\n\t"                    \
				 "xor %%r15d, %%r15d"                        \
				 :                                           \
				 :                                           \
				 : "rbx", "r12", "r13", "r14", "r15", "cc"); \
		scrub();                                                     \
	} while (0)

static void *move(void *arg)
{
	const int me = __atomic_fetch_add(&next_mover, 1, __ATOMIC_SEQ_CST);
	struct cell *volatile cell = calloc(1, sizeof(struct cell));
	uintptr_t *volatile local = NULL;
	uintptr_t rounds = 0;

	global_slots[me] = malloc(64);
	global_slots[me][0] = MARK;
	while (!stop_moving) {
		uintptr_t *p = take(&global_slots[me]);

		p = in_general(p);
		local = p;
		p = NULL;
		p = in_vector(take(&local));
		cell->object = p;
		p = NULL;
		FORGET();
		free(malloc(16 + rounds % 500));
		FORGET();
		p = in_general(take(&cell->object));
		if (p[0] != MARK)
			damaged++;
		if (++rounds % 64 == 0) { /* a new object in its place */
			uintptr_t *fresh_one = malloc(64);

			fresh_one[0] = MARK;
			free(p);
			p = fresh_one;
		}
		global_slots[me] = p;
		p = NULL;
		FORGET();
	}
	free(global_slots[me]);
	global_slots[me] = NULL;
	free(cell);
	return arg;
}

#define HELD  50
#define TABLE 100000 /* words: its inner pages */

struct holder {
	uintptr_t *object;
	struct holder *next;
	char rest[200];
};

static struct holder *append(struct holder *list, struct holder *h)
{
	struct holder **end = &list;

	while (*end)
		end = &(*end)->next;
	h->next = NULL;
	*end = h;
	return list;
}

static void *renew(void *arg)
{
	unsigned random = (unsigned)__atomic_fetch_add(&next_mover, 1, __ATOMIC_SEQ_CST);
	struct holder **volatile table = calloc(TABLE, sizeof(*table));
	struct holder *volatile list = NULL;
	unsigned at = 0;

	for (int i = 0; i < HELD; i++) {
		struct holder *h = malloc(sizeof(*h));

		h->object = calloc(1, 56);
		h->object[1] = MARK;
		list = append(list, h);
	}
	while (!stop_moving) {
		struct holder *h = list;
		uintptr_t *p = take(&h->object), *copy;

		table[at] = NULL;
		list = h->next;
		random = random * 1664525 + 1013904223;
		switch (random >> 29) {
		case 0:
		case 1:
			copy = malloc(56);
			memcpy(copy, p, 56);
			free(p);
			p = copy;
			break;
		case 2:
		case 3:
			h = realloc(h, sizeof(*h) + (random >> 20 & 127) * 64);
			break;
		default:
			free(h);
			h = malloc(sizeof(*h));
		}
		damaged += p[1] != MARK;
		h->object = p;
		p = NULL;
		at = random % TABLE;
		table[at] = append(list, h);
		h = NULL;
		list = NULL;
		FORGET();
		list = table[at];
	}
	free(table);
	for (struct holder *h = list, *next; h; h = next) {
		next = h->next;
		free(h->object);
		free(h);
	}
	return arg;
}

static void *move_large(void *arg)
{
	for (size_t size = 300000; !stop_moving; size = 300000 + size % 70001) {
		char *volatile p = malloc(size);

		p[0] = 1;
		p = realloc(p, 2 * size);
		if (p[0] != 1)
			damaged++;
		free(take((uintptr_t *volatile *)&p));
		FORGET();
	}
	return arg;
}

static int stay(void)
{
	stop_moving = 1;
	for (long i = 0; i < nmovers; i++)
		pthread_join(movers[i], NULL);
	nmovers = 0;
	return damaged;
}

static int hand_over(void)
{
	pid_t pid = fork();
	int status = 1;

	if (pid > 0) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
		}
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	return pid < 0 ? -1 : (int)getpid();
}

/* ---- */

static int obey(const char *word, long n, const char *text)
{
	if (strcmp(word, "fork") == 0)
		return hand_over();
	if (strcmp(word, "lose") == 0)
		lose(n);
	else if (strcmp(word, "list") == 0)
		lose_list(n);
	else if (strcmp(word, "grow") == 0)
		grow(n);
	else if (strcmp(word, "tables") == 0)
		keep_tables(n);
	else if (strcmp(word, "spill") == 0)
		lose_tables(n);
	else if (strcmp(word, "hide") == 0)
		hide(n);
	else if (strcmp(word, "turn") == 0)
		turn();
	else if (strcmp(word, "show") == 0)
		show();
	else if (strcmp(word, "inner") == 0)
		keep_inner(n);
	else if (strcmp(word, "behind") == 0)
		keep_behind(n);
	else if (strcmp(word, "sites") == 0)
		at_sites(n);
	else if (strcmp(word, "keeps") == 0)
		keep_at_sites(n);
	else if (strcmp(word, "user") == 0)
		return setgid((gid_t)n) == 0 && setuid((uid_t)n) == 0 ? 0 : errno;
	else if (strcmp(word, "dontfork") == 0)
		return keep_apart(MADV_DONTFORK);
	else if (strcmp(word, "wipe") == 0)
		return keep_apart(MADV_WIPEONFORK);
	else if (strcmp(word, "close") == 0)
		return set_rights(PROT_NONE);
	else if (strcmp(word, "open") == 0)
		return set_rights(PROT_READ | PROT_WRITE);
	else if (strcmp(word, "supply") == 0)
		return supply();
	else if (strcmp(word, "exec") == 0)
		return execlp("echo", "echo", "here", (char *)NULL);
	else if (strcmp(word, "plugin") == 0)
		return use_plugin(text);
	else if (strcmp(word, "sleepers") == 0)
		return start(n, sleep_for_ever, NULL);
	else if (strcmp(word, "watch") == 0)
		return signal(SIGCHLD, on_chld) == SIG_ERR ||
		       start(1, wait_for_children, NULL);
	else if (strcmp(word, "children") == 0)
		return sigchlds + strangers;
	else if (strcmp(word, "pipes") == 0)
		return try_pipes(n);
	else if (strcmp(word, "agent") == 0)
		return prctl(PR_SET_NAME, text, 0, 0, 0);
	else if (strcmp(word, "filter") == 0)
		return filter(text);
	else if (strcmp(word, "renew") == 0)
		return nmovers = n, start(n, renew, movers);
	else if (strcmp(word, "large") == 0)
		return nmovers = n, start(n, move_large, movers);
	else if (strcmp(word, "move") == 0)
		return nmovers = n, start(n, move, movers);
	else if (strcmp(word, "stay") == 0)
		return stay();
	else
		return 99;
	return 0;
}

int main(void)
{
	char line[600], word[32], text[500], answer[32];

	for (;;) {
		size_t used = 0;
		long n = 0;
		ssize_t got;

		while (used < sizeof(line) - 1 && (got = read(0, line + used, 1)) == 1 &&
		       line[used] != '\n')
			used++;
		if (got < 0)
			return 77; /* EINTR */
		if (got == 0)
			return 0;
		line[used] = text[0] = '\0';
		if (sscanf(line, "%31s %ld", word, &n) < 2)
			sscanf(line, "%31s %499[^\n]", word, text);
		snprintf(answer, sizeof(answer), "%d\n", obey(word, n, text));
		scrub();
		if (write(1, answer, strlen(answer)) < 0)
			return 1;
	}
}
