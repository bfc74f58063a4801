/* SPDX-License-Identifier: Apache-2.0 */
/* Every row of the malloc family's contract: results, errno, alignment, contents. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <threads.h>
#include <unistd.h>

#include "check.h"

static volatile size_t huge = SIZE_MAX / 2 + 2; /* over PTRDIFF_MAX */

static int is_aligned(const void *p, size_t a)
{
	return (uintptr_t)p % a == 0;
}

static void test_malloc(void)
{
	void *a = malloc(0), *b = malloc(0), *volatile p;

	CHECK(a && b && a != b);
	free(a);
	free(b);
	errno = 0;
	p = malloc(huge);
	CHECK(p == NULL && errno == ENOMEM);
	errno = 0;
	p = malloc((size_t)1 << 50); /* more than any address space has */
	CHECK(p == NULL && errno == ENOMEM);
	for (size_t n = 1; n <= 4096; n++) {
		char *q;

		errno = 77;
		q = malloc(n);
		CHECK(q && is_aligned(q, 16) && errno == 77);
		CHECK(malloc_usable_size(q) >= n);
		memset(q, 0x5a, malloc_usable_size(q));
		free(q);
		CHECK(errno == 77);
	}
	for (size_t n = 4097; n < 3000000; n += n / 3) {
		char *q = malloc(n);

		CHECK(q && is_aligned(q, 16) && malloc_usable_size(q) >= n);
		memset(q, 1, malloc_usable_size(q));
		free(q);
	}
}

/* All that malloc_usable_size() grants is zero, also of a block used before. */
static void test_calloc_slack(void)
{
	for (size_t n = 0; n < 200000; n += 1 + n / 9) {
		char *p = malloc(n);
		size_t usable = malloc_usable_size(p);

		memset(p, 0xeb, usable);
		free(p);
		p = calloc(1, n);
		usable = malloc_usable_size(p);
		for (size_t i = 0; i < usable; i++)
			if (p[i]) {
				CHECK(!"slack of calloc is zero");
				break;
			}
		free(p);
	}
}

static void test_calloc(void)
{
	static const size_t sizes[] = { 1, 24, 100, 1000, 9000, 40000, 300000, 5000000 };
	void *volatile p;

	errno = 0;
	p = calloc(SIZE_MAX / 2, 3);
	CHECK(p == NULL && errno == ENOMEM);
	errno = 0;
	p = calloc(2, huge / 2 + 1);
	CHECK(p == NULL && errno == ENOMEM);
	p = calloc(0, 5);
	CHECK(p != NULL);
	free(p);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (int round = 0; round < 3; round++) { /* dirty memory is reused */
			char *q = calloc(1, sizes[i]);
			size_t k = 0;

			while (k < sizes[i] && q[k] == 0)
				k++;
			CHECK(k == sizes[i]);
			memset(q, 0xff, sizes[i]);
			free(q);
		}
}

static void test_realloc(void)
{
	char *p = realloc(NULL, 100), *q;
	void *volatile none;

	memset(p, 7, 100);
	errno = 0;
	none = realloc(p, huge);
	CHECK(none == NULL && errno == ENOMEM && p[0] == 7 && p[99] == 7);
	none = realloc(p, 0);
	CHECK(none == NULL); /* glibc frees */
	p = malloc(1);
	p[0] = 'x';
	for (size_t n = 2; n < 20000000; n = n * 5 / 4 + 1) {
		q = realloc(p, n);
		CHECK(q && q[0] == 'x');
		p = q;
		memset(p, 'x', n);
	}
	p = realloc(p, 20000000);
	memset(p, 'x', 20000000);
	for (size_t n = 20000000; n > 10; n = n * 3 / 4) {
		p = realloc(p, n);
		CHECK(p && p[0] == 'x' && p[n - 1] == 'x');
	}
	free(p);
	p = memalign(4096, 50);
	memset(p, 3, 50);
	p = realloc(p, 5000);
	CHECK(p && p[49] == 3);
	errno = 0;
	none = reallocarray(p, SIZE_MAX / 2, 3);
	CHECK(none == NULL && errno == ENOMEM && p[49] == 3);
	p = reallocarray(p, 100, 100);
	CHECK(p && p[49] == 3);
	free(p);
}

static void test_aligned(void)
{
	void *p, *volatile v;

	for (size_t a = 1; a <= (size_t)1 << 21; a *= 2)
		for (size_t n = 0; n < 200000; n = n * 7 + 1) {
			p = memalign(a, n);
			CHECK(p && is_aligned(p, a) && malloc_usable_size(p) >= n);
			memset(p, 1, n);
			free(p);
		}
	p = memalign(48, 10); /* glibc rounds up to a power of two */
	CHECK(p && is_aligned(p, 64));
	free(p);
	errno = 0;
	v = memalign((size_t)1 << 63 | 1, 8);
	CHECK(v == NULL && errno == EINVAL);
	errno = 0;
	v = memalign(64, huge);
	CHECK(v == NULL && errno == ENOMEM);
	p = &failures;
	errno = 5;
	CHECK(posix_memalign(&p, 3, 8) == EINVAL && p == &failures && errno == 5);
	CHECK(posix_memalign(&p, 0, 8) == EINVAL && p == &failures);
	CHECK(posix_memalign(&p, 4, 8) == EINVAL && p == &failures);
	CHECK(posix_memalign(&p, 64, huge) == ENOMEM && p == &failures && errno == 5);
	CHECK(posix_memalign(&p, 8, 0) == 0 && p != &failures);
	free(p);
	errno = 0;
	v = aligned_alloc(24, 100);
	CHECK(v == NULL && errno == EINVAL);
	p = aligned_alloc(256, 100);
	CHECK(p && is_aligned(p, 256));
	free(p);
	p = valloc(10);
	CHECK(p && is_aligned(p, 4096));
	free(p);
	p = pvalloc(1);
	CHECK(p && is_aligned(p, 4096) && malloc_usable_size(p) >= 4096);
	free(p);
	p = pvalloc(0);
	CHECK(p);
	free(p);
	errno = 0;
	v = pvalloc(SIZE_MAX - 100);
	CHECK(v == NULL && errno == ENOMEM);
}

static void test_info(void)
{
	struct mallinfo2 before = mallinfo2(), after;
	char *p = malloc(3 << 20), *q, *text = NULL;
	size_t size;
	FILE *f;

	memset(p, 1, 3 << 20);
	after = mallinfo2();
	CHECK(after.hblkhd + after.uordblks >=
	      before.hblkhd + before.uordblks + (3 << 20));
	CHECK(mallinfo().hblkhd >= 3 << 20);
	/* What a thread caches is no fast block: many were never given out. */
	CHECK(after.smblks == 0 && after.fsmblks == 0 && mallinfo().smblks == 0);
	CHECK(after.uordblks > 0 && after.arena == after.uordblks + after.fordblks);
	free(p);
	q = malloc(1600);
	after = mallinfo2();
	free(q);
	CHECK(mallinfo2().ordblks == after.ordblks + 1);
	f = open_memstream(&text, &size);
	CHECK(malloc_info(0, f) == 0);
	fclose(f);
	CHECK(strncmp(text, "<malloc version=", 16) == 0 && strstr(text, "</malloc>"));
	p = strstr(text, "<system type=\"current\" size=\"");
	CHECK(p && atol(p + 30) > 0 && atol(p + 30) < 100 << 20);
	free(text);
	errno = 0;
	CHECK(malloc_info(1, stdout) == -1 && errno == EINVAL);
	errno = 9;
	CHECK(mallopt(-1000, 1) == 0 && errno == 9);
	CHECK(mallopt(M_MMAP_THRESHOLD, 65536) == 1);
	p = malloc(50 << 20);
	memset(p, 1, 50 << 20);
	free(p);
	CHECK(malloc_trim(0) == 1);
	CHECK(malloc_usable_size(NULL) == 0);
	malloc_stats();
}

static void test_other_names(void)
{
	static const char *const names[] = { "__libc_malloc",	    "__libc_memalign",
					     "__libc_valloc",	    "__libc_pvalloc",
					     "__libc_calloc",	    "__libc_realloc",
					     "__libc_reallocarray", "__posix_memalign" };
	void *(*m)(size_t) = dlsym(RTLD_DEFAULT, "__libc_malloc");
	void (*f)(void *) = dlsym(RTLD_DEFAULT, "__libc_free");
	void (*cf)(void *) = dlsym(RTLD_DEFAULT, "cfree");
	void (*fs)(void *, size_t) = dlsym(RTLD_DEFAULT, "free_sized");
	void (*fas)(void *, size_t, size_t) = dlsym(RTLD_DEFAULT, "free_aligned_sized");
	Dl_info where, ours;

	CHECK(dladdr((void *)malloc, &ours));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		void *fn = dlsym(RTLD_DEFAULT, names[i]);

		CHECK(fn && dladdr(fn, &where) && where.dli_fbase == ours.dli_fbase);
	}
	CHECK(m && f && cf && fs && fas);
	if (!m || !f || !cf || !fs || !fas)
		return;
	f(m(10));
	cf(malloc(10));
	fs(malloc(10), 10);
	fas(aligned_alloc(64, 128), 64, 128);
	free(NULL);
	fs(NULL, 3);
}

/* A block of libc's own allocator must find its way home. */
static void test_foreign(void)
{
	void *libc = dlopen("libc.so.6", RTLD_NOLOAD | RTLD_NOW);
	void *(*real)(size_t) = libc ? dlsym(libc, "malloc") : NULL;
	char *p, *q;

	CHECK(real && (void *)real != (void *)malloc);
	if (!real)
		return;
	p = real(100);
	memset(p, 9, 100);
	CHECK(malloc_usable_size(p) >= 100);
	q = realloc(p, 300);
	CHECK(q && q[99] == 9);
	free(q);
	for (int i = 0; i < 100; i++)
		free(real(i * 50));
	free(real(1 << 20));
}

static void *allocate_late(void *p)
{
	free(p);
	free(malloc(500));
	return NULL;
}

/* Destructors run in rounds, after ours too; keys beyond 32 allocate. */
static void late(void *round)
{
	pthread_key_t *key = round;

	allocate_late(malloc(2000));
	free(malloc(1 << 17));
	pthread_setspecific(*key, key);
}

static void *use_late(void *key)
{
	pthread_setspecific(*(pthread_key_t *)key, key);
	return allocate_late(malloc(64));
}

static void test_threads(void)
{
	static pthread_key_t keys[64];
	pthread_t t;

	for (int i = 0; i < 64; i++)
		pthread_key_create(&keys[i], late);
	for (int i = 0; i < 2000; i++) {
		CHECK(pthread_create(&t, NULL, use_late, &keys[i % 64]) == 0);
		pthread_join(t, NULL);
	}
}

static long resident_bytes(void)
{
	long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f && fscanf(f, "%ld %ld", &size, &resident) != 2)
		resident = -1;
	if (f)
		fclose(f);
	return resident * 4096;
}

static pthread_key_t first_use;

static void first_use_in_destructor(void *value)
{
	free(malloc(100));
	free(malloc(3000));
	if ((uintptr_t)value > 1) /* one more round */
		pthread_setspecific(first_use, (void *)((uintptr_t)value - 1));
}

static int begins_elsewhere(void *rounds)
{
	pthread_setspecific(first_use, rounds);
	return 0;
}

/* Threads that we did not begin, and that allocate only while they end: what they had is
 * given back, whichever of the four rounds it was first asked for in. */
static void test_thread_rounds(void)
{
	/* libc's own, past whoever stands before it */
	void *libc = dlopen("libc.so.6", RTLD_LAZY);
	__typeof__(&thrd_create) create =
		(__typeof__(&thrd_create))(uintptr_t)dlsym(libc, "thrd_create");
	long before = 0;
	thrd_t t;

	CHECK(create);
	pthread_key_create(&first_use, first_use_in_destructor);
	for (int i = 0; i < 3000; i++) {
		if (i == 200)
			before = resident_bytes();
		CHECK(create(&t, begins_elsewhere, (void *)(uintptr_t)(1 + i % 3)) ==
		      thrd_success);
		thrd_join(t, NULL);
	}
	CHECK(resident_bytes() - before < 8 << 20);
	dlclose(libc);
}

static int negative(void *arg)
{
	free(arg);
	return -7;
}

static void test_c11_threads(void)
{
	int value = 0;
	thrd_t t;

	CHECK(thrd_create(&t, negative, malloc(10)) == thrd_success);
	CHECK(thrd_join(t, &value) == thrd_success && value == -7);
	CHECK(thrd_create(&t, negative, malloc(10)) == thrd_success);
	CHECK(thrd_detach(t) == thrd_success);
}

/* glibc: errno of a success is the program's; free() keeps it whatever it does. */
static void test_errno(void)
{
	static const size_t sizes[] = { 0, 1, 100, 5000, 40000, 1 << 20, 50 << 20 };
	void *p, *q;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		errno = 55;
		p = malloc(sizes[i]);
		q = calloc(1, sizes[i]);
		CHECK(p && q && errno == 55);
		p = realloc(p, sizes[i] * 2 + 1);
		q = reallocarray(q, 3, sizes[i] + 1);
		CHECK(p && q && errno == 55);
		CHECK(malloc_usable_size(p) > sizes[i] * 2 && errno == 55);
		free(p);
		free(q);
		p = memalign(64, sizes[i]);
		q = aligned_alloc(1 << 16, sizes[i]);
		CHECK(p && q && errno == 55);
		free(p);
		free(q);
		p = valloc(sizes[i]);
		q = pvalloc(sizes[i]);
		CHECK(p && q && errno == 55);
		free(p);
		free(q);
		free(NULL);
		malloc_trim(0);
		CHECK(errno == 55);
	}
}

static void check_block(void *p, size_t align, size_t size)
{
	CHECK(p && is_aligned(p, align));
	if (!p)
		return;
	CHECK(malloc_usable_size(p) >= size);
	((volatile char *)p)[0] = 1;
	((volatile char *)p)[malloc_usable_size(p) - 1] = 1;
	free(p);
}

/* Not a constant: clang 14 crashes on one. */
static volatile size_t top = (size_t)1 << 63;

static void test_huge_alignments(void)
{
	void *volatile v;
	void *p;

	for (int lg = 0; lg <= 30; lg++) {
		size_t a = (size_t)1 << lg;

		check_block(memalign(a, 0), a, 0);
		check_block(memalign(a, a + 1), a, a + 1);
		check_block(aligned_alloc(a, 1), a, 1);
		if (a >= sizeof(void *)) {
			CHECK(posix_memalign(&p, a, 100) == 0);
			check_block(p, a, 100);
		}
		if (lg >= 2) /* rounded up */
			check_block(memalign(a - 1, 10), a, 10);
	}
	for (int lg = 31; lg <= 62; lg++) {
		errno = 0;
		p = memalign((size_t)1 << lg, 100);
		CHECK(p ? is_aligned(p, (size_t)1 << lg) : errno == ENOMEM);
		free(p);
		errno = 0;
		v = memalign((size_t)1 << lg, huge - 2);
		CHECK(v == NULL && errno == ENOMEM);
		v = memalign(64, SIZE_MAX - ((size_t)1 << lg));
		CHECK(v == NULL && errno == ENOMEM);
	}
	errno = 0;
	v = memalign(top, 100);
	CHECK(v == NULL && (errno == ENOMEM || errno == EINVAL));
	errno = 0;
	v = memalign(2 * top - 1, 100);
	CHECK(v == NULL && errno == EINVAL);
	CHECK(posix_memalign(&p, top, 8) == ENOMEM);
	CHECK(posix_memalign(&p, 2 * top - 1, 8) == EINVAL);
	check_block(memalign(2 * top, 8), 16, 8); /* 0 */
	for (size_t n = 1; n < 100000; n = n * 3 / 2 + 1) {
		p = malloc(n);
		memset(p, 1, n);
		for (size_t over = 0; over < 40; over++) {
			errno = 0;
			v = realloc(p, SIZE_MAX - over);
			CHECK(v == NULL && errno == ENOMEM);
		}
		CHECK(((char *)p)[n - 1] == 1);
		free(p);
	}
	for (size_t n = SIZE_MAX; n > SIZE_MAX - 20000; n -= 977) {
		errno = 0;
		v = malloc(n);
		CHECK(v == NULL && errno == ENOMEM);
		errno = 0;
		v = valloc(n);
		CHECK(v == NULL && errno == ENOMEM);
		errno = 0;
		v = pvalloc(n);
		CHECK(v == NULL && errno == ENOMEM);
		errno = 0;
		v = aligned_alloc(4096, n);
		CHECK(v == NULL && errno == ENOMEM);
	}
}

/* malloc_stats() goes where the program's descriptor 2 leads now. */
static void test_stats_follow_stderr(void)
{
	int saved = dup(2), pipe_of[2];
	char buf[2000];

	CHECK(pipe(pipe_of) == 0);
	dup2(pipe_of[1], 2);
	malloc_stats();
	dup2(saved, 2);
	close(saved);
	close(pipe_of[1]);
	CHECK(read(pipe_of[0], buf, sizeof(buf)) > 100);
	close(pipe_of[0]);
}

/* usable_size() bytes are the program's: writable, and kept by realloc(). */
static void test_usable(void)
{
	for (size_t n = 0; n < 200000; n = n * 5 / 4 + 1) {
		size_t usable;
		unsigned char *p = malloc(n), *q;

		usable = malloc_usable_size(p);
		memset(p, 0xc3, usable);
		q = realloc(p, usable * 3 + 1);
		for (size_t k = 0; k < usable; k++)
			if (q[k] != 0xc3) {
				CHECK(!"kept");
				break;
			}
		free(q);
		CHECK(realloc(malloc(n), 0) == NULL);
	}
}

int main(void)
{
	test_thread_rounds();
	test_c11_threads();
	test_malloc();
	test_calloc();
	test_calloc_slack();
	test_realloc();
	test_aligned();
	test_info();
	test_other_names();
	test_foreign();
	test_threads();
	test_errno();
	test_huge_alignments();
	test_stats_follow_stderr();
	test_usable();
	printf("failures %d\n", failures);
	return failures != 0;
}
