/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inject: see inject.h.
 *
 * The thread is interrupted, its registers are kept, and it is sent to the function with
 * signals blocked; the function ends in a breakpoint. With the old registers put back the
 * kernel finishes what it had begun: a call that the interruption broke off is made
 * again, a sleep goes on with the time that was left.
 */
#include "tools/lib/inject.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "profiler/control/request.h"
#include "tools/lib/proc.h"
#include "tools/lib/say.h"

#define FUNCTION	    "seep_agent_call"
#define READY		    "seep_agent_ready" /* AGENT_MAGIC when it can be called */
#define RED_ZONE	    128
#define STATE_BYTES	    16384  /* of vector registers, more than any processor has */
#define AWAIT_NS	    100000 /* between two looks whether it has stopped */
#define AWAIT_TIMES	    50000  /* so often */
#define ERESTART_NO_HANDLER 514	   /* the kernel's ERESTARTNOHAND */

struct victim {
	int tid;
	struct user_regs_struct regs;
	char *state; /* vector registers */
	size_t state_bytes;
	uint64_t mask;
};

/* ---- where the function is ---- */

static bool inside(size_t size, uint64_t offset, uint64_t bytes)
{
	return offset <= size && bytes <= size - offset;
}

/* The library's, in the process. */
struct place {
	bool mapped;
	uint64_t function, ready;
};

/* Value of a name among the dynamic symbols; 0: not there. */
static uint64_t find_symbol(const char *image, size_t size, const char *name)
{
	const Elf64_Ehdr *h = (const void *)image;
	const size_t bytes = strlen(name) + 1;
	const Elf64_Shdr *sh;

	if (size < sizeof(*h) || memcmp(image, ELFMAG, SELFMAG) != 0 ||
	    !inside(size, h->e_shoff, (uint64_t)h->e_shnum * sizeof(*sh)))
		return 0;
	sh = (const void *)(image + h->e_shoff);
	for (int i = 0; i < h->e_shnum; i++) {
		const Elf64_Sym *sym = (const void *)(image + sh[i].sh_offset);
		const Elf64_Shdr *str;

		if (sh[i].sh_type != SHT_DYNSYM || sh[i].sh_link >= h->e_shnum ||
		    !inside(size, sh[i].sh_offset, sh[i].sh_size))
			continue;
		str = &sh[sh[i].sh_link];
		if (!inside(size, str->sh_offset, str->sh_size))
			continue;
		for (size_t k = 0; k < sh[i].sh_size / sizeof(*sym); k++)
			if (inside(str->sh_size, sym[k].st_name, bytes) &&
			    memcmp(image + str->sh_offset + sym[k].st_name, name,
				   bytes) == 0)
				return sym[k].st_value;
	}
	return 0;
}

static struct place place_in_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct place in = { .mapped = true };
	struct stat st;
	void *p;

	if (fd < 0)
		return in;
	if (fstat(fd, &st) == 0 && st.st_size > 0) {
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p != MAP_FAILED) {
			in.function = find_symbol(p, (size_t)st.st_size, FUNCTION);
			in.ready = find_symbol(p, (size_t)st.st_size, READY);
			munmap(p, (size_t)st.st_size);
		}
	}
	close(fd);
	return in;
}

/* The same as addresses, with the values from the very file that is mapped from lo to hi.
 */
static struct place place_in_mapping(int view, uint64_t lo, uint64_t hi, const char *file)
{
	char *path = format_string("/proc/%d/map_files/%lx-%lx", view, lo, hi);
	char *in_root = format_string("/proc/%d/root%s", view, file);
	struct place at = place_in_file(path);

	if (!at.function)
		at = place_in_file(in_root);
	at.function += at.function ? lo : 0;
	at.ready += at.ready ? lo : 0;
	free(path);
	free(in_root);
	return at;
}

/* The file may be mapped to be read as well, by us for its names: what is run begins with
 * the last beginning before its code. */
static struct place find_place(int pid)
{
	const int view = proc_view(pid);
	char *path = format_string("/proc/%d/maps", view), *maps = proc_read(path, NULL);
	char *line, *rest = NULL;
	struct place at = { .mapped = false };
	uint64_t first = 0, first_end = 0;

	free(path);
	for (line = maps ? strtok_r(maps, "\n", &rest) : NULL; line && !at.function;
	     line = strtok_r(NULL, "\n", &rest)) {
		unsigned long lo, hi, offset;
		const char *file = strchr(line, '/');
		char rights[8];

		if (!file || !strstr(file, "/libseep.so") ||
		    sscanf(line, "%lx-%lx %7s %lx", &lo, &hi, rights, &offset) != 4)
			continue;
		if (offset == 0) {
			first = lo;
			first_end = hi;
		}
		if (strchr(rights, 'x') && first)
			at = place_in_mapping(view, first, first_end, file);
	}
	free(maps);
	return at;
}

/* ---- the thread ---- */

/* Waits for the next stop. False: the thread has ended. Our end lets it go, should it
 * hang in the kernel. */
static bool await(int tid, int *status)
{
	const struct timespec moment = { 0, AWAIT_NS };
	pid_t ret;

	for (int i = 0; i < AWAIT_TIMES; i++) {
		ret = waitpid(tid, status, __WALL | WNOHANG);
		if (ret != 0 && (ret > 0 || errno != EINTR))
			return ret == tid && WIFSTOPPED(*status);
		nanosleep(&moment, NULL);
	}
	die(EXIT_INCOMPLETE,
	    "thread %d waits in the kernel where it cannot be interrupted", tid);
}

static bool get_state(struct victim *v)
{
	struct iovec regs = { &v->regs, sizeof(v->regs) };
	struct iovec state = { v->state, STATE_BYTES };

	if (ptrace(PTRACE_GETREGSET, v->tid, NT_PRSTATUS, &regs) != 0 ||
	    ptrace(PTRACE_GETREGSET, v->tid, NT_X86_XSTATE, &state) != 0 ||
	    ptrace(PTRACE_GETSIGMASK, v->tid, sizeof(v->mask), &v->mask) != 0)
		return false;
	v->state_bytes = state.iov_len;
	return true;
}

static bool set_registers(int tid, const struct user_regs_struct *regs)
{
	struct iovec v = { (void *)(uintptr_t)regs, sizeof(*regs) };

	return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &v) == 0;
}

/* Calls that fail when a stop interrupts them, and can be made again. */
static bool fails_by_stop(const struct user_regs_struct *r)
{
	static const unsigned calls[] = {
		SYS_epoll_wait,	     SYS_epoll_pwait, 441 /* epoll_pwait2 */,
		SYS_recvfrom,	     SYS_recvmsg,     SYS_accept,
		SYS_accept4,	     SYS_semop,	      SYS_semtimedop,
		SYS_rt_sigtimedwait, SYS_io_getevents
	};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if ((long)r->rax == -EINTR && r->orig_rax == calls[i])
			return true;
	return false;
}

static void put_back(struct victim *v)
{
	struct iovec state = { v->state, v->state_bytes };

	if (fails_by_stop(&v->regs))
		v->regs.rax = (unsigned long)-ERESTART_NO_HANDLER;
	ptrace(PTRACE_SETREGSET, v->tid, NT_X86_XSTATE, &state);
	set_registers(v->tid, &v->regs);
	ptrace(PTRACE_SETSIGMASK, v->tid, sizeof(v->mask), &v->mask);
}

/* The call itself. False: the thread has ended, or did not come back. */
static bool call(struct victim *v, uint64_t function, uint64_t key)
{
	struct user_regs_struct regs = v->regs;
	uint64_t all_but_trap = ~(1ull << (SIGTRAP - 1));
	int status = 0;

	regs.rip = function;
	regs.rdi = key;
	regs.rsi = v->regs.rip;
	regs.rsp = (regs.rsp - RED_ZONE) & ~15ull;
	regs.orig_rax = (unsigned long)-1;
	regs.eflags &= ~0x400ul; /* the direction flag, as calls expect it */
	if (ptrace(PTRACE_SETSIGMASK, v->tid, sizeof(all_but_trap), &all_but_trap) != 0 ||
	    !set_registers(v->tid, &regs) || ptrace(PTRACE_CONT, v->tid, 0, 0) != 0)
		return false;
	return await(v->tid, &status) && WSTOPSIG(status) == SIGTRAP;
}

/* The place is looked up while the thread stands: it may just have made an exec. */
static char *call_in(struct victim *v, int pid, uint64_t key, bool *out_early)
{
	struct place at;
	int status = 0;
	long deliver = 0;

	if (ptrace(PTRACE_INTERRUPT, v->tid, 0, 0) != 0 || !await(v->tid, &status))
		return format_string("the thread ended");
	if (status >> 16 == 0) /* it was about to get a signal */
		deliver = WSTOPSIG(status);
	at = find_place(pid);
	*out_early = at.ready != 0 ? (uint64_t)ptrace(PTRACE_PEEKDATA, v->tid, at.ready,
						      0) != AGENT_MAGIC
				   : !at.mapped && proc_may_load_library(pid);
	if (*out_early || !at.function || !at.ready) {
		ptrace(PTRACE_DETACH, v->tid, 0, deliver);
		return *out_early ? format_string("it is still loading its libraries")
				  : format_string(
					    "it has no libseep.so, or another version");
	}
	if (!get_state(v))
		return format_string("its registers cannot be read");
	if (!call(v, at.function, key))
		return format_string("the thread did not return from the call");
	put_back(v);
	ptrace(PTRACE_DETACH, v->tid, 0, deliver);
	return NULL;
}

char *inject_call(int pid, uint64_t key, bool *out_early)
{
	struct victim v = { .tid = proc_pick_thread(pid, 0) };
	char *why;

	*out_early = false;
	if (v.tid == 0)
		return format_string("it has ended");
	if (proc_is_deaf(v.tid))
		return format_string(
			"every thread waits in the kernel where it cannot be "
			"interrupted");
	if (ptrace(PTRACE_SEIZE, v.tid, 0, 0) != 0)
		return format_string("ptrace is refused (%s): a debugger is there, or "
				     "the system forbids it; try as root",
				     strerror(errno));
	v.state = allocate(STATE_BYTES);
	why = call_in(&v, pid, key, out_early);
	if (why)
		ptrace(PTRACE_DETACH, v.tid, 0, 0);
	free(v.state);
	return why;
}
