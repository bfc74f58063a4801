/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live: see live.h.
 *
 * The screen is a look beside the program (beside.c) where that can be, and so is the
 * confirm (tracked.c); else they are made in a copy, as below.
 *
 * All our locks are taken, in order of rank, before a copy is made, so that every
 * structure is whole in it; the pause is the time from the first lock to the last. The
 * copy is no child that the program could wait for: it has no exit signal; its
 * descriptors are those of the agent.
 *
 * Where a thread's stack ends is known without stopping it if it waits in the same system
 * call before and after the copy and has not run in between: then what lies below is no
 * root. Other threads' stacks are roots as a whole, until they are stopped.
 *
 *   agent                          copy (screen)              copy (confirm)
 *   depths of waiting threads
 *   locks, clone, locks  --------> waits for the depths
 *   depths again         --------> marks
 *                        <-------- candidates, or a report
 *   locks, interrupt, clone
 *   await the stop, resume       ----------------------------> marks, sweeps, reports
 *                        <---------------------------------- what it remembers
 */
#include "profiler/leak/live.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "profiler/leak/beside.h"
#include "profiler/leak/collapse.h"
#include "profiler/leak/depth.h"
#include "profiler/leak/growth.h"
#include "profiler/leak/hidden.h"
#include "profiler/leak/history.h"
#include "profiler/leak/leak_int.h"
#include "profiler/leak/look.h"
#include "profiler/leak/pagemap.h"
#include "profiler/leak/sweep.h"
#include "profiler/leak/why.h"
#include "profiler/pprof/symbol.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"

#define CANDIDATES    ((size_t)1 << 21) /* words of the table; half of it is used */
#define MAX_HISTORY   ((size_t)1 << 20)
#define MAX_SITES     ((size_t)1 << 20)
#define NICE	      10	/* more than the agent */
#define FIRST	      (-20)	/* nice */
#define BRIEF_STACKS  100	/* more than anybody prints */
#define LOOK_AGAIN_NS 200000000 /* is the agent still there? */

enum outcome { OUTCOME_NONE, OUTCOME_CANDIDATES, OUTCOME_REPORTED };

/* Memory of the agent and its copies. What is not touched costs nothing. */
struct shared {
	uint32_t go; /* atomic, futex: for the copy of this number the agent has written
		      * what it knows */
	uint32_t outcome; /* atomic: enum outcome */
	int error;	  /* of writing the report */
	bool unsure;	  /* what it says is lost shall not be remembered */
	uint64_t screen_ns, confirm_ns;
	size_t ncandidates, nfresh, nhistory, nsites;
	struct world world; /* as of the stop: written after the copy was made */
	bool sp_valid[STOP_MAX_THREADS]; /* by place in world.threads */
	uintptr_t candidates[CANDIDATES];
	struct history_entry history[MAX_HISTORY];
	struct seen_site sites[MAX_SITES];
};

struct live {
	const struct live_request *request;
	struct live_answer *answer;
	struct cycle cycle;
	struct leak_result result;
	struct origin origin;
	struct shared *shared;
	struct depth *depths; /* of cycle.world.threads */
	int pid, agent;	      /* of the program; the agent's thread */
	int copy;
	uint32_t ncopies;
	int useless; /* a copy that was made too early; 0: none */
	int pagemap;
	int nice; /* the agent's, before and after the pause */
	bool confirm;
	bool copied; /* a copy was made, or tried */
	int error;
	int wait_error, killed_by; /* how the copy ended */
};

static void doubt_depths(void *arg)
{
	struct live *l = arg;

	depth_doubt(l->depths, &l->cycle.world);
}

/* In the copy: the world is those threads whose stack pointer is known. */
static void take_depths(struct live *l)
{
	struct world *w = &l->cycle.world;

	for (uint32_t i = 0; i < w->nthreads; i++) {
		struct stopped_thread *t = &w->threads[i];

		t->captured = l->shared->sp_valid[i];
		depth_put(&l->depths[i], t);
	}
}

/* ---- the copy ---- */

/* An exec may have ended the agent before the copy asked to be told of it. */
static bool agent_lives(const struct live *l)
{
	return os_call(SYS_getppid, 0, 0, 0, 0, 0, 0) == l->pid &&
	       os_call(SYS_tgkill, l->pid, l->agent, 0, 0, 0, 0) != -ESRCH;
}

/* A filter may allow one of the two. */
static __attribute__((noreturn)) void leave(int status)
{
	os_call(SYS_exit, status, 0, 0, 0, 0, 0);
	os_exit_group(status);
}

static void wait_for_go(const struct live *l)
{
	struct shared *s = l->shared;
	const struct timespec slice = { 0, LOOK_AGAIN_NS };
	uint32_t now;

	while ((now = atomic_load_acquire(&s->go)) < l->ncopies && agent_lives(l))
		os_call(SYS_futex, (long)&s->go, FUTEX_WAIT, now, (long)&slice, 0, 0);
	if (now != l->ncopies)
		leave(1);
}

/* Copies before the last one leave. */
static void tell_go(const struct live *l)
{
	struct shared *s = l->shared;

	atomic_store_release(&s->go, l->ncopies);
	os_call(SYS_futex, (long)&s->go, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
}

/* When memory is short it is the copy that has to go; its end leaves no trace. */
static void be_modest(const struct live *l)
{
	static const char worst[] = "1000";
	const uint64_t none[2] = { 0, 0 };
	int fd;

	os_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);
	os_call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0, 0);
	os_call(SYS_prlimit64, 0, RLIMIT_CORE, (long)none, 0, 0, 0);
	os_call(SYS_setpriority, PRIO_PROCESS, 0, l->nice + NICE, 0, 0, 0);
	fd = os_open("/proc/thread-self/oom_score_adj", O_WRONLY, 0);
	if (fd >= 0) {
		os_write_all(fd, worst, sizeof(worst) - 1);
		os_close(fd);
	}
}

static struct sweep_candidates candidates_of(struct shared *s)
{
	return (struct sweep_candidates){ .table = s->candidates,
					  .size = CANDIDATES,
					  .count = s->ncandidates,
					  .fresh = s->nfresh };
}

static void report(struct live *l, bool marked)
{
	struct shared *s = l->shared;
	struct leak_result *r = &l->result;
	int error;

	if (marked)
		cycle_sweep(&l->cycle);
	leak_judge(r);
	r->screen_ns = s->screen_ns;
	r->confirm_ns = s->confirm_ns;
	r->candidates = s->nfresh;
	r->mark_ns = os_now_ns() - r->checked_ns;
	error = leak_write_json_fd(r, l->request->report);
	if (error == 0 && l->request->profile >= 0)
		error = leak_write_profile_fd(r, l->request->profile);
	s->error = error;
	s->unsure = l->cycle.roots.is_late && l->cycle.at_once &&
		    r->verdict == LEAK_INCOMPLETE;
	s->nhistory = history_give(s->history, MAX_HISTORY);
	s->nsites = growth_give(s->sites, MAX_SITES);
	atomic_store_release(&s->outcome, (uint32_t)OUTCOME_REPORTED);
}

/* What is white now and was not, or is new since, has not been seen twice. */
static void work_on_confirm(struct live *l)
{
	struct sweep_candidates set = candidates_of(l->shared);

	if (!l->request->stop)
		sweep_keep_candidates(&l->cycle.marker, &set);
	report(l, true);
}

static void work_on_screen(struct live *l)
{
	struct shared *s = l->shared;
	struct sweep_candidates set = candidates_of(s);

	sweep_note_candidates(&l->cycle.marker, &set);
	s->ncandidates = set.count;
	s->nfresh = set.fresh;
	if (set.fresh == 0)
		report(l, true);
	else
		atomic_store_release(&s->outcome, (uint32_t)OUTCOME_CANDIDATES);
}

static __attribute__((noreturn)) void copy_main(struct live *l)
{
	struct world *w = &l->cycle.world;

	world_hurry_no_more();
	be_modest(l);
	symbol_copied();
	wait_for_go(l);
	if (l->confirm)
		*w = l->shared->world;
	else
		take_depths(l);
	l->result.stopped_by = l->confirm ? w->how : "";
	l->result.nthreads = l->confirm ? w->nthreads : 0;
	if (w->nmissed)
		leak_incomplete(&l->result, w->reason);
	if (!cycle_mark(&l->cycle))
		report(l, false);
	else if (l->confirm)
		work_on_confirm(l);
	else
		work_on_screen(l);
	leave(0);
}

/* ---- making it ---- */

static NO_LOCK_CHECK void take_locks(void)
{
	thread_fork_prepare();
	module_fork_prepare();
	sample_fork_prepare();
	site_fork_prepare();
	heap_fork_prepare();
	sample_pool_fork_prepare();
	meta_fork_prepare();
}

static NO_LOCK_CHECK void release_locks(void)
{
	meta_fork_done(false);
	sample_pool_fork_done(false);
	heap_fork_done(false);
	site_fork_done(false);
	sample_fork_done(false);
	module_fork_done(false);
	thread_fork_done(false);
}

/* Until it has ended. -errno, or its status. */
static long wait_for(int copy)
{
	int status = 0;
	long ret;

	do {
		ret = os_call(SYS_wait4, copy, (long)&status, __WALL, 0, 0, 0);
	} while (ret == -EINTR);
	return ret < 0 ? ret : status;
}

/* What it had to say counts, however it ended then. */
static enum outcome hear(struct live *l)
{
	const long status = wait_for(l->copy);

	l->wait_error = status < 0 ? (int)status : 0;
	l->killed_by = status >= 0 && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	return (enum outcome)atomic_load_acquire(&l->shared->outcome);
}

/* The copy goes on from here as well, and ends in copy_main(). */
static void clone_copy(struct live *l)
{
	world_hurry_alone();
	l->ncopies++;
	l->copy = (int)os_call(SYS_clone, 0, 0, 0, 0, 0, 0);
}

/* So that nobody waits for the pause to go on; where it is not allowed, as it is. */
static void hurry(struct live *l, bool on)
{
	if (on)
		l->nice = 20 - (int)os_call(SYS_getpriority, PRIO_PROCESS, 0, 0, 0, 0, 0);
	os_call(SYS_setpriority, PRIO_PROCESS, 0, on ? FIRST : l->nice, 0, 0, 0);
}

/* The copy is made while the threads are on their way to the stop. */
static void clone_stopped(struct live *l)
{
	struct world *w = &l->cycle.world;

	l->error = world_interrupt(w);
	if (l->error)
		return;
	clone_copy(l);
	if (l->copy == 0)
		return;
	l->error = world_await(w);
	if (l->error == 0 && !w->late)
		return;
	l->useless = l->copy > 0 ? l->copy : 0;
	l->copy = -1;
	if (l->error)
		l->ncopies++;
	else
		clone_copy(l);
}

static int with_loader_locked(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct live *l = arg;
	uint64_t start, pause;

	(void)info;
	(void)size;
	hurry(l, true);
	start = os_now_ns();
	take_locks();
	world_hurry(); /* not before: who holds a lock must come to run */
	if (l->confirm)
		clone_stopped(l);
	else
		clone_copy(l);
	if (l->copy == 0) {
		release_locks();
		copy_main(l);
	}
	if (l->confirm) {
		handed_ask_again(l->cycle.handed);
		world_resume(&l->cycle.world);
		l->shared->world = l->cycle.world;
	}
	release_locks();
	pause = os_now_ns() - start;
	world_hurry_no_more();
	hurry(l, false);
	if (l->confirm && pause > l->shared->confirm_ns) /* there may have been one */
		l->shared->confirm_ns = pause;
	else if (!l->confirm)
		l->shared->screen_ns = pause;
	return 1;
}

/* One that cannot be stopped, as while its child of vfork() runs, would cost the others a
 * long pause for nothing. */
static void await_threads(struct cycle *c, struct world *w)
{
	cycle_ask_kernel(c);
	w->nmissed = 0; /* by a stop before */
	w->reason[0] = '\0';
	world_list(w);
	world_await_reachable(w);
	w->hasty = true;
}

/* 0, or -errno: nothing was copied. */
static int make_copy(struct live *l, bool confirm)
{
	if (!l->copied && !l->result.copied)
		collapse_note();
	l->copied = true;
	l->confirm = confirm;
	l->pid = os_getpid();
	l->agent = os_gettid();
	l->error = 0;
	l->copy = -1;
	atomic_store_release(&l->shared->outcome, (uint32_t)OUTCOME_NONE);
	if (confirm)
		await_threads(&l->cycle, &l->cycle.world);
	else
		depth_read(l->depths, &l->cycle.world);
	module_refresh();
	symbol_prepare_copy(); /* asks the loader: before its lock is held */
	if (l->pagemap >= 0)
		pagemap_warm(l->pagemap);
	loader_with_lock(with_loader_locked, l);
	if (l->error == 0 && l->copy < 0)
		l->error = l->copy;
	if (!confirm && l->error == 0)
		depth_compare(l->depths, &l->cycle.world, l->shared->sp_valid);
	cycle_ask_kernel(&l->cycle);
	tell_go(l);
	if (l->useless)
		wait_for(l->useless);
	l->useless = 0;
	return l->error;
}

/* ---- the ways, in their order ---- */

static uint64_t longest(const struct shared *s)
{
	return s->screen_ns > s->confirm_ns ? s->screen_ns : s->confirm_ns;
}

static int fail(struct live *l, int error, const char *why)
{
	fmt_string(l->answer->why, sizeof(l->answer->why), "%s", why);
	return error;
}

static int fail_of_memory(struct live *l)
{
	return why_no_memory(l->answer->why, sizeof(l->answer->why));
}

static int fail_of_copy(struct live *l)
{
	why_no_copy(l->answer->why, sizeof(l->answer->why), l->wait_error, l->killed_by);
	return -ECHILD;
}

/* The report is still to be written, by us. */
#define REPORT_IT 2

static int fail_unstopped(struct live *l)
{
	return why_unstopped(l->answer->why, sizeof(l->answer->why), l->result.instead,
			     l->shared->nfresh);
}

/* ---- beside the program ---- */

static int with_loader_locked_beside(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct live *l = arg;
	struct world *w = &l->cycle.world;
	uint64_t start;

	(void)info;
	(void)size;
	hurry(l, true);
	start = os_now_ns();
	take_locks();
	world_hurry();
	l->error = world_interrupt(w);
	if (l->error == 0)
		l->error = world_await(w);
	if (l->error == 0) {
		handed_ask_again(l->cycle.handed);
		look_stopped();
		world_resume(w);
	}
	release_locks();
	l->shared->confirm_ns = os_now_ns() - start;
	world_hurry_no_more();
	hurry(l, false);
	return 1;
}

static void stop_beside(void *arg)
{
	struct live *l = arg;

	await_threads(&l->cycle, &l->cycle.world);
	l->confirm = true;
	loader_with_lock(with_loader_locked_beside, l);
}

/* As enum outcome; NONE: it cannot be done so. */
static enum outcome look_beside(struct live *l)
{
	struct shared *s = l->shared;
	struct sweep_candidates set = candidates_of(s);
	const struct beside_help help = { .doubt = doubt_depths,
					  .stop = l->request->unstopped ? NULL
									: stop_beside,
					  .at_once = l->request->stop,
					  .arg = l };
	enum beside_end end;
	const char *why;

	depth_read(l->depths, &l->cycle.world);
	depth_trust(l->depths, &l->cycle.world);
	end = beside_look(&l->cycle, &help, &set, &s->screen_ns, &why);
	if (l->request->stop)
		s->screen_ns = 0;
	if (end == BESIDE_DONE)
		l->result.copied = NULL;
	if (end == BESIDE_DONE && l->confirm) {
		l->result.stopped_by = l->cycle.world.how;
		l->result.nthreads = l->cycle.world.nthreads;
		if (l->cycle.world.nmissed)
			leak_incomplete(&l->result, l->cycle.world.reason);
	} else {
		l->confirm = false;
	}
	if (end == BESIDE_NOT) {
		s->screen_ns = 0;
		fmt_string(l->result.instead, sizeof(l->result.instead), "%s", why);
		return OUTCOME_NONE;
	}
	l->result.way = "concurrent";
	s->ncandidates = set.count;
	s->nfresh = set.fresh;
	return end == BESIDE_DONE ? OUTCOME_REPORTED : OUTCOME_CANDIDATES;
}

static enum outcome look_at_snapshot(struct live *l)
{
	l->result.way = "snapshot";
	return make_copy(l, false) == 0 ? hear(l) : OUTCOME_NONE;
}

static bool may_not_copy(const struct live *l)
{
	return l->request->unstopped || l->request->uncopied;
}

/* What was watched was split. */
static bool is_too_dear(const struct live *l)
{
	return l->result.copied && !collapse_again() && l->request->limited;
}

/* 0; -errno; 1: no copy could be made; or REPORT_IT. */
static int check_in_turn(struct live *l)
{
	struct shared *s = l->shared;
	enum outcome outcome = OUTCOME_CANDIDATES;

	l->result.way = "snapshot";
	outcome = l->request->snapshot ? OUTCOME_NONE : look_beside(l);
	if (outcome == OUTCOME_REPORTED)
		return REPORT_IT;
	if (outcome == OUTCOME_NONE && may_not_copy(l))
		return fail_unstopped(l);
	if (l->request->stop) {
		l->result.instead[0] = '\0';
		l->result.way = "snapshot";
		outcome = OUTCOME_CANDIDATES;
	} else if (outcome == OUTCOME_NONE) {
		outcome = look_at_snapshot(l);
		if (l->copy < 0)
			return 1;
	}
	if (outcome == OUTCOME_CANDIDATES) {
		if (may_not_copy(l))
			return fail_unstopped(l);
		if (is_too_dear(l))
			return fail(l, -EBUSY, WHY_TOO_DEAR);
		if (!l->result.copied)
			l->result.copied = "as asked";
		l->cycle.at_once = strcmp(l->result.way, "concurrent") != 0;
		if (make_copy(l, true) != 0)
			return l->cycle.world.reason[0]
				       ? fail(l, l->error, l->cycle.world.reason)
				       : 1;
		outcome = hear(l);
	}
	l->answer->pause_ns = longest(s);
	l->answer->nthreads = l->confirm ? l->cycle.world.nthreads : 0;
	if (outcome != OUTCOME_REPORTED)
		return fail_of_copy(l);
	if (!s->unsure) {
		history_take(s->history, s->nhistory);
		growth_take(s->sites, s->nsites);
	}
	return s->error ? fail(l, s->error, "the report could not be written") : 0;
}

static int write_report(struct live *l)
{
	struct leak_result *r = &l->result;
	int error = leak_write_json_fd(r, l->request->report);

	if (error == 0 && l->request->profile >= 0)
		error = leak_write_profile_fd(r, l->request->profile);
	leak_result_free(r);
	return error ? fail(l, error, "the report could not be written") : 0;
}

static int by_standing_still(struct live *l)
{
	struct leak_result *r = &l->result;

	if (!l->request->standing) {
		fmt_string(l->answer->why, sizeof(l->answer->why),
			   "clone of a process failed with %s, and the program would "
			   "stand still for the whole check: --standing allows it",
			   why_error(l->error));
		return -EPERM;
	}
	*r = (struct leak_result){ .way = "standing",
				   .stopped_by = "",
				   .with_reachable = true,
				   .with_chains = l->request->reachable,
				   .max_stacks = r->max_stacks };
	leak_check_standing(r);
	r->screen_ns = 0;
	r->confirm_ns = l->answer->pause_ns = r->stop_ns;
	l->answer->nthreads = r->nthreads;
	return write_report(l);
}

void live_finish(void)
{
	collapse_restore();
}

static int check(struct live *l)
{
	int ret = 1;

	leak_enter();
	l->result.checked_ns = os_now_ns();
	l->cycle.out = &l->result;
	l->cycle.agent = os_gettid();
	l->cycle.alone = true;
	l->cycle.origin = &l->origin;
	hidden_open(&l->origin);
	l->pagemap = pagemap_open();
	l->shared = meta_map_shared(sizeof(*l->shared), META_LEAK);
	l->depths = meta_map(STOP_MAX_THREADS * sizeof(*l->depths), META_LEAK);
	if (cycle_prepare(&l->cycle) && l->shared && l->depths)
		ret = check_in_turn(l);
	else
		ret = fail_of_memory(l);
	if (ret == REPORT_IT) {
		leak_judge(&l->result);
		l->result.screen_ns = l->shared->screen_ns;
		l->result.confirm_ns = l->confirm ? l->shared->confirm_ns : 0;
		l->answer->pause_ns = longest(l->shared);
		l->answer->nthreads = l->result.nthreads;
		l->result.mark_ns = os_now_ns() - l->result.checked_ns;
	}
	cycle_free(&l->cycle);
	meta_unmap(l->depths, STOP_MAX_THREADS * sizeof(*l->depths), META_LEAK);
	meta_unmap(l->shared, sizeof(*l->shared), META_LEAK);
	hidden_close(&l->origin);
	if (l->pagemap >= 0)
		os_close(l->pagemap);
	leak_leave();
	return ret;
}

int live_check(const struct live_request *q, struct live_answer *out)
{
	struct live *l = meta_map(sizeof(*l), META_LEAK);
	int ret;

	memset(out, 0, sizeof(*out));
	if (!l) {
		fmt_string(out->why, sizeof(out->why), "out of memory");
		return -ENOMEM;
	}
	l->request = q;
	l->answer = out;
	l->result.stopped_by = "";
	l->result.with_reachable = true;
	l->result.with_chains = q->reachable;
	l->result.max_stacks = q->brief ? BRIEF_STACKS : 0;
	ret = sample_is_on() ? check(l)
			     : fail(l, -ENODATA, "profiling is off (mode=off)");
	if (ret == REPORT_IT)
		ret = write_report(l);
	else if (ret > 0)
		ret = by_standing_still(l);
	meta_unmap(l, sizeof(*l), META_LEAK);
	return ret;
}
