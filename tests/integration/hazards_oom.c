/* SPDX-License-Identifier: Apache-2.0 */
/* No memory: limits of address space and data, at start and later, all mappings used up,
 * a kernel that refuses. malloc says NULL and ENOMEM, what is there stays whole, and
 * after memory is freed the heap serves again. */
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

#define MB    ((size_t)1 << 20)
#define STAMP 128 /* bytes of each block that are written, and its last */

struct link {
	struct link *next;
	size_t size;
};

static void enter(struct link **list, struct link *p, size_t size)
{
	memset(p, (int)(size & 0x7f), size < STAMP ? size : STAMP);
	((char *)p)[size - 1] = (char)(size & 0x7f);
	p->next = *list;
	p->size = size;
	*list = p;
}

/* Blocks of one size until there are no more, each stamped; the bytes got. */
static size_t fill(struct link **list, size_t size)
{
	size_t got = 0;

	for (;;) {
		struct link *p;

		errno = 0;
		p = malloc(size);
		if (!p)
			return errno == ENOMEM ? got : 0;
		enter(list, p, size);
		got += size;
	}
}

static int is_whole(const struct link *p)
{
	const unsigned char *bytes = (const unsigned char *)p;
	size_t n = p->size < STAMP ? p->size : STAMP;

	for (size_t i = sizeof(*p); i < n; i++)
		if (bytes[i] != (p->size & 0x7f))
			return 0;
	return bytes[p->size - 1] == (p->size & 0x7f);
}

static int drop(struct link **list)
{
	int ok = 1;

	while (*list) {
		struct link *p = *list;

		*list = p->next;
		ok &= is_whole(p);
		free(p);
	}
	return ok;
}

/* One size until memory is out, all freed, then the next size. */
static int fill_all_sizes(size_t least)
{
	static const size_t sizes[] = { 64, 1000, 20000, 100000, 3000000, 64 };
	struct link *list = NULL;
	int ok = 1;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t got = fill(&list, sizes[i]);

		if (got < least)
			printf("%zu bytes of size %zu\n", got, sizes[i]);
		ok &= HOLDS(got >= least);
		ok &= HOLDS(drop(&list));
	}
	return ok;
}

static void limit(int resource, size_t bytes)
{
	struct rlimit lim;

	getrlimit(resource, &lim);
	lim.rlim_cur = bytes;
	if (setrlimit(resource, &lim) != 0)
		abort();
}

/* The limit was there at start: 160 MB. */
static int test_start(void)
{
	return fill_all_sizes(60 * MB);
}

/* A tight one: 64 MB. */
static int test_start_tight(void)
{
	return fill_all_sizes(20 * MB);
}

static void *nothing(void *arg)
{
	free(malloc(100));
	return arg;
}

/* A limit must leave the rest of the program what it has without us: the kernel counts
 * reserved address space too. */
static int has_eight_gib(void)
{
	static void *p[8192];
	int ok = 1;

	for (size_t i = 0; i < sizeof(p) / sizeof(p[0]); i++)
		ok &= (p[i] = malloc(1 << 20)) != NULL;
	for (size_t i = 0; i < sizeof(p) / sizeof(p[0]); i++)
		free(p[i]);
	return HOLDS(ok);
}

/* Root may raise the hard limit as well. */
static int test_raised(void)
{
	const struct rlimit low = { 64 * MB, 64 * MB },
			    none = { RLIM_INFINITY, RLIM_INFINITY };

	free(malloc(10));
	if (!HOLDS(setrlimit(RLIMIT_AS, &low) == 0))
		return 0;
	return setrlimit(RLIMIT_AS, &none) != 0 ? HOLDS(errno == EPERM) : has_eight_gib();
}

/* The limit of a child that shares our memory, and one that the kernel does not take. */
static int test_vforked(void)
{
	const struct rlimit low = { 64 * MB, RLIM_INFINITY }, odd = { 64 * MB, 1 };
	pid_t pid;

	free(malloc(10));
	pid = vfork();
	if (pid == 0) {
		setrlimit(RLIMIT_AS, &low);
		execl("/bin/true", "true", (char *)NULL);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	if (!HOLDS(setrlimit(RLIMIT_AS, &odd) == -1 && errno == EINVAL))
		return 0;
	return has_eight_gib();
}

static int test_later(void)
{
	pthread_t t;
	void *m, *h;
	int ok;

	free(malloc(10));
	limit(RLIMIT_AS, 200 * MB);
	ok = HOLDS(pthread_create(&t, NULL, nothing, NULL) == 0);
	if (ok)
		pthread_join(t, NULL);
	m = mmap(NULL, 60 * MB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ok &= HOLDS(m != MAP_FAILED);
	munmap(m, 60 * MB);
	h = dlopen("libm.so.6", RTLD_NOW);
	ok &= HOLDS(h != NULL);
	ok &= fill_all_sizes(40 * MB);
	limit(RLIMIT_AS, 350 * MB); /* raised: more is there */
	return ok & fill_all_sizes(120 * MB);
}

/* What a malloc that nearly takes all has not left for our tables. Small ones go on. */
static int test_nearly(void)
{
	size_t size = 400 * MB;
	char *p;

	limit(RLIMIT_DATA, size);
	while (!(p = malloc(size)) && size > MB) /* the first that the process makes */
		size -= 64 * 1024;
	if (!HOLDS(size > 300 * MB))
		return 0;
	p[size - 1] = 1;
	free(p);
	for (; size < 402 * MB; size += 64 * 1024) {
		free(malloc(size));
		p = malloc(4096);
		if (!HOLDS(p != NULL))
			return 0;
		memset(p, 1, 4096);
		free(p);
	}
	return 1;
}

static int test_data(void)
{
	free(malloc(10));
	limit(RLIMIT_DATA, 120 * MB);
	return fill_all_sizes(60 * MB);
}

static int test_realloc(void)
{
	struct link *list = NULL;
	char *p = malloc(20 * MB), *q = malloc(1000);
	void *unset = &unset;
	int ok;

	limit(RLIMIT_AS, 200 * MB);
	memset(p, 1, 20 * MB);
	memset(q, 2, 1000);
	ok = HOLDS(fill(&list, 100000) > 0 && fill(&list, 64) > 0);
	errno = 0;
	ok &= HOLDS(realloc(p, 190 * MB) == NULL && errno == ENOMEM);
	ok &= HOLDS(realloc(q, 20 * MB) == NULL && errno == ENOMEM);
	ok &= HOLDS(reallocarray(q, 30, MB) == NULL);
	ok &= HOLDS(calloc(30, MB) == NULL && memalign(64, 30 * MB) == NULL);
	errno = 0;
	ok &= HOLDS(posix_memalign(&unset, 64, 30 * MB) == ENOMEM && unset == &unset);
	ok &= HOLDS(errno == ENOMEM);
	ok &= HOLDS(p[0] == 1 && p[20 * MB - 1] == 1 && q[999] == 2);
	p = realloc(p, 100); /* smaller needs nothing */
	ok &= HOLDS(p && p[99] == 1);
	free(p);
	free(q);
	return ok & HOLDS(drop(&list));
}

static void *greedy(void *arg)
{
	size_t size = (size_t)(uintptr_t)arg;
	struct link *list = NULL;
	int ok = 1;

	for (int i = 0; i < 2; i++) {
		fill(&list, size);
		ok &= HOLDS(drop(&list));
	}
	return ok ? arg : NULL;
}

static int test_threads(void)
{
	pthread_attr_t attr; /* the limit of the stack's size may be anything */
	pthread_t t[4];
	struct link *list = NULL;
	int ok = 1;

	limit(RLIMIT_AS, 150 * MB);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 8 * MB);
	for (int i = 0; i < 4; i++)
		if (!HOLDS(pthread_create(&t[i], &attr, greedy,
					  (void *)(uintptr_t)(64 << 4 * i)) == 0))
			return 0;
	for (int i = 0; i < 4; i++) {
		void *ret;

		pthread_join(t[i], &ret);
		ok &= HOLDS(ret != NULL);
	}
	ok &= HOLDS(fill(&list, 5000) > 40 * MB);
	return ok & HOLDS(drop(&list));
}

/* Full: threads, forks and libraries fail or work, but nothing falls over. */
static int test_full(void)
{
	struct link *list = NULL, *small = NULL;
	pthread_t t;
	pid_t pid;
	int status = 0;
	void *h;

	limit(RLIMIT_AS, 200 * MB);
	if (!HOLDS(fill(&list, 100000) && fill(&list, 5000) && fill(&small, 64)))
		return 0;
	if (pthread_create(&t, NULL, nothing, NULL) == 0)
		pthread_join(t, NULL);
	h = dlopen("libz.so.1", RTLD_NOW);
	if (h)
		dlclose(h);
	malloc_trim(0);
	malloc_stats();
	(void)mallinfo2();
	pid = fork();
	if (pid == 0) {
		int ok = drop(&small) && drop(&list);

		free(malloc(10 * MB));
		_exit(ok ? 5 : 6);
	}
	if (pid > 0)
		waitpid(pid, &status, 0);
	if (!HOLDS(pid < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 5)))
		return 0;
	return HOLDS(drop(&small)) && HOLDS(drop(&list)) && HOLDS(fill(&list, 640)) &&
	       HOLDS(drop(&list));
}

/* No mapping can be added or split any more. */
static int test_mappings(void)
{
	char *area = mmap(NULL, 2000 * MB, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct link *list = NULL;
	size_t n = 0, got = 0;

	if (area == MAP_FAILED)
		return 0;
	while (n < 240000 && mprotect(area + n * 8192, 4096, PROT_READ) == 0)
		n++;
	for (int i = 0; i < 20000; i++) {
		size_t size = (size_t)i * 20 % 70000 + 2 * sizeof(struct link);
		struct link *p = malloc(size);

		if (!p && !HOLDS(errno == ENOMEM))
			return 0;
		if (!p)
			continue;
		enter(&list, p, size);
		got++;
	}
	malloc_trim(0);
	if (!HOLDS(drop(&list)))
		return 0;
	munmap(area, 2000 * MB);
	limit(RLIMIT_AS, 300 * MB);
	printf("%zu mappings, then %zu blocks\n", 2 * n, got);
	return fill_all_sizes(80 * MB);
}

/* What the kernel refuses to one who asks for it at once is refused by us. */
static int test_beyond(void)
{
	int ok = 1;

	for (size_t size = 1024 * MB; size < (size_t)1 << 40; size *= 2) {
		void *m = mmap(NULL, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		void *p = malloc(size), *q;

		ok &= HOLDS(m != MAP_FAILED || p == NULL);
		free(p);
		if (m != MAP_FAILED) {
			munmap(m, size);
			continue;
		}
		errno = 0;
		ok &= HOLDS((p = calloc(1, size)) == NULL && errno == ENOMEM);
		free(p);
		ok &= HOLDS((p = memalign(size, 100)) == NULL);
		free(p);
		q = malloc(100);
		errno = 0;
		ok &= HOLDS((p = realloc(q, size)) == NULL && errno == ENOMEM);
		free(p ? p : q);
	}
	return ok;
}

/* What is refused is not kept in reserve either. */
static int test_beyond_data(void)
{
	struct link *list = NULL;
	void *m;
	int ok = 1;

	limit(RLIMIT_DATA, 60 * MB);
	for (size_t size = 300 * MB; size < 450 * MB; size += 30 * MB) {
		void *volatile p = malloc(size);

		ok &= HOLDS(p == NULL && errno == ENOMEM);
	}
	m = mmap(NULL, 800 * MB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ok &= HOLDS(m != MAP_FAILED);
	munmap(m, 800 * MB);
	ok &= HOLDS(fill(&list, 20000) > 20 * MB);
	return ok & HOLDS(drop(&list));
}

static void refuse(int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_brk, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
		abort();
}

/* As under vm.overcommit_memory=2: the kernel gives not a page more. */
static int test_no_commit(void)
{
	struct link *list = NULL;
	void *big = malloc(30 * MB);
	size_t first, second;

	memset(big, 1, 30 * MB);
	refuse(ENOMEM);
	free(big);
	first = fill(&list, 1000);
	if (!HOLDS(first > 20 * MB) || !HOLDS(drop(&list)))
		return 0;
	second = fill(&list, 30000);
	return HOLDS(second > first / 10 * 9) && HOLDS(drop(&list));
}

#define PLACES 3000

/* Of a stack that no other number has. */
static __attribute__((noinline)) void *from_place(unsigned number, size_t size)
{
	void *p;

	if (number == 0)
		return malloc(size);
	if (number & 1) {
		p = from_place(number >> 1, size);
		__asm__ volatile("" : "+r"(p));
	} else {
		p = from_place(number >> 1, size);
		__asm__ volatile("nop" : "+r"(p));
	}
	return p;
}

static void renew(void **table, unsigned first)
{
	for (size_t round = 0; round < 20; round++)
		for (unsigned i = 0; i < PLACES; i++) {
			free(table[i]);
			table[i] = from_place(first + i, 100 + round);
		}
}

/* A child for whose copies there is no room must not touch what it shares. */
static int test_fork(void)
{
	const struct rlimit limit = { 100 * MB, 100 * MB };
	static void *table[PLACES];
	int status = -1;
	pid_t pid;

	for (unsigned i = 0; i < PLACES; i++)
		table[i] = from_place(i, 100);
	if (setrlimit(RLIMIT_AS, &limit) != 0)
		return 0;
	for (size_t size = 64 * MB; size >= 4096; size /= 2)
		while (mmap(NULL, size, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			    0) != MAP_FAILED) {
		}
	pid = fork();
	renew(table, pid == 0 ? PLACES : 0);
	if (pid == 0)
		_exit(0);
	return HOLDS(waitpid(pid, &status, 0) == pid) && HOLDS(status == 0);
}

static int thread_runs(size_t stack)
{
	pthread_attr_t attr;
	pthread_t thread;

	return pthread_attr_init(&attr) == 0 &&
	       pthread_attr_setstacksize(&attr, stack) == 0 &&
	       pthread_create(&thread, &attr, nothing, NULL) == 0 &&
	       pthread_join(thread, NULL) == 0;
}

/* What was freed is room for others, too: a thread's stack at once, what the program maps
 * itself after a while. */
static int test_room(void)
{
	struct timespec begin, now;
	struct link *list = NULL;
	void *map;

	limit(RLIMIT_AS, 1024 * MB);
	for (size_t size = 1000; size <= 1000 * 1000; size *= 1000)
		if (fill(&list, size) < 512 * MB || !drop(&list) ||
		    !thread_runs(256 * MB))
			return 0;
	if (fill(&list, 100 * 1000) < 512 * MB || !drop(&list))
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		for (int i = 0; i < 100; i++)
			free(malloc(100 * 1000));
		map = mmap(NULL, 256 * MB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (map == MAP_FAILED && now.tv_sec - begin.tv_sec < 60);
	return map != MAP_FAILED;
}

#define NSMALL 6000

/* Small ones come and go: as often as not what is free is what a large one has left. */
static int turn_small(unsigned *seed)
{
	static char *small[NSMALL];
	int ok = 1;

	for (int i = 0; i < 200; i++) {
		char **p = &small[(unsigned)rand_r(seed) % NSMALL];
		size_t size = 16 + (unsigned)rand_r(seed) % 12000;

		free(*p);
		*p = malloc(size);
		ok &= *p != NULL;
		if (*p)
			memset(*p, 1, size);
	}
	return HOLDS(ok);
}

/* One large object after another, each of another size, that grow and shrink. The limit
 * is 300 MB: more than enough if they leave nothing behind. */
static int test_in_turn(void)
{
	unsigned seed = 5;

	for (int i = 0; i < 1000; i++) {
		size_t size = (20 + (unsigned)rand_r(&seed) % 60) * MB + 100;
		char *p = i % 5 ? malloc(size) : aligned_alloc(4 * MB, size);

		if (!HOLDS(p != NULL) || !turn_small(&seed))
			return 0;
		p[0] = p[size - 1] = 3;
		if (i % 3 == 0) {
			p = realloc(p, size / 2);
			p[size / 2 - 1] = 4;
			p = turn_small(&seed) ? realloc(p, size + size / 4) : NULL;
			if (!HOLDS(p != NULL) ||
			    !HOLDS(p[0] == 3 && p[size / 2 - 1] == 4))
				return 0;
			p[size + size / 4 - 1] = 5;
		}
		free(p);
		p = calloc(1, size / 4); /* none of it has the old bytes */
		if (!HOLDS(p != NULL) || !HOLDS(p[0] == 0 && p[size / 4 - 1] == 0))
			return 0;
		free(p);
	}
	return HOLDS(mallinfo2().arena < 150 * MB);
}

static const struct test_case cases[] = {
	{ "fork", test_fork },
	{ "start", test_start },
	{ "start_tight", test_start_tight },
	{ "raised", test_raised },
	{ "vforked", test_vforked },
	{ "later", test_later },
	{ "data", test_data },
	{ "nearly", test_nearly },
	{ "realloc", test_realloc },
	{ "threads", test_threads },
	{ "full", test_full },
	{ "mappings", test_mappings },
	{ "no_commit", test_no_commit },
	{ "beyond", test_beyond },
	{ "beyond_data", test_beyond_data },
	{ "room", test_room },
	{ "in_turn", test_in_turn },
};

int main(int argc, char **argv)
{
	return run_case(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
