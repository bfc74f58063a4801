/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapped: programs that lose nothing and keep the only pointer to a block in memory that
 * they have mapped, closed or sealed themselves, one a case; run by run_leak.py.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/leak/lose.h"

#define BLOCK	      112
#define MAP_BYTES     65536
#define LARGE_BYTES   ((size_t)16 << 20)
#define GUARD_INSTALL 102 /* of madvise; Linux 6.13 */
#define SPARSE_BYTES  ((size_t)64 << 30)

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));
void __lsan_register_root_region(const void *p, size_t size) __attribute__((weak));

static void *volatile table, *volatile second_table, *volatile word;

/* The block holds a second one, so that being found is not enough: it must be scanned. */
static APART void *make_block(void)
{
	void **p = keep_alive(calloc(1, BLOCK));

	p[1] = keep_alive(calloc(1, BLOCK));
	return p;
}

static APART void *map_some(int flags)
{
	void *p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1,
		       0);

	if (p == MAP_FAILED)
		exit(99);
	return p;
}

static APART void keep_mmap(void)
{
	void **p = map_some(MAP_PRIVATE);

	p[1000] = make_block();
}

static APART void keep_shared(void)
{
	void **p = map_some(MAP_SHARED);

	p[1000] = make_block();
}

/* A shared mapping of a file that is shorter than the mapping. */
static APART void keep_file(void)
{
	FILE *f = tmpfile();
	void **p;

	if (!f || ftruncate(fileno(f), 4096) != 0)
		exit(99);
	p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(f), 0);
	if (p == MAP_FAILED)
		exit(99);
	p[100] = make_block();
}

/* The file ends before its private mapping does: what lies behind is a trap. */
static APART void keep_beside_trap(void)
{
	FILE *f = tmpfile();
	void **p;

	if (!f || ftruncate(fileno(f), 4096) != 0)
		exit(99);
	p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(f), 0);
	if (p == MAP_FAILED)
		exit(99);
	p[100] = make_block();
}

/* A table that may only be read once it is made. */
static APART void keep_sealed(void)
{
	void **p = map_some(MAP_PRIVATE);

	p[1000] = make_block();
	mprotect(p, MAP_BYTES, PROT_READ);
}

/* Code that was made at run time: the pointer is part of an instruction. */
static APART void put_code(uint8_t *at)
{
	static const uint8_t load[] = { 0x90, 0x48, 0xb8 }; /* nop; mov rax, word */
	void *block = make_block();

	memcpy(at, load, sizeof(load));
	memcpy(at + sizeof(load), &block, sizeof(block));
}

static APART void keep_code_with(int flags)
{
	uint8_t *p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
			  flags | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		exit(77);
	put_code(p);
	put_code(p + MAP_BYTES / 2);
	put_code(p + MAP_BYTES - 12);
	mprotect(p, MAP_BYTES / 2, PROT_READ | PROT_EXEC);
}

static APART void keep_code(void)
{
	keep_code_with(MAP_PRIVATE);
}

static APART void keep_code_shared(void)
{
	keep_code_with(MAP_SHARED);
}

/* Written through one mapping and run through another. */
static APART void keep_code_twice(void)
{
	int fd = memfd_create("code", 0);
	uint8_t *p;

	if (fd < 0 || ftruncate(fd, MAP_BYTES) != 0)
		exit(99);
	p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED ||
	    mmap(NULL, MAP_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0) == MAP_FAILED)
		exit(77);
	put_code(p + 100);
	munmap(p, MAP_BYTES);
}

/* Pages of objects that the program has closed: a stack's guard, and all of a table. */
static APART void keep_closed(void)
{
	void **p = aligned_alloc(4096, MAP_BYTES), **small = aligned_alloc(4096, 4096);

	if (!p || !small)
		exit(99);
	memset(p, 0, MAP_BYTES);
	memset(small, 0, 4096);
	p[1023] = make_block();
	p[3000] = make_block();
	small[17] = make_block();
	table = p;
	second_table = small;
	if (mprotect(p + 512, 8192, PROT_NONE) != 0 ||
	    mprotect(small, 4096, PROT_NONE) != 0)
		exit(99);
}

/* Guards, as stacks have them from glibc 2.42 on: the mapping says nothing of them. */
static APART void keep_guarded(void)
{
	void **p = map_some(MAP_PRIVATE), **large;

	p[0] = make_block();
	p[1000] = make_block();
	p[MAP_BYTES / sizeof(*p) - 1] = make_block();
	madvise(p + 2048, 3 * 4096, GUARD_INSTALL);
	large = mmap(NULL, LARGE_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (large == MAP_FAILED)
		exit(99);
	large[0] = make_block();
	large[1024] = make_block();
	madvise(large + 512, 4096, GUARD_INSTALL);
	madvise(large + LARGE_BYTES / 16, LARGE_BYTES / 4, GUARD_INSTALL);
}

/* A mapping that is closed as a whole, beside one that never had a page. */
static APART void keep_closed_map(void)
{
	void **p = map_some(MAP_PRIVATE);

	p[0] = make_block();
	p[1000] = make_block();
	p[MAP_BYTES / sizeof(*p) - 1] = make_block();
	second_table = p + 1000 - 17;
	if (mprotect(p, MAP_BYTES, PROT_NONE) != 0 ||
	    mmap(NULL, SPARSE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		    MAP_FAILED)
		exit(99);
}

static APART void without_ioctl(unsigned action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
		exit(77);
}

static APART void keep_guarded_old(void)
{
	keep_guarded();
	without_ioctl(SECCOMP_RET_ERRNO | ENOTTY);
}

/* The same where the kernel does not know PAGEMAP_SCAN. */
static APART void keep_closed_map_old(void)
{
	without_ioctl(SECCOMP_RET_ERRNO | ENOTTY);
	keep_closed_map();
}

/* And where asking is the end. */
static APART void keep_closed_map_deadly(void)
{
	void **p = mmap(NULL, LARGE_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		exit(99);
	p[LARGE_BYTES / 2 / sizeof(*p)] = make_block();
	mprotect(p, LARGE_BYTES, PROT_NONE);
	without_ioctl(SECCOMP_RET_KILL_PROCESS);
}

static void on_closed(int sig)
{
	(void)sig;
	_exit(42);
}

/* And they are closed again after the check. */
static APART void still_closed(void (*keep)(void))
{
	struct sigaction act = { .sa_handler = on_closed };

	keep();
	scrub();
	sigaction(SIGSEGV, &act, NULL);
	if (!__lsan_do_recoverable_leak_check || __lsan_do_recoverable_leak_check())
		exit(98);
	word = ((void *volatile *)second_table)[17];
}

static APART void objects_still_closed(void)
{
	still_closed(keep_closed);
}

static APART void map_still_closed(void)
{
	still_closed(keep_closed_map);
}

static void name_region(const void *p, size_t bytes)
{
	if (!__lsan_register_root_region)
		exit(99);
	__lsan_register_root_region(p, bytes);
}

/* Half of what the program names as roots can be read. */
static APART void keep_region(void)
{
	void **p = map_some(MAP_PRIVATE);

	p[8000] = make_block();
	name_region(p, MAP_BYTES);
	mprotect(p, MAP_BYTES / 2, PROT_NONE);
}

/* Much of what the program names as roots is not there, was never, or cannot be. */
static APART void keep_region_gone(void)
{
	char *p = map_some(MAP_PRIVATE), *gone = map_some(MAP_PRIVATE);

	*(void **)(void *)(p + 8000) = make_block();
	name_region(gone, MAP_BYTES);
	munmap(gone, MAP_BYTES);
	name_region(p + 3, MAP_BYTES - 2);
	munmap(p + MAP_BYTES - 8192, 8192);
	name_region(NULL, 0);
	name_region((void *)4096, 5);
	name_region(p, (size_t)1 << 46);
	name_region(p, SIZE_MAX);
	name_region((void *)(UINTPTR_MAX - 100), 90);
	name_region((void *)((uintptr_t)0xdead << 48), MAP_BYTES);
}

/* It is an object, which nothing else holds. */
static APART void keep_region_in_heap(void)
{
	void **p = calloc(10, sizeof(*p));

	p[3] = make_block();
	name_region(p, 10 * sizeof(*p));
}

/* What others may still read, or the program itself some day. */
static APART void keep_region_shut(void)
{
	void **p = map_some(MAP_SHARED);

	p[1000] = make_block();
	name_region(p, MAP_BYTES);
	mprotect(p, MAP_BYTES, PROT_NONE);
}

/* Pages here and there in a mapping that would take minutes to look at as a whole. */
static APART void keep_sparse(void)
{
	void **p = mmap(NULL, SPARSE_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	const size_t words = SPARSE_BYTES / sizeof(*p);

	if (p == MAP_FAILED)
		exit(77);
	madvise(p, SPARSE_BYTES,
		MADV_NOHUGEPAGE); /* 6 GiB else, where they are the rule */
	p[0] = make_block();
	p[words - 1] = make_block();
	for (size_t at = 1; at < words / 2; at *= 3)
		p[at] = make_block();
	for (size_t i = 0; i < 3000; i++) /* more runs than are told apart */
		p[words / 2 + i * (words / 2 / 3000)] = make_block();
}

/* Where no call but reading tells of its pages. */
static APART void keep_sparse_old(void)
{
	without_ioctl(SECCOMP_RET_ERRNO | ENOTTY);
	keep_sparse();
}

/* Of the anonymous mappings with these rights, the end of each that has as much room
 * above it. */
static APART size_t find_ends(const char *rights, size_t room, uintptr_t *ends,
			      size_t most)
{
	FILE *f = fopen("/proc/self/maps", "r");
	uintptr_t lo, hi, end = 0;
	char line[512], has[8];
	size_t n = 0;

	while (f && n < most && fgets(line, sizeof(line), f)) {
		int path = 0;

		if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %n", &lo, &hi, has, &path) < 3)
			continue;
		if (end && lo - end >= room)
			ends[n++] = end;
		end = path > 0 && line[path] == '\0' && strcmp(has, rights) == 0 ? hi : 0;
	}
	if (f)
		fclose(f);
	return n;
}

static APART void **map_behind(uintptr_t end, size_t bytes)
{
	void *p = mmap((void *)end, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
		       -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* The kernel makes one mapping of neighbours, and some of them are Seep's own. */
static APART void keep_closed_behind(void)
{
	uintptr_t ends[64];
	size_t n = find_ends("---p", MAP_BYTES, ends, 64);

	for (size_t i = 0; i < n; i++) {
		void **p = map_behind(ends[i], MAP_BYTES);

		if (!p)
			continue;
		p[9] = make_block();
		mprotect(p, MAP_BYTES, PROT_NONE);
	}
}

static APART void keep_brk(void)
{
	void **p = sbrk(8192);

	if (p == (void *)-1)
		exit(99);
	p[10] = make_block();
}

/* Without /proc nobody says what is closed. */
static APART void closed_no_proc(void)
{
	char dir[] = "/tmp/seep-root-XXXXXX";

	if (!mkdtemp(dir) || chdir(dir) != 0 || rmdir(dir) != 0 || chroot(".") != 0)
		exit(77);
	keep_closed();
}

static const struct {
	const char *name;
	void (*keep)(void);
} cases[] = {
	{ "mmap", keep_mmap },
	{ "shared", keep_shared },
	{ "file", keep_file },
	{ "beside-trap", keep_beside_trap },
	{ "sealed", keep_sealed },
	{ "code", keep_code },
	{ "code-shared", keep_code_shared },
	{ "code-twice", keep_code_twice },
	{ "guarded", keep_guarded },
	{ "guarded-old", keep_guarded_old },
	{ "closed", keep_closed },
	{ "closed-map", keep_closed_map },
	{ "closed-map-old", keep_closed_map_old },
	{ "closed-map-deadly", keep_closed_map_deadly },
	{ "still-closed", objects_still_closed },
	{ "map-still-closed", map_still_closed },
	{ "closed-no-proc", closed_no_proc },
	{ "region", keep_region },
	{ "region-in-heap", keep_region_in_heap },
	{ "region-gone", keep_region_gone },
	{ "region-shut", keep_region_shut },
	{ "brk", keep_brk },
	{ "sparse", keep_sparse },
	{ "sparse-old", keep_sparse_old },
	{ "closed-behind", keep_closed_behind },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (argc > 1 && strcmp(argv[1], cases[i].name) == 0) {
			cases[i].keep();
			scrub();
			return 0;
		}
	fprintf(stderr, "mapped: no such case\n");
	return 97;
}
