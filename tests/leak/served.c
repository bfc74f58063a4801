/* SPDX-License-Identifier: Apache-2.0 */
/*
 * served: a program whose heap has pages that must not be read: somebody has yet to
 * supply them and never will, or there is nothing to be read. One page in the middle of
 * an object holds a pointer. served CASE [lose|stay] [wait]; 77: the kernel has no such
 * thing.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE	4096
#define PAGES	32
#define BYTES	((size_t)PAGES * PAGE)
#define POINTER (5 * PAGE) /* where it stands */
#define SKIPPED 77

static char *block; /* holds it */

static void put_pointer(void)
{
	*(void **)(block + POINTER) = malloc(100);
}

static int open_faults(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0)
		_exit(SKIPPED);
	return fd;
}

static void register_block(int fd, uint64_t mode)
{
	struct uffdio_register area = { .mode = mode };

	area.range.start = (uintptr_t)block;
	area.range.len = BYTES;
	if (ioctl(fd, UFFDIO_REGISTER, &area) != 0)
		_exit(SKIPPED);
}

static void map_shared(void)
{
	int fd = memfd_create("block", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, BYTES) != 0 ||
	    mmap(block, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
		    block)
		_exit(SKIPPED);
	put_pointer();
}

static void missing(void)
{
	put_pointer();
	register_block(open_faults(0), UFFDIO_REGISTER_MODE_MISSING);
}

/* Nobody here has the descriptor any more. */
static void elsewhere(void)
{
	int fd = open_faults(0), ready[2], alive[2];
	char c;

	put_pointer();
	register_block(fd, UFFDIO_REGISTER_MODE_MISSING);
	if (pipe(ready) != 0 || pipe(alive) != 0)
		_exit(SKIPPED);
	if (fork() == 0) {
		close(alive[1]); /* ours goes with us */
		if (write(ready[1], "x", 1) == 1 && read(alive[0], &c, 1) != 0)
			_exit(99);
		_exit(0);
	}
	if (read(ready[0], &c, 1) != 1)
		_exit(99);
	close(fd);
}

static void protected(void)
{
	struct uffdio_writeprotect all = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	int fd = open_faults(UFFD_FEATURE_PAGEFAULT_FLAG_WP);

	put_pointer();
	register_block(fd, UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
	all.range.start = (uintptr_t)block;
	all.range.len = BYTES;
	if (ioctl(fd, UFFDIO_WRITEPROTECT, &all) != 0)
		_exit(SKIPPED);
}

/* The pages are all there, but for the process. */
static void minor(void)
{
#ifdef UFFDIO_REGISTER_MODE_MINOR
	int fd = open_faults(UFFD_FEATURE_MINOR_SHMEM), file;
	char *other;

	file = memfd_create("block", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, BYTES) != 0 ||
	    mmap(block, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) !=
		    block)
		_exit(SKIPPED);
	put_pointer();
	other = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	memset(other + POINTER + PAGE, 1, BYTES - POINTER - PAGE);
	register_block(fd, UFFDIO_REGISTER_MODE_MINOR);
#else
	_exit(SKIPPED);
#endif
}

static void shared(void)
{
	map_shared();
}

static void cut_off(void)
{
	int fd = memfd_create("block", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, POINTER + PAGE) != 0 ||
	    mmap(block, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
		    block)
		_exit(SKIPPED);
	put_pointer();
}

static void unmapped(void)
{
	put_pointer();
	munmap(block + POINTER + PAGE, BYTES - POINTER - PAGE);
}

/* Pages without any right, in a mapping that has rights. */
static void guarded(void)
{
	put_pointer();
	if (madvise(block + POINTER + PAGE, 3 * PAGE, 102 /* MADV_GUARD_INSTALL */) != 0)
		_exit(SKIPPED);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "missing", missing },	  { "elsewhere", elsewhere }, { "protected", protected },
	{ "minor", minor },	  { "shared", shared },	      { "cut_off", cut_off },
	{ "unmapped", unmapped }, { "guarded", guarded },
};

/* In a thread: no stack that is still in use has seen the block. */
static void *prepare(void *name)
{
	block = aligned_alloc(PAGE, BYTES);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(name, cases[i].name) == 0)
			cases[i].run();
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t;

	if (argc < 2 || pthread_create(&t, NULL, prepare, argv[1]) != 0)
		return 99;
	pthread_join(t, NULL);
	if (argc > 2 && strcmp(argv[2], "lose") == 0)
		block = NULL;
	if (argc > 3 && strcmp(argv[3], "wait") == 0 && write(1, "x", 1) == 1)
		pause();
	return 0;
}
