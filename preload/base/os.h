/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os: the only place that makes system calls. Everything here is a raw system call: it
 * neither reads nor writes errno, is no cancellation point, and works before libc is
 * initialised. Failures are negative errno values, or NULL for mappings.
 */
#ifndef PRELOAD_BASE_OS_H
#define PRELOAD_BASE_OS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#include "preload/base/base.h"

struct stat;

/* How many filters of system calls the program has installed (filter.h). Atomic. */
extern uint32_t os_filters HIDDEN;
/* FAST. It has some. */
static inline bool os_is_filtered(void)
{
	return __builtin_expect(__atomic_load_n(&os_filters, __ATOMIC_RELAXED) != 0, 0);
}
/* SIGNAL. One of them would kill for this call. */
bool os_refused(long nr, const long args[6]);

/* SIGNAL. The system call itself; the result is the kernel's (-errno on failure). */
static inline long os_call_unasked(long nr, long a, long b, long c, long d, long e,
				   long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/* SIGNAL. The same, but -EPERM instead of the end of the program. */
static inline long os_call(long nr, long a, long b, long c, long d, long e, long f)
{
	if (os_is_filtered() && os_refused(nr, (const long[6]){ a, b, c, d, e, f }))
		return -1; /* EPERM */
	return os_call_unasked(nr, a, b, c, d, e, f);
}

/* SIGNAL. For calls that libc makes for us: true, -EPERM should be the answer. */
static inline bool os_is_refused(long nr, long first)
{
	return os_is_filtered() && os_refused(nr, (const long[6]){ first });
}

/* Memory. SIGNAL. Sizes are bytes and multiples of OS_PAGE. */
void *os_map(size_t size);	  /* private, readable, writable, zero */
void *os_map_shared(size_t size); /* likewise, with processes made from now on */
void *os_reserve(size_t size);	  /* address space only, PROT_NONE, no commit charge */
int os_commit(void *addr, size_t size); /* make reserved pages usable */
/* Would the system let a program that asks for size bytes at once have them? What is
 * reserved is not counted, and usable for as much as the address space holds. */
bool os_may_have(size_t size);
bool os_unmap(void *addr, size_t size); /* false: a filter refuses, or it was split */
bool os_purge(void *addr,
	      size_t size); /* give the pages back; true: they read as zero now */
/* The kernel clears it in a forked child, by whatever call. False: refused. */
bool os_wipe_on_fork(void *addr, size_t size);
bool os_hugepage(void *addr, size_t size, bool on); /* MADV_HUGEPAGE / NOHUGEPAGE */
/* A byte for each OS page, odd if there is memory behind it. False: not known. */
bool os_resident(void *addr, size_t size, unsigned char *out);
/* The program may have pages that a thread of its own, or another process, supplies when
 * they are asked for (userfaultfd). */
void os_note_userfaultfd(void);
bool os_faults_are_served(void);
void os_dontdump(void *addr, size_t size);
void os_name(void *addr, size_t size,
	     const char *name); /* "[anon:NAME]" where the kernel can */
/* Moves the pages of [from, from+size) to [to, to+size), which must be mapped; from stays
 * mapped and reads as zero. False: nothing was changed. */
bool os_move_pages(void *from, void *to, size_t size);

/* Files. SIGNAL. Paths are absolute or relative to the current directory. */
int os_open(const char *path, int flags, unsigned mode); /* O_CLOEXEC is added */
int os_close(int fd);
long os_read(int fd, void *buf, size_t size);		 /* restarts on EINTR */
long os_write_all(int fd, const void *buf, size_t size); /* size, or -errno */
int os_rename(const char *from, const char *to);
int os_unlink(const char *path);
/* What the file is; the way libc asks. Zero or -errno. */
int os_stat(int fd, struct stat *out);
int os_lstat(const char *path, struct stat *out); /* of a link, not of what it leads to */
long os_file_size(int fd);
/* Maps size bytes of fd; NULL on failure. shared_rw: MAP_SHARED and writable, else a
 * private read-only view. */
void *os_map_file(int fd, size_t size, bool shared_rw);
long os_readlink(const char *path, char *buf, size_t size); /* length; not terminated */
/* DUMP. The program's file, terminated, or an empty string. */
void os_program(char *buf, size_t size);

/* SIGNAL. Fills mask, which is zero, with all signals but those whose bits (1 << signal -
 * 1) are in without, and the two that libc keeps for itself. */
void os_fill_signals(sigset_t *mask, uint64_t without);

/* Process and time. SIGNAL. */
/* Who we are (os_ids.c). Where a filter may kill for asking, what was learned before:
 * at the start, before a filter is installed by the only thread, and in a forked child.
 */
void os_learn_ids(void);
int os_getpid(void);
int os_getpid_now(void); /* also in a child that shares our memory */
int os_getppid(void);	 /* 0: not to be had */
int os_gettid(void);
uint64_t os_now_ns(void);      /* CLOCK_MONOTONIC */
uint64_t os_coarse_ns(void);   /* the same by a few ms: cheaper */
uint64_t os_realtime_ns(void); /* CLOCK_REALTIME */
uint64_t os_process_ns(void);  /* CPU time used; a system call */
uint64_t os_thread_ns(void);
/* INIT. The kernel's clock_gettime(), which returns 0 or an error, in the program's own
 * memory (vDSO); NULL: libc's, which takes half as long again. */
void os_set_clock(int (*clock)(clockid_t id, struct timespec *out));
/* From now on the clocks do not read the time stamp counter: the program has forbidden
 * it. */
void os_avoid_counter(void);
void os_random(void *buf,
	       size_t size);	     /* from the kernel, else from clock and addresses */
size_t os_address_space_limit(void); /* RLIMIT_AS in bytes, SIZE_MAX when unlimited */
bool os_is_secure(void);	     /* AT_SECURE: set-user-ID or the like */
/* FAST. By an emulator of user space, which has no vDSO: qemu before 8.2, which keeps an
 * entry for every page that is mapped. */
bool os_is_emulated(void);
void os_exit_group(int status) __attribute__((noreturn));
void os_yield(void);

/*
 * A thread without libc's help (the live agent). SIGNAL. fn runs on the stack that ends
 * at stack_end, with tls as its thread pointer, a descriptor table of its own and the
 * caller's signal mask; *tid is its id until the kernel sets it to 0 at its end. fn must
 * not return: it ends with os_leave_thread(). Result: the id or -errno.
 */
long os_clone_thread(void *stack_end, void *tls, uint32_t *tid, void (*fn)(void));
/* Gives the pages of [area, area + size), the caller's own stack among them, back to the
 * system and ends the calling thread. SIGNAL. */
void os_leave_thread(void *area, size_t size) __attribute__((noreturn));

/* Futex, private to the process. SIGNAL. timeout_ns 0: no limit. Returns 0, -EAGAIN,
 * -EINTR or -ETIMEDOUT. */
int os_futex_wait(const uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void os_futex_wake(const uint32_t *word, int count);

/* DUMP. Calls fn for every line of a file of /proc without its newline, from a buffer on
 * the stack; stops when fn returns false. Returns 0 or -errno. Lines over 4095 bytes are
 * cut. */
int os_each_line(const char *path, bool (*fn)(char *line, void *arg), void *arg);

/* SIGNAL. Calls fn for the name of every entry of a directory that does not begin with a
 * dot. Returns 0 or -errno. */
int os_each_entry(const char *path, void (*fn)(const char *name, void *arg), void *arg);

/* A line of /proc/PID/maps: "lo-hi rwxp offset dev inode   path". False: it is none. */
struct os_mapping {
	uintptr_t lo, hi;
	bool readable, writable, executable, shared;
	const char
		*path; /* a file's, or a name of the kernel's in brackets; NULL: none */
};
bool os_parse_mapping(const char *line, struct os_mapping *out);
/* SIGNAL. The number that *text begins with, in small letters; *text: what follows. */
uintptr_t os_parse_hex(const char **text);

/* FAST. What -errno of a file means, for people. */
const char *os_error_text(int error);

/* Does valgrind run the program? It maps memory of its own meanwhile, and ends at a
 * clone() that is not libc's. */
bool os_is_in_valgrind(void);

#endif
