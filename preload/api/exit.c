/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exit: what is written when the process ends: the leak check and its report, profiles,
 * the row in the tool's table; and the exit status of a process that leaked.
 *
 * Concurrency: the first thread that comes does the work; another one waits for it, since
 * its next step would end the process. Nobody waits who interrupted the worker, or who
 * may hold one of our locks: such a thread leaves without reports.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/lock.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/tls.h"
#if CONFIG_PROFILER
#include "profiler/control/runtable.h"
#include "profiler/escape/escape.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/stop.h"
#include "profiler/pprof/pprof.h"
#include "profiler/sample/rss.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/module.h"
#include "profiler/thread/threadprof.h"
#endif

#define SUFFIX_ROOM   32 /* ".1000" and the longest of our suffixes */
#define PREFIX_BYTES  (OPT_PATH_MAX + SUFFIX_ROOM)
#define REEXEC_MAX    1000 /* PREFIX.2, PREFIX.3 ... of programs that replace themselves */
#define FEW_SAMPLES   1000 /* of a forked child that goes on to exec: no profile files */
#define WAIT_SLICE_NS 100000000u
#define WAIT_SLICES   300
#define ENDING_SLICES 10 /* for what the thread that ends the process has yet to do */

enum stage { STAGE_RUNS, STAGE_BUSY, STAGE_DONE };

static struct {
	char path[OPT_PATH_MAX]; /* of the program; empty: unknown */
	const char *name;	 /* its last part */
	int pid;		 /* of the process that will report */
	bool off;		 /* forked child with follow=off */
	bool passive;		 /* the program has a malloc of its own */
	bool served;		 /* the program's calls of malloc reach ours */
	bool forked;		 /* not by exec */
	uint64_t inherited;	 /* samples of the parent's */
	uint32_t stage;		 /* enum stage; atomic, futex */
	uint32_t waiting;	 /* threads; atomic */
	bool ends;		 /* after this the process is gone; atomic */
	int worker;		 /* the thread that made it BUSY */
	int forced; /* the status that the verdict asks for; 0: none; atomic */
	bool prefix_chosen;
	char prefix[PREFIX_BYTES]; /* of the files; empty: none are written */
	char kept[PREFIX_BYTES];   /* of those that the tool brings there */
} at_exit = { .name = "unknown" };

void exit_init(void)
{
	char *slash;

	os_program(at_exit.path, sizeof(at_exit.path));
	slash = strrchr(at_exit.path, '/');
	if (slash && slash[1])
		at_exit.name = slash + 1;
	at_exit.pid = os_getpid();
}

void exit_fork_child(void)
{
	at_exit.pid = os_getpid();
	at_exit.off = !opt_get()->follow;
	at_exit.forked = true;
	at_exit.prefix_chosen = false;
	atomic_store_release(&at_exit.stage, (uint32_t)STAGE_RUNS);
#if CONFIG_PROFILER
	at_exit.inherited = sample_count();
	survive_fork_child(!at_exit.off);
#endif
}

const char *exit_program_name(void)
{
	return at_exit.name;
}

void exit_set_program(const char *name, int pid)
{
	at_exit.name = name;
	at_exit.pid = pid;
}

bool exit_is_own_process(void)
{
	return at_exit.pid == os_getpid_now();
}

bool exit_seems_own_process(void)
{
	return at_exit.pid == os_getpid();
}

bool exit_has_begun(void)
{
	return atomic_load_acquire(&at_exit.stage) != STAGE_RUNS;
}

bool exit_is_busy(void)
{
	return atomic_load_acquire(&at_exit.stage) == STAGE_BUSY;
}

bool exit_is_ending(void)
{
	return exit_is_busy() && atomic_load_relaxed(&at_exit.ends);
}

void exit_set_passive(void)
{
	at_exit.passive = true;
}

#if CONFIG_PROFILER

/* prefix has room behind it: SUFFIX_ROOM. */
static bool file_exists(char *prefix, const char *suffix)
{
	char *end = prefix + strlen(prefix);
	bool exists;

	fmt_string(end, SUFFIX_ROOM, "%s", suffix);
	exists = os_call(SYS_access, (long)prefix, 0, 0, 0, 0, 0) == 0;
	*end = '\0';
	return exists;
}

static bool prefix_taken(char *prefix)
{
	return file_exists(prefix, ".heap.pb.gz") ||
	       file_exists(prefix, ".report.json") || file_exists(prefix, ".store");
}

/* Where this process writes: the expanded pattern, numbered when files of an earlier
 * program under the same pid are there. False: nowhere. */
bool exit_make_prefix(const char *pattern, char *buf, size_t size)
{
	size_t length;

	if (pattern[0] == '\0')
		return false;
	if (!opt_expand(pattern, at_exit.name, at_exit.pid, buf, size - SUFFIX_ROOM)) {
		log_line("out=%.200s: the file name is too long; nothing written",
			 pattern);
		return false;
	}
	length = strlen(buf);
	for (int i = 2; prefix_taken(buf) && i < REEXEC_MAX; i++)
		fmt_string(buf + length, size - length, ".%d", i);
	return true;
}

/* One line for the first file that could not be written; into the table's row too. Where
 * the tool has been left the files, it says so if it cannot write them either. */
static void complain(const char *prefix, int error, bool kept)
{
	struct runtable_row *row = runtable_row();
	char text[160];

	if (error == 0)
		return;
	fmt_string(text, sizeof(text), "cannot write %.80s.*: %s", prefix,
		   os_error_text(error));
	if (row && row->reason[0] == '\0')
		memcpy(row->reason, text, sizeof(row->reason));
	if (!runtable_is_gate() && !kept)
		log_line("%s", text);
}

_Static_assert(RUNROW_RSS_PARTS == (int)RSS_PARTS, "the same parts");

static void keep_first(int *error, int fresh)
{
	if (*error == 0)
		*error = fresh;
}

static int write_profiles(const char *prefix, const struct exit_cause *cause)
{
	const struct options *o = opt_get();
	uint32_t nthreads;
	int error = sample_write_profiles(prefix);

	if (o->escape != OPT_ESCAPE_OFF)
		keep_first(&error, escape_write(prefix));
	if (o->threads && !o->thread_leaks)
		keep_first(&error, threadprof_write(prefix, cause->regs, &nthreads));
	if (o->threads)
		keep_first(&error, threadprof_write_creators(prefix));
	return error;
}

void exit_fill_row(struct runtable_row *row, const char *prefix)
{
	struct sample_total t;

	sample_get_total(&t);
	row->alloc_objects = t.alloc_objects;
	row->alloc_bytes = t.alloc_bytes;
	row->live_objects = t.live_objects;
	row->live_bytes = t.live_bytes;
	row->peak_bytes = t.peak_bytes;
	row->dropped = t.dropped;
	row->truncated = t.truncated;
	row->samples = t.samples;
	row->rss = rss_get()->total;
	memcpy(row->rss_parts, rss_get()->part, sizeof(row->rss_parts));
	fmt_string(row->prefix, sizeof(row->prefix), "%s", prefix);
}

/* Before we allocate anything ourselves. A program whose calls reach us may make none;
 * /bin/true does not. */
static bool was_served(void)
{
	struct heap_stats st;

	if (!at_exit.passive)
		return true;
	heap_get_stats(&st);
	return heap_was_used() && st.nrefill + st.nlarge > 0;
}

static void fill_verdict(struct runtable_row *row, const struct leak_result *r)
{
	static const uint32_t verdicts[] = { [LEAK_CLEAN] = RUNROW_CLEAN,
					     [LEAK_FOUND] = RUNROW_LEAK,
					     [LEAK_INCOMPLETE] = RUNROW_INCOMPLETE };

	row->verdict = verdicts[r->verdict];
	row->objects = r->objects;
	row->bytes = r->bytes;
	row->sites = r->sites;
	if (r->reason[0])
		fmt_string(row->reason, sizeof(row->reason), "%s", r->reason);
}

static int write_leaks(const struct leak_result *r, const char *prefix, bool always)
{
	int error = 0;

	if (prefix[0] && (always || r->verdict != LEAK_CLEAN)) {
		keep_first(&error, leak_write_profile(r, prefix));
		keep_first(&error, leak_write_json(r, prefix));
	}
	return error;
}

/* The status that the verdict forces on the process, or -1. exitcode=0: none. */
static int forced_status(const struct leak_result *r)
{
	if (runtable_is_gate() || runtable_is_out_of_reach() || leak_exitcode() == 0)
		return -1;
	if (r->verdict == LEAK_FOUND)
		return leak_exitcode();
	return r->verdict == LEAK_INCOMPLETE ? OPT_EXIT_INCOMPLETE : -1;
}

/* Nothing was recorded: says so, where a check was asked for. */
static int report_passive(void)
{
	static const char why[] = "the program brings its own malloc: nothing was seen";
	struct runtable_row *row = runtable_row();
	struct leak_result r = { .verdict = LEAK_INCOMPLETE };
	bool check = opt_get()->leak != OPT_LEAK_OFF;

	memcpy(r.reason, why, sizeof(why));
	if (row) {
		if (check)
			fill_verdict(row, &r);
		else
			memcpy(row->reason, why, sizeof(why));
		__atomic_store_n(&row->state, (uint32_t)RUNROW_DONE, __ATOMIC_RELEASE);
	}
	if (!check || runtable_is_gate())
		return -1;
	leak_print_verdict(&r);
	return forced_status(&r);
}

/* Threads blocked for ever or never joined: part of the check, with a file of their own.
 */
static void check_threads(struct runtable_row *row, struct leak_result *r,
			  const char *prefix, int *error)
{
	struct thread_leaks t;
	int failed = threadprof_check(prefix, &t);

	keep_first(error, failed);
	if ((failed || !t.judged) && r->verdict != LEAK_INCOMPLETE) {
		r->verdict = LEAK_INCOMPLETE;
		fmt_string(r->reason, sizeof(r->reason),
			   "it could not be found out which threads are blocked");
	}
	if (row) {
		row->threads_blocked = t.blocked;
		row->threads_ended = t.ended;
	}
	if (!runtable_is_gate() && t.blocked + t.ended > 0)
		log_line("THREADS blocked=%u ended=%u", t.blocked, t.ended);
	if (t.blocked + t.ended > 0 && r->verdict == LEAK_CLEAN)
		r->verdict = LEAK_FOUND;
}

static void fill_end(struct runtable_row *row, const struct exit_cause *cause)
{
	row->signal = cause->signal;
	row->end = cause->way == EXIT_EXEC     ? RUNROW_EXEC
		   : cause->way == EXIT_SIGNAL ? RUNROW_SIGNALLED
					       : RUNROW_EXITED;
}

/* A forked child that has done next to nothing before it execs is a shell's helper: its
 * profiles would be one set of files for each command. */
static bool wants_profiles(const struct exit_cause *cause)
{
	return cause->way != EXIT_EXEC || !at_exit.forked ||
	       sample_count() - at_exit.inherited >= FEW_SAMPLES;
}

static void check_leaks(struct leak_result *r, const struct exit_cause *cause)
{
	if (cause->way == EXIT_SIGNAL)
		leak_check_interrupted(r, cause->interrupted);
	else if (cause->sp)
		leak_check_above(r, cause->sp);
	else
		leak_check(r);
}

/* What could not be written as PREFIX.*, or has no place: the tool finds it beside its
 * table. r: of the check, or NULL. False: nor there. */
static bool keep_for_tool(const struct leak_result *r, const char *prefix,
			  const struct exit_cause *cause)
{
	bool profiles = prefix[0] && wants_profiles(cause);
	int error = 0;

	if (!runtable_kept_prefix(at_exit.kept, sizeof(at_exit.kept)))
		return false;
	if (r && (prefix[0] || runtable_is_gate()))
		keep_first(&error, write_leaks(r, at_exit.kept, profiles));
	if (profiles)
		keep_first(&error, write_profiles(at_exit.kept, cause));
	runtable_row()->kept = error == 0;
	return error == 0;
}

static int report_all(const char *prefix, const struct exit_cause *cause)
{
	struct runtable_row *row = runtable_row();
	struct leak_result r = { 0 };
	bool check = opt_get()->leak != OPT_LEAK_OFF;
	int status = -1;
	int error = 0;
	bool kept = false;

	if (wants_profiles(cause) && (prefix[0] || row))
		rss_measure();
	pprof_keep_memory();
	if (check) {
		if (!leak_is_final())
			check_leaks(&r, cause);
		if (opt_get()->thread_leaks && cause->way != EXIT_SIGNAL)
			check_threads(row, &r, prefix, &error);
		keep_first(&error, write_leaks(&r, prefix, wants_profiles(cause)));
		if (!runtable_is_gate())
			leak_print(&r);
		status = forced_status(&r);
	}
	module_refresh();
	if (prefix[0] && wants_profiles(cause))
		keep_first(&error, write_profiles(prefix, cause));
	if (error || !prefix[0])
		kept = keep_for_tool(check ? &r : NULL, prefix, cause);
	complain(prefix, error, kept);
	if (error == 0 || kept || !prefix[0])
		survive_no_more();
	if (row) {
		exit_fill_row(row, prefix);
		row->served = at_exit.served;
		fmt_string(row->exe, sizeof(row->exe), "%s", at_exit.path);
		fill_end(row, cause);
		if (check)
			fill_verdict(row, &r);
		__atomic_store_n(&row->state, (uint32_t)RUNROW_DONE, __ATOMIC_RELEASE);
	}
	if (check && !runtable_is_gate())
		leak_print_verdict(&r);
	leak_result_free(&r);
	return status;
}

bool exit_may_report(void)
{
	return opt_get()->out[0] || opt_get()->leak != OPT_LEAK_OFF || runtable_row();
}

static bool has_work(void)
{
	return exit_prefix()[0] || opt_get()->leak != OPT_LEAK_OFF || runtable_row();
}

/* The same again after an exec that failed. */
const char *exit_prefix(void)
{
	if (!at_exit.prefix_chosen &&
	    !exit_make_prefix(opt_get()->out, at_exit.prefix, PREFIX_BYTES))
		at_exit.prefix[0] = '\0';
	at_exit.prefix_chosen = true;
	return at_exit.prefix;
}

static void wait_for_worker(void)
{
	atomic_fetch_add_acq_rel(&at_exit.waiting, 1u);
	for (int i = 0; i < WAIT_SLICES && exit_is_busy(); i++)
		os_futex_wait(&at_exit.stage, STAGE_BUSY, WAIT_SLICE_NS);
	/* It came first, so it is its status that counts. */
	for (int i = 0; i < ENDING_SLICES && atomic_load_relaxed(&at_exit.ends); i++)
		os_futex_wait(&at_exit.stage, STAGE_DONE, WAIT_SLICE_NS);
}

void exit_await_end(void)
{
	if (at_exit.worker != os_gettid())
		wait_for_worker();
}

static bool claim(const struct exit_cause *cause)
{
	uint32_t runs = STAGE_RUNS;

	if (lock_any_held() || (exit_has_begun() && at_exit.worker == os_gettid()))
		return false;
	if (!atomic_cas_acq_rel(&at_exit.stage, &runs, (uint32_t)STAGE_BUSY)) {
		wait_for_worker();
		return false;
	}
	at_exit.worker = os_gettid();
	atomic_store_relaxed(&at_exit.ends,
			     cause->way == EXIT_NORMAL || cause->way == EXIT_AT_ONCE);
	return true;
}

/* For who ends the process before the one that made the check does: another thread, or a
 * handler of a signal that came meanwhile. */
static int status_of_verdict(void)
{
	const int forced = atomic_load_relaxed(&at_exit.forced);

	return atomic_load_acquire(&at_exit.stage) == STAGE_DONE && forced ? forced : -1;
}

int exit_reports(const struct exit_cause *cause)
{
	int status = -1;

	/* Not a system call more than needed: the program may sit in a sandbox. */
	if (opt_get()->mode == OPT_MODE_OFF || !exit_may_report() || at_exit.off ||
	    !exit_is_own_process())
		return -1;
	if (!claim(cause))
		return cause->way == EXIT_AT_ONCE ? status_of_verdict() : -1;
	seep_tls.internal++;
	if (has_work()) {
		at_exit.served = was_served();
		status = at_exit.passive ? report_passive()
					 : report_all(at_exit.prefix, cause);
	}
	seep_tls.internal--;
	atomic_store_relaxed(&at_exit.forced, status > 0 ? status : 0);
	atomic_store_release(&at_exit.stage, (uint32_t)STAGE_DONE);
	/* A filter from before the start may kill for it. */
	if (atomic_load_acquire(&at_exit.waiting))
		os_futex_wake(&at_exit.stage, INT32_MAX);
	if (cause->way == EXIT_EXEC)
		fatal_raise_pending();
	return cause->way == EXIT_EXEC || cause->way == EXIT_SIGNAL ? -1 : status;
}

void exit_normally(void)
{
	const struct exit_cause cause = { .way = EXIT_NORMAL };
	int status = exit_reports(&cause);

	/* The rest of what exit() does, with another status. It writes the streams out
	 * without waiting for threads that have them locked, unlike fflush(). */
	if (status >= 0) {
		void *found = dlsym(RTLD_NEXT, "exit");
		void (*end)(int) = os_exit_group;

		if (found)
			memcpy(&end, &found, sizeof(end));
		end(status);
	}
}

/* ---- exit() in several threads ---- */

#define STOCK  8  /* of threads that call it at the same time */
#define AGAINS 64 /* that come later */

/* libc's, which is bound at start only where it is called. */
static int (*add_handler)(void (*handler)(void *), void *arg, void *dso);

/*
 * The second finds no handler left while the first is in our destructor, or on its way
 * there, and glibc's ends the process by a call of its own. Handlers from before the
 * program's first come last: there it waits, or does the work.
 */
static void hold_others(void *arg UNUSED)
{
	static uint32_t again;

	if (lock_any_held() || (exit_has_begun() && at_exit.worker == os_gettid()) ||
	    !exit_is_own_process())
		return;
	if (!exit_has_begun()) {
		exit_normally();
		return;
	}
	if (exit_is_busy() && atomic_fetch_add_acq_rel(&again, 1u) < AGAINS)
		add_handler(hold_others, NULL, NULL);
	wait_for_worker();
}

void exit_catch_others(void)
{
	void *found = dlsym(RTLD_NEXT, "__cxa_atexit");

	memcpy(&add_handler, &found, sizeof(found));
	for (int i = 0; i < STOCK && found; i++)
		add_handler(hold_others, NULL, NULL);
}

void exit_undo_exec(void)
{
	struct runtable_row *row = runtable_row();

	if (row) {
		row->end = RUNROW_RUNS;
		row->verdict = RUNROW_NO_CHECK;
		row->objects = row->bytes = row->sites = 0;
		row->reason[0] = '\0';
		atomic_store_release(&row->state, (uint32_t)RUNROW_CLAIMED);
	}
	atomic_store_release(&at_exit.stage, (uint32_t)STAGE_RUNS);
}

void *exit_note_spawn(int pid, const char *program)
{
	return runtable_note_spawn(pid, program);
}

void exit_unnote_spawn(void *note)
{
	runtable_forget_spawn(note);
}

void exit_exec_begin(void)
{
	world_exec_begin();
}

void exit_exec_failed(void)
{
	world_exec_failed();
}

bool exit_is_wanted(void)
{
	return opt_get()->mode != OPT_MODE_OFF && !at_exit.passive &&
	       (opt_get()->out[0] || opt_get()->leak != OPT_LEAK_OFF);
}

#else

int exit_reports(const struct exit_cause *cause)
{
	(void)cause;
	return -1;
}

void exit_await_end(void)
{
}

void exit_catch_others(void)
{
}

void exit_normally(void)
{
}

void exit_undo_exec(void)
{
}

void *exit_note_spawn(int pid, const char *program)
{
	(void)pid;
	(void)program;
	return NULL;
}

void exit_unnote_spawn(void *note)
{
	(void)note;
}

void exit_exec_begin(void)
{
}

void exit_exec_failed(void)
{
}

bool exit_may_report(void)
{
	return false;
}

bool exit_is_wanted(void)
{
	return false;
}

#endif
