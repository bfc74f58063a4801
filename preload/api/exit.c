/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exit: what is written when the process ends: the leak check and its report, profiles,
 * the row in the tool's table; and the exit status of a process that leaked.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "preload/api/api.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/tls.h"
#if CONFIG_PROFILER
#include "profiler/control/runtable.h"
#include "profiler/escape/escape.h"
#include "profiler/leak/leak.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/module.h"
#include "profiler/thread/threadprof.h"
#endif

#define SUFFIX_ROOM  32 /* ".1000" and the longest of our suffixes */
#define PREFIX_BYTES (OPT_PATH_MAX + SUFFIX_ROOM)
#define REEXEC_MAX   1000 /* PREFIX.2, PREFIX.3 ... of programs that replace themselves */

static struct {
	char path[OPT_PATH_MAX]; /* of the program; empty: unknown */
	const char *name;	 /* its last part */
	int pid;		 /* of the process that will report */
	bool off;		 /* forked child with follow=off */
	bool passive;		 /* the program has a malloc of its own */
	bool served;		 /* our malloc was called by the program */
	bool done;
} at_exit = { .name = "unknown" };

void exit_init(void)
{
	long n = os_readlink("/proc/self/exe", at_exit.path, sizeof(at_exit.path) - 1);
	char *slash;

	at_exit.path[n > 0 ? n : 0] = '\0';
	slash = strrchr(at_exit.path, '/');
	if (slash && slash[1])
		at_exit.name = slash + 1;
	at_exit.pid = os_getpid();
}

void exit_fork_child(void)
{
	at_exit.pid = os_getpid();
	at_exit.off = !opt_get()->follow;
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
	return file_exists(prefix, ".heap.pb.gz") || file_exists(prefix, ".report.json");
}

/* Where this process writes: the expanded pattern, numbered when files of an earlier
 * program under the same pid are there. False: nowhere. */
static bool make_prefix(char *buf, size_t size)
{
	const char *pattern = opt_get()->out;
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

static const char *error_text(int error)
{
	switch (error) {
	case -EACCES:
	case -EPERM:
		return "permission denied";
	case -ENOENT:
		return "no such directory";
	case -ENOSPC:
		return "no space left on device";
	case -EROFS:
		return "read-only file system";
	case -EFBIG:
		return "file too large (RLIMIT_FSIZE)";
	case -ENOMEM:
		return "out of memory";
	case -ENOTDIR:
		return "not a directory";
	case -ELOOP:
		return "a symbolic link is in the way";
	default:
		return "write failed";
	}
}

/* One line for the first file that could not be written; into the table's row too. */
static void complain(const char *prefix, int error)
{
	struct runtable_row *row = runtable_row();
	char text[160];

	if (error == 0)
		return;
	fmt_string(text, sizeof(text), "cannot write %.80s.*: %s", prefix,
		   error_text(error));
	if (row && row->reason[0] == '\0')
		memcpy(row->reason, text, sizeof(row->reason));
	if (!runtable_is_gate())
		log_line("%s (error %d)", text, -error);
}

static void keep_first(int *error, int fresh)
{
	if (*error == 0)
		*error = fresh;
}

static int write_profiles(const char *prefix)
{
	const struct options *o = opt_get();
	uint32_t nthreads;
	int error = sample_write_profiles(prefix);

	if (o->escape != OPT_ESCAPE_OFF)
		keep_first(&error, escape_write(prefix));
	if (o->threads && !o->thread_leaks)
		keep_first(&error, threadprof_write(prefix, &nthreads));
	return error;
}

static void fill_row(struct runtable_row *row, const char *prefix)
{
	struct sample_total t;

	sample_get_total(&t);
	row->served = at_exit.served;
	row->alloc_objects = t.alloc_objects;
	row->alloc_bytes = t.alloc_bytes;
	row->live_objects = t.live_objects;
	row->live_bytes = t.live_bytes;
	row->peak_bytes = t.peak_bytes;
	row->dropped = t.dropped;
	row->truncated = t.truncated;
	row->samples = t.samples;
	fmt_string(row->exe, sizeof(row->exe), "%s", at_exit.path);
	fmt_string(row->prefix, sizeof(row->prefix), "%s", prefix);
}

/* Before we allocate anything ourselves. */
static bool was_served(void)
{
	struct heap_stats st;

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

/* Reports of a check: files, and text unless the tool will print them. */
static int report_leaks(const struct leak_result *r, const char *prefix)
{
	int error = 0;

	if (prefix[0]) {
		keep_first(&error, leak_write_profile(r, prefix));
		keep_first(&error, leak_write_json(r, prefix));
	}
	if (!runtable_is_gate())
		leak_print(r);
	return error;
}

/* The status that the verdict forces on the process, or -1. */
static int forced_status(const struct leak_result *r)
{
	if (runtable_is_gate())
		return -1;
	if (r->verdict == LEAK_FOUND)
		return opt_get()->exitcode;
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
	return OPT_EXIT_INCOMPLETE;
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

static int report_all(const char *prefix)
{
	struct runtable_row *row = runtable_row();
	struct leak_result r = { 0 };
	bool check = opt_get()->leak != OPT_LEAK_OFF;
	int status = -1;
	int error = 0;

	if (check) {
		leak_check(&r);
		if (opt_get()->thread_leaks)
			check_threads(row, &r, prefix, &error);
		keep_first(&error, report_leaks(&r, prefix));
		status = forced_status(&r);
	}
	module_refresh();
	if (prefix[0])
		keep_first(&error, write_profiles(prefix));
	complain(prefix, error);
	if (row) {
		fill_row(row, prefix);
		if (check)
			fill_verdict(row, &r);
		__atomic_store_n(&row->state, (uint32_t)RUNROW_DONE, __ATOMIC_RELEASE);
	}
	if (check && !runtable_is_gate())
		leak_print_verdict(&r);
	leak_result_free(&r);
	return status;
}

void exit_reports(void)
{
	char *prefix;
	int status = -1;

	if (at_exit.done || at_exit.off || at_exit.pid != os_getpid() ||
	    opt_get()->mode == OPT_MODE_OFF)
		return;
	at_exit.done = true;
	prefix = meta_map(PREFIX_BYTES, META_OTHER);
	if (!prefix)
		return;
	if (!make_prefix(prefix, PREFIX_BYTES))
		prefix[0] = '\0';
	if (prefix[0] || opt_get()->leak != OPT_LEAK_OFF || runtable_row()) {
		seep_tls.internal++;
		at_exit.served = was_served();
		status = at_exit.passive ? report_passive() : report_all(prefix);
		seep_tls.internal--;
	}
	if (status >= 0) {
		fflush(NULL);
		os_exit_group(status);
	}
}

#else

void exit_reports(void)
{
}

#endif
