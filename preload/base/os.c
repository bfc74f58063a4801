/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os: system calls, see os.h.
 */
#include "preload/base/os.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/base/filter.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA	     0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static void *map(void *addr, size_t size, int prot, int flags, int fd)
{
	long ret = os_call(SYS_mmap, (long)addr, (long)size, prot, flags, fd, 0);

	return ret < 0 && ret > -4096 ? NULL : (void *)ret;
}

void *os_map(size_t size)
{
	return map(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

void *os_map_shared(size_t size)
{
	return map(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

void *os_reserve(size_t size)
{
	return map(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1);
}

/* A filter may kill for mprotect, which libc's malloc does without. */
int os_commit(void *addr, size_t size)
{
	const long protection = PROT_READ | PROT_WRITE;

	if (os_is_filtered() &&
	    os_refused(SYS_mprotect,
		       (const long[6]){ (long)addr, (long)size, protection }))
		return map(addr, size, (int)protection,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
			   -1) == addr
			       ? 0
			       : -EPERM;
	return (int)os_call(SYS_mprotect, (long)addr, (long)size, protection, 0, 0, 0);
}

bool os_may_have(size_t size)
{
	void *p =
		map(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	return p && os_unmap(p, size);
}

bool os_unmap(void *addr, size_t size)
{
	return os_call(SYS_munmap, (long)addr, (long)size, 0, 0, 0, 0) == 0;
}

bool os_purge(void *addr, size_t size)
{
	return os_call(SYS_madvise, (long)addr, (long)size, MADV_DONTNEED, 0, 0, 0) == 0;
}

bool os_wipe_on_fork(void *addr, size_t size)
{
	return os_call(SYS_madvise, (long)addr, (long)size, MADV_WIPEONFORK, 0, 0, 0) ==
	       0;
}

bool os_hugepage(void *addr, size_t size, bool on)
{
	return os_call(SYS_madvise, (long)addr, (long)size,
		       on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE, 0, 0, 0) == 0;
}

#define PAGEMAP_THERE ((uint64_t)3 << 62) /* in memory, or swapped out */

static bool read_pagemap(int fd, uintptr_t addr, size_t npages, unsigned char *out)
{
	uint64_t entries[64];
	const size_t most = sizeof(entries) / sizeof(*entries);

	for (size_t at = 0, n; at < npages; at += n) {
		const long offset = (long)((addr / OS_PAGE + at) * sizeof(entries[0]));

		n = npages - at < most ? npages - at : most;
		if (os_call(SYS_pread64, fd, (long)entries, (long)(n * sizeof(*entries)),
			    offset, 0, 0) != (long)(n * sizeof(*entries)))
			return false;
		for (size_t i = 0; i < n; i++)
			out[at + i] = (entries[i] & PAGEMAP_THERE) != 0;
	}
	return true;
}

/* mincore() is in no list of what a service needs (systemd's @system-service): a filter
 * of such a list ends the program. */
bool os_resident(void *addr, size_t size, unsigned char *out)
{
	const enum filter_others others = filter_others();
	bool done;
	int fd;

	if (others == FILTER_ALL_KNOWN)
		return os_call(SYS_mincore, (long)addr, (long)size, (long)out, 0, 0, 0) ==
		       0;
	if (others == FILTER_UNKNOWN_SINCE)
		return false;
	fd = os_open("/proc/thread-self/pagemap", O_RDONLY, 0);
	if (fd < 0)
		return false;
	done = read_pagemap(fd, (uintptr_t)addr, size / OS_PAGE, out);
	os_close(fd);
	return done;
}

static bool faults_served; /* atomic */

void os_note_userfaultfd(void)
{
	atomic_store_relaxed(&faults_served, true);
}

bool os_faults_are_served(void)
{
	return atomic_load_relaxed(&faults_served);
}

void os_dontdump(void *addr, size_t size)
{
	os_call(SYS_madvise, (long)addr, (long)size, MADV_DONTDUMP, 0, 0, 0);
}

void os_name(void *addr, size_t size, const char *name)
{
	if (filter_from_before())
		return;
	os_call(SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, (long)addr, (long)size,
		(long)name, 0);
}

bool os_move_pages(void *from, void *to, size_t size)
{
	long ret = os_call(SYS_mremap, (long)from, (long)size, (long)size,
			   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (long)to, 0);

	return ret == (long)to;
}

int os_open(const char *path, int flags, unsigned mode)
{
	return (int)os_call(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC,
			    (long)mode, 0, 0);
}

int os_close(int fd)
{
	return (int)os_call(SYS_close, fd, 0, 0, 0, 0, 0);
}

long os_read(int fd, void *buf, size_t size)
{
	long n;

	do {
		n = os_call(SYS_read, fd, (long)buf, (long)size, 0, 0, 0);
	} while (n == -EINTR);
	return n;
}

long os_write_all(int fd, const void *buf, size_t size)
{
	const char *p = buf;
	size_t left = size;

	while (left > 0) {
		long n = os_call(SYS_write, fd, (long)p, (long)left, 0, 0, 0);

		if (n == -EINTR)
			continue;
		if (n < 0)
			return n;
		if (n == 0)
			return -EIO;
		p += n;
		left -= (size_t)n;
	}
	return (long)size;
}

int os_rename(const char *from, const char *to)
{
	return (int)os_call(SYS_rename, (long)from, (long)to, 0, 0, 0, 0);
}

int os_unlink(const char *path)
{
	return (int)os_call(SYS_unlink, (long)path, 0, 0, 0, 0, 0);
}

int os_stat(int fd, struct stat *out)
{
	return (int)os_call(SYS_newfstatat, fd, (long)"", (long)out, AT_EMPTY_PATH, 0, 0);
}

int os_lstat(const char *path, struct stat *out)
{
	return (int)os_call(SYS_newfstatat, AT_FDCWD, (long)path, (long)out,
			    AT_SYMLINK_NOFOLLOW, 0, 0);
}

long os_file_size(int fd)
{
	struct stat st;
	int error = os_stat(fd, &st);

	return error ? error : st.st_size;
}

void *os_map_file(int fd, size_t size, bool shared_rw)
{
	return map(NULL, size, shared_rw ? PROT_READ | PROT_WRITE : PROT_READ,
		   shared_rw ? MAP_SHARED : MAP_PRIVATE, fd);
}

long os_readlink(const char *path, char *buf, size_t size)
{
	return os_call(SYS_readlink, (long)path, (long)buf, (long)size, 0, 0, 0);
}

static bool counter_is_avoided; /* atomic: all threads */

void os_avoid_counter(void)
{
	atomic_store_relaxed(&counter_is_avoided, true);
}

/* libc's goes through the vDSO; it is async-signal-safe. Atomic. */
static int (*ask_clock)(clockid_t id, struct timespec *out) = clock_gettime;

void os_set_clock(int (*clock)(clockid_t id, struct timespec *out))
{
	atomic_store_relaxed(&ask_clock, clock ? clock : clock_gettime);
}

ALWAYS_INLINE uint64_t clock_ns(clockid_t id)
{
	struct timespec ts = { 0 };

	if (UNLIKELY(atomic_load_relaxed(&counter_is_avoided)) ||
	    atomic_load_relaxed(&ask_clock)(id, &ts) != 0)
		os_call(SYS_clock_gettime, id, (long)&ts, 0, 0, 0, 0);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void os_fill_signals(sigset_t *mask, uint64_t without)
{
	const uint64_t libc_own = (uint64_t)3 << 31; /* 32 and 33: cancel, setuid */
	const uint64_t bits = ~(without | libc_own);

	memcpy(mask, &bits, sizeof(bits));
}

uint64_t os_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t os_coarse_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC_COARSE);
}

/* The vDSO does not know it, and where the call is refused errno must stay. */
static uint64_t cpu_ns(clockid_t id)
{
	struct timespec ts = { 0 };

	os_call(SYS_clock_gettime, id, (long)&ts, 0, 0, 0, 0);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t os_process_ns(void)
{
	return cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t os_thread_ns(void)
{
	return cpu_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t os_realtime_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

void os_random(void *buf, size_t size)
{
	uint64_t x = os_now_ns() ^ (uint64_t)(uintptr_t)buf << 20 ^ (uint64_t)os_getpid();
	unsigned char *p = buf;

	if (os_call(SYS_getrandom, (long)buf, (long)size, 1 /* GRND_NONBLOCK */, 0, 0,
		    0) == (long)size)
		return;
	for (size_t i = 0; i < size; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (unsigned char)(x >> 32);
	}
}

size_t os_address_space_limit(void)
{
	struct {
		uint64_t soft, hard;
	} lim = { UINT64_MAX, UINT64_MAX };

	if (os_call(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&lim, 0, 0) != 0)
		return SIZE_MAX;
	return lim.soft;
}

bool os_is_secure(void)
{
	return getauxval(AT_SECURE) != 0;
}

extern void *__libc_stack_end __attribute__((weak));

/* Of the loader's data: the program may have a getauxval() of its own, which may
 * allocate, or ask the loader. NULL: not known. */
static const uintptr_t *aux_entry(uintptr_t type)
{
	const uintptr_t *p = &__libc_stack_end ? __libc_stack_end : NULL;

	if (!p)
		return NULL;
	p += *p + 2; /* the arguments: their number, and NULL behind them */
	while (*p++)
		; /* the environment */
	while (*p == 0)
		p++; /* what it had before unsetenv() */
	while (p[0] != AT_NULL && p[0] != type)
		p += 2;
	return p;
}

bool os_is_emulated(void)
{
	const uintptr_t *entry = aux_entry(AT_SYSINFO_EHDR);

	return entry && (entry[0] == AT_NULL || entry[1] == 0);
}

/* Where a filter refuses it, as libc does: as a thread, then by an instruction that is
 * not allowed. With all signals blocked no handler takes it. */
void os_exit_group(int status)
{
	const uint64_t all = ~(uint64_t)0;

	for (;;) {
		os_call_unasked(SYS_exit_group, status, 0, 0, 0, 0, 0);
		os_call_unasked(SYS_exit, status, 0, 0, 0, 0, 0);
		os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, sizeof(all), 0,
			0);
		__asm__ volatile("hlt");
	}
}

void os_yield(void)
{
	os_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

/* Not CLONE_FILES: what the thread opens and closes must not be seen by the program. */
#define CLONE_THREAD_FLAGS                                                    \
	(CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | \
	 CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

/* The new thread finds fn at the top of its stack. */
HIDDEN long os_raw_clone(long flags, void **stack, uint32_t *tid, void *tls);
__asm__(".text\n\t.hidden os_raw_clone\n\t.type os_raw_clone, @function\n"
	"os_raw_clone:\n"
	"\t.cfi_startproc\n"
	"\tmov %rcx, %r8\n"  /* thread pointer */
	"\tmov %rdx, %r10\n" /* cleared at the end */
	"\tmov $56, %eax\n"
	"\tsyscall\n"
	"\ttest %rax, %rax\n"
	"\tje 1f\n"
	"\tret\n"
	"1:\t.cfi_undefined %rip\n"
	"\txor %ebp, %ebp\n"
	"\tmov (%rsp), %rax\n"
	"\tcall *%rax\n"
	"\tud2\n"
	"\t.cfi_endproc\n\t.size os_raw_clone, .-os_raw_clone\n");

long os_clone_thread(void *stack_end, void *tls, uint32_t *tid, void (*fn)(void))
{
	void **top = (void **)(align_down((uintptr_t)stack_end, 16) - 16);

	if (os_is_refused(SYS_clone, CLONE_THREAD_FLAGS))
		return -EPERM;
	top[0] = (void *)(uintptr_t)fn;
	return os_raw_clone(CLONE_THREAD_FLAGS, top, tid, tls);
}

void os_leave_thread(void *area, size_t size)
{
	__asm__ volatile("syscall\n\t"
			 "xor %%edi, %%edi\n\t"
			 "mov $60, %%eax\n\t"
			 "syscall\n\t"
			 "1: mov $34, %%eax\n\t" /* refused: sleep for ever */
			 "syscall\n\t"
			 "jmp 1b"
			 :
			 : "a"(SYS_madvise), "D"(area), "S"(size), "d"(MADV_DONTNEED)
			 : "rcx", "r11", "memory");
	__builtin_unreachable();
}

int os_futex_wait(const uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(timeout_ns / 1000000000u),
			       .tv_nsec = (long)(timeout_ns % 1000000000u) };

	return (int)os_call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, expected,
			    timeout_ns ? (long)&ts : 0, 0, 0);
}

void os_futex_wake(const uint32_t *word, int count)
{
	os_call(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
}

#define LINE_MAX_BYTES 4096

/* Hands the whole lines in buf[0..used) to fn; returns what is left over, or SIZE_MAX
 * when fn asked to stop. */
static size_t feed_lines(char *buf, size_t used, bool (*fn)(char *, void *), void *arg)
{
	size_t start = 0;

	for (size_t i = 0; i < used; i++) {
		if (buf[i] != '\n')
			continue;
		buf[i] = '\0';
		if (!fn(buf + start, arg))
			return SIZE_MAX;
		start = i + 1;
	}
	if (start == 0 && used == LINE_MAX_BYTES - 1) { /* cut an overlong line */
		buf[used] = '\0';
		return fn(buf, arg) ? 0 : SIZE_MAX;
	}
	for (size_t i = start; i < used; i++)
		buf[i - start] = buf[i];
	return used - start;
}

/* The buffer is larger than the usual frame limit on purpose: DUMP context only. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wframe-larger-than="
int os_each_line(const char *path, bool (*fn)(char *line, void *arg), void *arg)
{
	char buf[LINE_MAX_BYTES];
	size_t used = 0;
	int fd = os_open(path, O_RDONLY, 0);

	if (fd < 0)
		return fd;
	for (;;) {
		long n = os_read(fd, buf + used, sizeof(buf) - 1 - used);

		if (n <= 0) {
			if (n == 0 && used > 0) {
				buf[used] = '\0';
				fn(buf, arg);
			}
			os_close(fd);
			return (int)n;
		}
		used = feed_lines(buf, used + (size_t)n, fn, arg);
		if (used == SIZE_MAX) {
			os_close(fd);
			return 0;
		}
	}
}
#pragma GCC diagnostic pop

struct dirent64 { /* the kernel's */
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

int os_each_entry(const char *path, void (*fn)(const char *name, void *arg), void *arg)
{
	uint64_t buf[64];
	long n;
	int fd = os_open(path, O_RDONLY | O_DIRECTORY, 0);

	if (fd < 0)
		return fd;
	while ((n = os_call(SYS_getdents64, fd, (long)buf, sizeof(buf), 0, 0, 0)) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64 *d = (void *)((char *)buf + at);

			if (d->name[0] != '.')
				fn(d->name, arg);
			at += d->reclen;
		}
	os_close(fd);
	return (int)n;
}

uintptr_t os_parse_hex(const char **text)
{
	uintptr_t value = 0;

	for (;; (*text)++) {
		char c = **text;

		if (c >= '0' && c <= '9')
			value = value << 4 | (uintptr_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (uintptr_t)(c - 'a' + 10);
		else
			return value;
	}
}

bool os_parse_mapping(const char *line, struct os_mapping *out)
{
	const char *at = line;

	out->lo = os_parse_hex(&at);
	if (at == line || *at++ != '-')
		return false;
	out->hi = os_parse_hex(&at);
	if (strlen(at) < 6 || at[0] != ' ')
		return false;
	out->readable = at[1] == 'r';
	out->writable = at[2] == 'w';
	out->executable = at[3] == 'x';
	out->shared = at[4] == 's';
	out->path = strchr(at, '/');
	if (!out->path)
		out->path = strchr(at, '[');
	return true;
}

struct program {
	uintptr_t header; /* an address in it */
	char *buf;
	size_t size;
};

static bool see_program(char *line, void *arg)
{
	struct program *p = arg;
	struct os_mapping m;

	if (!os_parse_mapping(line, &m) || p->header - m.lo >= m.hi - m.lo)
		return true;
	for (size_t i = 0; m.path && i < p->size; i++) {
		p->buf[i] = i + 1 < p->size ? m.path[i] : '\0';
		if (m.path[i] == '\0')
			break;
	}
	return false;
}

/* The name by which it was called: where /proc is not there. */
static void take_name(char *buf, size_t size)
{
	const uintptr_t *entry = aux_entry(AT_EXECFN);
	const char *name = entry && entry[0] == AT_EXECFN ? (const char *)entry[1] : NULL;

	if (name && strlen(name) < size)
		memcpy(buf, name, strlen(name) + 1);
}

void os_program(char *buf, size_t size)
{
	const uintptr_t *entry = aux_entry(AT_PHDR);
	struct program p = { entry && entry[0] ? entry[1] : 0, buf, size };
	long n;

	buf[0] = '\0';
	if (filter_from_before()) {
		os_each_line("/proc/thread-self/maps", see_program, &p);
	} else {
		n = os_readlink("/proc/thread-self/exe", buf, size - 1);
		buf[n > 0 ? n : 0] = '\0';
	}
	if (!buf[0])
		take_name(buf, size);
}

const char *os_error_text(int error)
{
	switch (error) {
	case -EACCES:
	case -EPERM:
		return "permission denied";
	case -ENOENT:
		return "no such file or directory";
	case -ENOSPC:
		return "no space left on device";
	case -EDQUOT:
		return "the disk quota is used up";
	case -EROFS:
		return "read-only file system";
	case -EFBIG:
		return "file too large (RLIMIT_FSIZE)";
	case -ENOMEM:
		return "out of memory";
	case -EMFILE:
	case -ENFILE:
		return "too many open files";
	case -ENOTDIR:
		return "not a directory";
	case -EISDIR:
		return "is a directory";
	case -ELOOP:
		return "a symbolic link is in the way";
	default:
		return "it failed";
	}
}

/* Its answer to the request that asks for it; for a processor the instructions change
 * nothing. */
bool os_is_in_valgrind(void)
{
	const uint64_t request[6] = { 0x1001 };
	uint64_t answer = 0;

	__asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\t"
			 "rolq $61, %%rdi\n\trolq $51, %%rdi\n\t"
			 "xchgq %%rbx, %%rbx"
			 : "+d"(answer)
			 : "a"(request)
			 : "cc", "memory");
	return answer != 0;
}
