/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop: the other threads stand still, see stop.h.
 *
 * First choice is ptrace, from a process cloned for it that shares our memory: it seizes and
 * interrupts every thread but the caller's, reads their registers into shared memory, and
 * waits to be told to let go. System calls that the stop interrupted are rewound, so the
 * program sees no EINTR. Where ptrace is refused (a debugger or strace is there, seccomp,
 * Yama) each thread gets a signal and waits in its handler (stop_signal.c).
 *
 * The tracer runs on its own stack with the caller's thread pointer: raw system calls only.
 */
#include "profiler/leak/stop.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"

#define TRACER_STACK (64 * KIB)
#define ROUNDS	     64 /* listings of the threads; new ones keep coming only from a fork bomb */

enum phase { PHASE_START, PHASE_GO, PHASE_STOPPED, PHASE_FAILED, PHASE_RESUME };

static struct {
	uint32_t phase; /* enum phase; atomic, futex */
	int pid, caller; /* of the program; tid of the thread that stops */
	int tracer;	 /* pid; 0: none */
	int error;	 /* of the tracer's first failure */
	void *stack;
	struct world *world;
	uint32_t pending[STOP_MAX_THREADS]; /* signal to deliver at the end */
} tracer;

static void set_phase(enum phase phase)
{
	atomic_store_release(&tracer.phase, (uint32_t)phase);
	os_futex_wake(&tracer.phase, 100);
}

static void wait_phase_not(enum phase a, enum phase b)
{
	for (;;) {
		uint32_t now = atomic_load_acquire(&tracer.phase);

		if (now != (uint32_t)a && now != (uint32_t)b)
			return;
		os_futex_wait(&tracer.phase, now, 0);
	}
}

/* ---- listing ---- */

struct lister {
	struct world *w;
	int caller;
	uint32_t added;
};

static bool is_known(const struct world *w, int tid)
{
	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].tid == tid)
			return true;
	return false;
}

struct dirent64 {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

static int parse_tid(const char *name)
{
	int tid = 0;

	for (; *name >= '0' && *name <= '9'; name++)
		tid = tid * 10 + (*name - '0');
	return tid;
}

/* Adds tasks of pid that are not in w yet. Returns how many, or -errno. */
int stop_list_threads(struct world *w, int pid, int caller)
{
	uint64_t buf[64];
	char path[48];
	int fd, added = 0;
	long n;

	fmt_string(path, sizeof(path), "/proc/%d/task", pid);
	fd = os_open(path, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	while ((n = os_call(SYS_getdents64, fd, (long)buf, sizeof(buf), 0, 0, 0)) > 0) {
		for (long at = 0; at < n;) {
			struct dirent64 *d = (void *)((char *)buf + at);
			int tid = parse_tid(d->name);

			at += d->reclen;
			if (tid <= 0 || tid == caller || is_known(w, tid))
				continue;
			if (w->nthreads == STOP_MAX_THREADS) {
				w->nmissed++;
				continue;
			}
			w->threads[w->nthreads++] = (struct stopped_thread){ .tid = tid };
			added++;
		}
	}
	os_close(fd);
	return added;
}

/* ---- the tracer ---- */

static long trace(long request, int tid, long addr, long data)
{
	return os_call(SYS_ptrace, request, tid, addr, data, 0, 0);
}

static bool seize(struct stopped_thread *t)
{
	long ret = trace(PTRACE_SEIZE, t->tid, 0, 0);

	if (ret == -ESRCH) { /* it has just ended */
		t->tid = 0;
		return true;
	}
	if (ret < 0) {
		tracer.error = (int)ret;
		return false;
	}
	trace(PTRACE_INTERRUPT, t->tid, 0, 0);
	return true;
}

static void await_stop(struct stopped_thread *t, uint32_t *pending)
{
	int status = 0;
	long ret;

	do {
		ret = os_call(SYS_wait4, t->tid, (long)&status, __WALL, 0, 0, 0);
	} while (ret == -EINTR);
	if (ret < 0 || !WIFSTOPPED(status)) {
		t->tid = 0; /* ended meanwhile */
		return;
	}
	if (status >> 16 == 0) /* about to get a signal: deliver it when we let go */
		*pending = (uint32_t)WSTOPSIG(status);
}

static void copy_registers(struct stopped_thread *t, const struct user_regs_struct *r)
{
	const uintptr_t all[16] = { r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi,
				    r->rbp, r->rsp, r->r8,  r->r9,  r->r10, r->r11,
				    r->r12, r->r13, r->r14, r->r15 };

	memcpy(t->gprs, all, sizeof(all));
	t->regs = (struct unwind_regs){ r->rip, r->rsp, r->rbp, r->rbx,
					r->r12, r->r13, r->r14, r->r15 };
	t->fs_base = r->fs_base;
}

static void read_registers(struct stopped_thread *t)
{
	struct user_regs_struct regs;
	struct user_fpregs_struct fp;
	struct iovec v = { &regs, sizeof(regs) };

	if (trace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, (long)&v) < 0)
		return;
	copy_registers(t, &regs);
	v = (struct iovec){ &fp, sizeof(fp) };
	if (trace(PTRACE_GETREGSET, t->tid, NT_FPREGSET, (long)&v) == 0)
		memcpy(t->xmm, fp.xmm_space, sizeof(t->xmm));
	t->captured = true;
}

/* A blocking call that failed with EINTR because of us is made again. */
static void let_go(struct stopped_thread *t, uint32_t pending)
{
	struct user_regs_struct regs;
	struct iovec v = { &regs, sizeof(regs) };

	if (t->tid == 0)
		return;
	if (pending == 0 && trace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, (long)&v) == 0 &&
	    (long)regs.rax == -EINTR && (long)regs.orig_rax >= 0) {
		regs.rip -= 2; /* the syscall instruction */
		regs.rax = regs.orig_rax;
		trace(PTRACE_SETREGSET, t->tid, NT_PRSTATUS, (long)&v);
	}
	trace(PTRACE_DETACH, t->tid, 0, (long)pending);
}

static bool stop_all(struct world *w)
{
	uint32_t done = 0;

	for (int round = 0; round < ROUNDS; round++) {
		int added = stop_list_threads(w, tracer.pid, tracer.caller);

		if (added < 0) {
			tracer.error = added;
			return false;
		}
		if (added == 0)
			return true;
		for (uint32_t i = done; i < w->nthreads; i++)
			if (!seize(&w->threads[i])) {
				w->nthreads = i; /* those before are ours to let go */
				return false;
			}
		for (; done < w->nthreads; done++)
			if (w->threads[done].tid)
				await_stop(&w->threads[done], &tracer.pending[done]);
	}
	return true;
}

static __attribute__((noreturn)) int tracer_main(void *arg)
{
	struct world *w = tracer.world;
	bool ok;

	(void)arg;
	wait_phase_not(PHASE_START, PHASE_START);
	ok = stop_all(w);
	for (uint32_t i = 0; ok && i < w->nthreads; i++)
		if (w->threads[i].tid)
			read_registers(&w->threads[i]);
	if (ok) {
		set_phase(PHASE_STOPPED);
		wait_phase_not(PHASE_STOPPED, PHASE_STOPPED);
	}
	for (uint32_t i = 0; i < w->nthreads; i++)
		let_go(&w->threads[i], tracer.pending[i]);
	if (!ok)
		set_phase(PHASE_FAILED);
	for (;;)
		os_call(SYS_exit, 0, 0, 0, 0, 0, 0);
}

/* ---- the caller's side ---- */

static void reap_tracer(void)
{
	long ret;

	do {
		ret = os_call(SYS_wait4, tracer.tracer, 0, __WALL, 0, 0, 0);
	} while (ret == -EINTR);
	tracer.tracer = 0;
	meta_unmap(tracer.stack, TRACER_STACK, META_LEAK);
	tracer.stack = NULL;
}

static int start_tracer(void)
{
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED;

	memset(tracer.pending, 0, sizeof(tracer.pending));
	tracer.error = 0;
	atomic_store_release(&tracer.phase, (uint32_t)PHASE_START);
	tracer.tracer = clone(tracer_main, (char *)tracer.stack + TRACER_STACK, flags, NULL);
	return tracer.tracer > 0 ? 0 : -EAGAIN;
}

static int stop_by_ptrace(void)
{
	long dumpable = os_call(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0, 0);

	if (start_tracer() != 0)
		return -EAGAIN;
	os_call(SYS_prctl, PR_SET_PTRACER, tracer.tracer, 0, 0, 0, 0);
	if (dumpable != 1)
		os_call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0, 0);
	set_phase(PHASE_GO);
	wait_phase_not(PHASE_START, PHASE_GO);
	if (dumpable != 1)
		os_call(SYS_prctl, PR_SET_DUMPABLE, dumpable, 0, 0, 0, 0);
	os_call(SYS_prctl, PR_SET_PTRACER, 0, 0, 0, 0, 0);
	if (atomic_load_acquire(&tracer.phase) == PHASE_STOPPED)
		return 0;
	reap_tracer();
	return tracer.error ? tracer.error : -EPERM;
}

static void count_missed(struct world *w)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < w->nthreads; i++) {
		if (w->threads[i].tid == 0)
			continue;
		if (!w->threads[i].captured)
			w->nmissed++;
		kept++;
	}
	if (w->nmissed)
		fmt_string(w->reason, sizeof(w->reason),
			   "%u of %u other threads could not be stopped", w->nmissed, kept);
}

/* The memory is mapped before any lock of ours is held over the stop. */
int world_prepare(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->how = "alone";
	w->threads = meta_map(STOP_MAX_THREADS * sizeof(*w->threads), META_LEAK);
	tracer.stack = meta_map(TRACER_STACK, META_LEAK);
	tracer.world = w;
	tracer.pid = os_getpid();
	tracer.caller = os_gettid();
	return w->threads && tracer.stack ? 0 : -ENOMEM;
}

int world_stop(struct world *w)
{
	int others = stop_list_threads(w, tracer.pid, tracer.caller);
	int error;

	if (others < 0) {
		fmt_string(w->reason, sizeof(w->reason),
			   "cannot list threads: /proc is not readable");
		return others;
	}
	w->nthreads = 0;
	if (others == 0)
		return 0;
	w->how = "ptrace";
	error = stop_by_ptrace();
	if (error) {
		w->nthreads = w->nmissed = 0;
		w->how = "signal";
		error = stop_by_signal(w, tracer.pid, tracer.caller);
	}
	count_missed(w);
	return error;
}

void world_resume(struct world *w)
{
	if (strcmp(w->how, "signal") == 0) {
		resume_by_signal(w);
	} else if (tracer.tracer) {
		set_phase(PHASE_RESUME);
		reap_tracer();
	}
}

void world_free(struct world *w)
{
	meta_unmap(w->threads, STOP_MAX_THREADS * sizeof(*w->threads), META_LEAK);
	meta_unmap(tracer.stack, TRACER_STACK, META_LEAK);
	w->threads = NULL;
	tracer.stack = NULL;
}
