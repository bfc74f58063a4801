/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop: the other threads stand still, see stop.h.
 *
 * First choice is ptrace, from a process cloned for it (stop_trace.c): no system call of
 * the program fails for it. Where ptrace is refused (a debugger or strace is there,
 * seccomp, Yama) each thread gets a signal and waits in its handler (stop_signal.c). A
 * process with one thread only needs neither.
 *
 * While the world stands, the calling thread takes no signals: a handler of the program
 * could wait for a stopped thread.
 */
#include "profiler/leak/stop.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "preload/base/fmt.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"
#include "profiler/stack/module.h"

#define GONE	       'X' /* as the kernel says */
#define EXITING	       0x4 /* the kernel's flag: it runs none of the program any more */
#define POPULATE_WRITE 23  /* MADV_POPULATE_WRITE, since Linux 5.14 */
#define FLAGS_FIELD    7   /* in /proc/PID/stat, behind the name */
#define LOOK_NS	       2000000u /* between two looks at who can be reached */

enum stopped_by { STOPPED_NOT, STOPPED_BY_TRACE, STOPPED_BY_SIGNAL };

static struct {
	struct lock lock; /* one stop at a time: from world_prepare() to world_free() */
	/* The rest is guarded by lock. */
	char *stack;   /* of the tracer */
	uint64_t mask; /* of the calling thread's signals, before */
	bool masked;
	bool hurries; /* the calling thread runs before others */
	enum stopped_by by;
} stop = { .lock = LOCK_INIT(LOCK_RANK_LEAK) };

/* ---- listing ---- */

/* What one listing has seen. The kernel lists threads as they were made: in the order of
 * the list, ids rising until they wrap around. So a look at all is seldom needed. */
struct listing {
	uint32_t at; /* where the next known thread should be */
	int highest; /* id in the list */
};

static struct listing begin_listing(const struct world *w)
{
	struct listing l = { 0, 0 };

	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].tid > l.highest)
			l.highest = w->threads[i].tid;
	return l;
}

static bool is_known(const struct world *w, int tid, struct listing *l)
{
	if (tid > l->highest) {
		l->highest = tid;
		return false;
	}
	if (l->at < w->nthreads && w->threads[l->at].tid == tid) {
		l->at++;
		return true;
	}
	for (uint32_t i = 0; i < w->nthreads; i++) {
		if (w->threads[i].tid != tid)
			continue;
		l->at = i + 1;
		return true;
	}
	return false;
}

static int parse_tid(const char *name)
{
	int tid = 0;

	for (; *name >= '0' && *name <= '9'; name++)
		tid = tid * 10 + (*name - '0');
	return tid;
}

/* 1: it is new. */
static int add_thread(struct world *w, int tid, int caller, struct listing *l)
{
	if (tid <= 0 || tid == caller || is_known(w, tid, l))
		return 0;
	if (w->nthreads == STOP_MAX_THREADS) {
		w->overflow = true;
		return 0;
	}
	w->threads[w->nthreads++] = (struct stopped_thread){ .tid = tid };
	return 1;
}

struct adding {
	struct world *w;
	struct listing listing;
	int caller, added;
};

static void see_task(const char *name, void *arg)
{
	struct adding *a = arg;

	a->added += add_thread(a->w, parse_tid(name), a->caller, &a->listing);
}

int stop_list_threads(struct world *w, int pid, int caller)
{
	char path[48];
	struct adding a = { .w = w, .listing = begin_listing(w), .caller = caller };
	int error;

	fmt_string(path, sizeof(path), "/proc/%d/task", pid);
	error = os_each_entry(path, see_task, &a);
	return error ? error : a.added;
}

/* Threads of pid, by the links that the kernel counts for the folder; 0: not known. */
uint32_t stop_count_threads(int pid)
{
	struct stat st;
	char path[48];

	fmt_string(path, sizeof(path), "/proc/%d/task", pid);
	if (os_lstat(path, &st) != 0 || st.st_nlink < 3)
		return 0;
	return (uint32_t)st.st_nlink - 2;
}

/* Are there others than the caller? Or -errno. */
static int has_others(struct world *w, int pid, int caller)
{
	int others = stop_count_threads(pid) > 1;

	if (others)
		return others;
	w->nthreads = 0; /* to be sure, and for the error */
	others = stop_list_threads(w, pid, caller);
	w->nthreads = 0;
	w->overflow = false;
	return others;
}

/* The number behind so many blanks. */
static unsigned long number_after(const char *text, int blanks)
{
	unsigned long n = 0;

	for (; *text && blanks > 0; text++)
		blanks -= *text == ' ';
	for (; *text >= '0' && *text <= '9'; text++)
		n = n * 10 + (unsigned long)(*text - '0');
	return n;
}

/* The letter of its state; or GONE, also of one that is on its way to that; or 0: not
 * known. */
static char state_of(int pid, int tid)
{
	char path[64], text[128];
	const char *state;
	long n;
	int fd;

	fmt_string(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	fd = os_open(path, O_RDONLY, 0);
	if (fd < 0)
		return fd == -ENOENT ? GONE : 0;
	n = os_read(fd, text, sizeof(text) - 1);
	os_close(fd);
	if (n <= 0)
		return n == -ESRCH ? GONE : 0;
	text[n] = '\0';
	state = strrchr(text, ')'); /* the name before it may hold anything */
	if (!state || state[1] != ' ')
		return 0;
	return number_after(state, FLAGS_FIELD) & EXITING ? GONE : state[2];
}

bool stop_is_dead(int pid, int tid)
{
	const char state = state_of(pid, tid);

	return state == GONE || state == 'Z';
}

bool stop_is_deaf(int pid, int tid)
{
	return state_of(pid, tid) == 'D';
}

/* The kernel names the tracer in the first lines. */
bool stop_is_traced(int pid, int tid)
{
	char path[64], text[512];
	const char *at;
	long n;
	int fd;

	fmt_string(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	fd = os_open(path, O_RDONLY, 0);
	n = fd >= 0 ? os_read(fd, text, sizeof(text) - 1) : 0;
	if (fd >= 0)
		os_close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strstr(text, "TracerPid:\t");
	return at && at[11] != '0';
}

/* Without /proc: the kernel refuses to "unshare" the threads of a process with several.
 */
static bool is_alone(void)
{
	return os_call(SYS_unshare, CLONE_THREAD, 0, 0, 0, 0, 0) == 0;
}

/* ---- life ---- */

/* The memory is mapped before any lock of ours is held over the stop. */
static NO_LOCK_CHECK int prepare(struct world *w, void *(*map)(size_t, enum meta_tag))
{
	memset(w, 0, sizeof(*w));
	w->how = "alone";
	w->threads = map(STOP_MAX_THREADS * sizeof(*w->threads), META_LEAK);
	lock_acquire_nested(&stop.lock);
	stop.by = STOPPED_NOT;
	stop.stack = map(STOP_STACK, META_LEAK);
	if (stop_vectors_map(w, map) && w->threads && stop.stack)
		return 0;
	world_free(w);
	return -ENOMEM;
}

int world_prepare(struct world *w)
{
	return prepare(w, meta_map);
}

int world_prepare_for_copy(struct world *w)
{
	int error = prepare(w, meta_map_shared);

	w->for_copy = true;
	if (error == 0) /* so that no fault of the tracer waits for a clone */
		os_call(SYS_madvise, (long)stop.stack, STOP_STACK, POPULATE_WRITE, 0, 0,
			0);
	return error;
}

NO_LOCK_CHECK void world_free(struct world *w)
{
	meta_unmap(stop.stack, STOP_STACK, META_LEAK);
	stop.stack = NULL;
	lock_release(&stop.lock);
	meta_unmap(w->threads, STOP_MAX_THREADS * sizeof(*w->threads), META_LEAK);
	w->threads = NULL;
	stop_vectors_unmap(w);
}

/* ---- stopping ---- */

static void mask_signals(void)
{
	const uint64_t all = ~(uint64_t)0;

	stop.masked = os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all,
			      (long)&stop.mask, sizeof(all), 0, 0) == 0;
}

static void unmask_signals(void)
{
	if (stop.masked)
		os_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&stop.mask, 0,
			sizeof(stop.mask), 0, 0);
	stop.masked = false;
}

/* Forgets those that have ended, and counts those that are not in our hands. */
static void count_missed(struct world *w, int pid)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < w->nthreads; i++) {
		struct stopped_thread *t = &w->threads[i];

		if (t->tid && !t->captured && stop_is_dead(pid, t->tid))
			t->tid = 0;
		if (t->tid == 0)
			continue;
		w->threads[kept] = *t;
		w->nmissed += !t->captured;
		kept++;
	}
	w->nthreads = kept;
	if (w->overflow)
		fmt_string(w->reason, sizeof(w->reason), "more than %d threads",
			   STOP_MAX_THREADS);
	else if (w->nmissed)
		fmt_string(w->reason, sizeof(w->reason),
			   "%u of %u other threads could not be stopped", w->nmissed,
			   kept);
	w->nmissed += w->overflow;
}

static int by_signal(struct world *w, int pid, int caller)
{
	int error;

	w->nthreads = w->nwide = 0;
	w->overflow = false;
	w->how = "signal";
	error = stop_by_signal(w, pid, caller);
	if (error == 0)
		stop.by = STOPPED_BY_SIGNAL;
	else
		fmt_string(w->reason, sizeof(w->reason),
			   "neither ptrace nor a signal could stop the other threads");
	return error;
}

static int interrupt_others(struct world *w, int pid, int caller)
{
	w->how = "ptrace";
	w->nwide = 0;
	if (interrupt_by_trace(w, pid, caller, stop.stack) != 0)
		return by_signal(w, pid, caller);
	stop.by = STOPPED_BY_TRACE;
	return 0;
}

uint32_t world_list(struct world *w)
{
	w->nthreads = 0;
	w->overflow = false;
	stop_list_threads(w, os_getpid(), os_gettid());
	return w->nthreads;
}

void world_await_reachable(const struct world *w)
{
	const uint64_t until = os_now_ns() + STOP_PATIENCE_NS;
	const uint32_t never = 0;
	const int pid = os_getpid();

	for (uint32_t i = 0; i < w->nthreads; i++)
		while (stop_is_deaf(pid, w->threads[i].tid) && os_now_ns() < until)
			os_futex_wait(&never, 0, LOOK_NS);
}

int world_interrupt(struct world *w)
{
	int pid = os_getpid(), caller = os_gettid();
	int others = has_others(w, pid, caller), error;

	w->late = false;
	if (others < 0 && is_alone())
		others = 0;
	if (others < 0) {
		fmt_string(w->reason, sizeof(w->reason),
			   "cannot list threads: /proc is not readable");
		return others;
	}
	mask_signals();
	if (others == 0)
		return 0;
	error = interrupt_others(w, pid, caller);
	if (error)
		unmask_signals();
	return error;
}

int world_await(struct world *w)
{
	int pid = os_getpid(), error = 0;

	if (stop.by == STOPPED_BY_TRACE && await_by_trace() != 0) {
		stop.by = STOPPED_NOT;
		w->late = true;
		error = by_signal(w, pid, os_gettid());
	}
	if (error)
		unmask_signals();
	else if (stop.by != STOPPED_NOT)
		count_missed(w, pid);
	return error;
}

int world_stop(struct world *w)
{
	int error = world_interrupt(w);

	return error ? error : world_await(w);
}

void world_resume(struct world *w)
{
	if (stop.by == STOPPED_BY_SIGNAL)
		resume_by_signal();
	if (stop.by == STOPPED_BY_TRACE && !resume_by_trace()) {
		w->nmissed++;
		fmt_string(w->reason, sizeof(w->reason),
			   "the helper that held the other threads was killed");
	}
	stop.by = STOPPED_NOT;
	unmask_signals();
}

static bool set_policy(int policy, int priority)
{
	return os_call(SYS_sched_setscheduler, 0, policy, (long)&priority, 0, 0, 0) == 0;
}

void world_hurry(void)
{
	stop.hurries = os_call(SYS_sched_getscheduler, 0, 0, 0, 0, 0, 0) == SCHED_OTHER &&
		       set_policy(SCHED_RR, 1);
}

void world_hurry_alone(void)
{
	if (stop.hurries)
		set_policy(SCHED_RR | SCHED_RESET_ON_FORK, 1);
}

/* Who may have the one policy (RLIMIT_RTPRIO) may still not take the flag away. */
void world_hurry_no_more(void)
{
	if (stop.hurries && !set_policy(SCHED_OTHER, 0))
		set_policy(SCHED_OTHER | SCHED_RESET_ON_FORK, 0);
	stop.hurries = false;
}

void world_fork_child(void)
{
	lock_reset(&stop.lock);
	stop.by = STOPPED_NOT;
	stop.stack = NULL;
	stop_signal_fork_child();
}
