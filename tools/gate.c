/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate: `seep gate`: one verdict on leaks for a whole process tree, for CI.
 *
 * Inside the gate the library prints nothing and changes no status: what each process
 * found comes through the run table and its report.json, and is judged here.
 */
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/baseline.h"
#include "tools/lib/kept.h"
#include "tools/lib/knownleaks.h"
#include "tools/lib/launch.h"
#include "tools/lib/leakprint.h"
#include "tools/lib/runjson.h"
#include "tools/lib/say.h"
#include "tools/lib/slices.h"
#include "tools/lib/suppressions.h"
#include "tools/lib/symbolizer.h"
#include "tools/lib/threadfile.h"

#define MAX_LEAKS  20 /* printed for one process */
#define MAX_FRAMES 24 /* printed for one leak */

static const char usage[] =
	"usage: seep gate [OPTIONS] [--] COMMAND [ARGUMENTS]\n\n"
	"Runs COMMAND, looks for leaks at the end of every process it starts, and prints "
	"one\n"
	"verdict. The last line is \"seep: clean\", \"seep: LEAK objects=N bytes=N "
	"sites=N\" or\n"
	"\"seep: INCOMPLETE: reason\".\n\n"
	"  --suppressions FILE    leaks to leave out: leak:PATTERN, or memcheck's "
	"blocks\n"
	"  --gen-suppressions FILE  writes such a file for all leaks found (-: stderr)\n"
	"  --since FILE           only leaks that are not in FILE count\n"
	"  --save FILE            keeps the leaks found, for --since\n"
	"  --reachable            lists what is still held as well, and by whom\n"
	"  --possible             possibly lost objects count as lost\n"
	"  --exitcode N           status for leaks (23)\n"
	"  --threads              leaks are also threads blocked for ever at the end, "
	"and\n"
	"                         threads that ended and were never joined nor detached\n"
	"  --strict               24 too when any process of the tree was not checked\n"
	"  --wait SECONDS         how long to wait, after COMMAND, for daemons and "
	"others\n"
	"                         that it leaves behind (5); they are checked when they "
	"end\n"
	"  -o, --out PATTERN      files' names: %e program, %p process (seep.out/%e.%p)\n"
	"  --no-symbolize         no lines and inlined frames in reports and profiles\n"
	"  -O, --option KEY=VALUE any option of the library\n"
	"  --lib FILE             libseep.so, if it is not beside this command\n"
	"  -q, --quiet            only the verdict\n"
	"  -h, --help             this text\n\n"
	"Exit status: COMMAND's own if it is not 0 (128+N for signal N; an end by INT or "
	"TERM\n"
	"from outside counts as normal); else 0 clean, 23 leaks, 24 the check could not "
	"be\n"
	"completed, 25 wrong usage; 126 and 127 when COMMAND cannot be run.\n";

#define LINGER_S 5

enum {
	OPT_SUPPRESSIONS = 256,
	OPT_GEN_SUPPRESSIONS,
	OPT_SINCE,
	OPT_SAVE,
	OPT_POSSIBLE,
	OPT_REACHABLE,
	OPT_EXITCODE,
	OPT_STRICT,
	OPT_WAIT,
	OPT_THREADS,
	OPT_NO_SYMBOLIZE
};

static const struct option options[] = {
	{ "suppressions", required_argument, NULL, OPT_SUPPRESSIONS },
	{ "gen-suppressions", required_argument, NULL, OPT_GEN_SUPPRESSIONS },
	{ "since", required_argument, NULL, OPT_SINCE },
	{ "save", required_argument, NULL, OPT_SAVE },
	{ "possible", no_argument, NULL, OPT_POSSIBLE },
	{ "reachable", no_argument, NULL, OPT_REACHABLE },
	{ "exitcode", required_argument, NULL, OPT_EXITCODE },
	{ "strict", no_argument, NULL, OPT_STRICT },
	{ "wait", required_argument, NULL, OPT_WAIT },
	{ "threads", no_argument, NULL, OPT_THREADS },
	LAUNCH_OPTIONS,
	{ "no-symbolize", no_argument, NULL, OPT_NO_SYMBOLIZE },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct gate {
	struct launch launch;
	bool strict, quiet, no_symbolize;
	int exitcode;
	bool reachable;		  /* is listed, too */
	bool suppresses;	  /* --suppressions was given */
	const char *generate;	  /* file for suppressions, or NULL */
	struct suppressions supp; /* over all reports, with either of these */
	struct baseline *since;	  /* NULL: everything counts */
	const char *save;	  /* file for a baseline, or NULL */
	json_t *saved;		  /* what goes there */
	/* With since, by place in the table: what counts. */
	struct amounts {
		unsigned long long objects, bytes, sites;
	} fresh[RUNTABLE_ROWS];
	/* By place: reports that are not what the process wrote, and have no file. */
	json_t *reports[RUNTABLE_ROWS];
	/* the verdict */
	unsigned long long objects, bytes, sites;
	unsigned threads_blocked, threads_ended;
	char *incomplete; /* reason, NULL: complete */
};

static struct baseline *parse_baseline(const char *path)
{
	char *why = NULL;
	struct baseline *b = baseline_read(path, &why);

	if (!b)
		die(EXIT_INCOMPLETE, "--since %s", why);
	return b;
}

static void parse_one(struct gate *g, int c)
{
	switch (c) {
	case OPT_SINCE:
		g->since = parse_baseline(optarg);
		break;
	case OPT_SAVE:
		g->save = optarg;
		break;
	case OPT_SUPPRESSIONS:
		launch_set(&g->launch, "suppressions", optarg);
		g->suppresses = true;
		break;
	case OPT_GEN_SUPPRESSIONS:
		g->generate = optarg;
		break;
	case OPT_REACHABLE:
		g->reachable = g->launch.tells_all = true;
		launch_set(&g->launch, "reachable", "on");
		break;
	case OPT_POSSIBLE:
		launch_set(&g->launch, "possible", "on");
		break;
	case OPT_EXITCODE:
		g->exitcode = (int)parse_number("--exitcode", optarg, 0, 255);
		break;
	case OPT_STRICT:
		g->strict = true;
		break;
	case OPT_WAIT:
		g->launch.linger_s = (int)parse_number("--wait", optarg, 0, 86400);
		break;
	case OPT_NO_SYMBOLIZE:
		g->no_symbolize = true;
		break;
	case OPT_THREADS:
		launch_set(&g->launch, "threads", "leak");
		break;
	case 'q':
		g->quiet = true;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		die(EXIT_USAGE, "see seep gate --help");
	}
}

static void parse(struct gate *g, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, LAUNCH_LETTERS "qh", options, NULL)) != -1) {
		if (c == '?')
			die_option(argv[optind - 1], "gate");
		if (!launch_option(&g->launch, c, optarg))
			parse_one(g, c);
	}
	g->launch.argv = argv + optind;
	if (!argv[optind])
		die(EXIT_USAGE, "no command; see seep gate --help");
}

/* ---- the report ---- */

static void keep_report(size_t row, json_t *report, void *arg)
{
	struct gate *g = arg;

	g->reports[row] = report;
}

static json_t *report_of(const struct gate *g, const struct runtable_row *r)
{
	json_t *report = g->reports[r - g->launch.table->rows];

	return report ? json_incref(report) : kept_report(&g->launch, r);
}

static struct amounts amounts_of(const struct gate *g, const struct runtable_row *r)
{
	if (g->since)
		return g->fresh[r - g->launch.table->rows];
	return (struct amounts){ r->objects, r->bytes, r->sites };
}

static void print_report(const struct gate *g, const struct runtable_row *r)
{
	const struct amounts a = amounts_of(g, r);
	char *path = format_string("%s.report.json", r->prefix);
	json_t *report = report_of(g, r), *leak;
	size_t i, printed = 0, left = 0;

	say_title("%s (process %d): %llu bytes in %llu %sobjects lost", r->exe, r->pid,
		  a.bytes, a.objects, g->since ? "new " : "");
	if (!report)
		say("  its report could not be read: %s",
		    r->prefix[0] ? path : "no file was written");
	json_array_foreach(json_object_get(report, "leaks"), i, leak)
	{
		if (json_is_true(json_object_get(leak, "suppressed")) ||
		    (g->since &&
		     json_integer_value(json_object_get(leak, "new_objects")) == 0))
			continue;
		if (printed < MAX_LEAKS) {
			leakprint_leak(leak, g->since);
			printed++;
		} else {
			left++;
		}
	}
	if (left && access(path, F_OK) == 0)
		say("... and %zu more sites in %s", left, path);
	else if (left)
		say("... and %zu more sites", left);
	json_decref(report);
	free(path);
}

/* What is still held, as far as the library has found by whom. */
static void print_reachable(const struct gate *g, const struct runtable_row *r)
{
	json_t *report = report_of(g, r);
	json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(report, "reachable"), i, entry)
	{
		if (!json_object_get(entry, "chain"))
			continue;
		leakprint_leak(entry, false);
		leakprint_chain(entry);
	}
	json_decref(report);
}

/* For the suppressions: every report, also of processes that lost nothing. */
static void add_report(struct gate *g, const struct runtable_row *r)
{
	json_t *report = report_of(g, r);

	if (report)
		suppressions_add(&g->supp, report);
	json_decref(report);
}

/* Before lines are added: the library looks for the names that it knows itself. */
static void collect_suppressions(struct gate *g)
{
	if (!g->suppresses && !g->generate)
		return;
	for (unsigned i = 0; g->launch.table && i < launch_rows(&g->launch); i++)
		if (g->launch.table->rows[i].state == RUNROW_DONE)
			add_report(g, &g->launch.table->rows[i]);
}

static void keep(struct gate *g, const json_t *report)
{
	static const char *const lists[] = { "leaks", "possible" };

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		json_array_extend(json_object_get(g->saved, lists[i]),
				  json_object_get(report, lists[i]));
}

static void find_fresh(struct gate *g, json_t *report, struct amounts *out)
{
	json_t *leak;
	size_t i;

	baseline_apply(g->since, report);
	json_array_foreach(json_object_get(report, "leaks"), i, leak)
	{
		json_int_t n = json_integer_value(json_object_get(leak, "new_objects"));

		out->objects += (unsigned long long)n;
		out->bytes += (unsigned long long)json_integer_value(
			json_object_get(leak, "new_bytes"));
		out->sites += n > 0;
	}
}

/* Also before lines are added, for the same reason: stacks are compared by their names.
 */
static void compare_report(struct gate *g, const struct runtable_row *r)
{
	char *path = format_string("%s.report.json", r->prefix);
	json_t *report = report_of(g, r);
	struct amounts *fresh = &g->fresh[r - g->launch.table->rows];

	if (!report) /* nothing can be said to be old */
		*fresh = (struct amounts){ r->objects, r->bytes, r->sites };
	if (report && g->save)
		keep(g, report);
	if (report && g->since) {
		find_fresh(g, report, fresh);
		baseline_write(report, path);
	}
	json_decref(report);
	free(path);
}

static void compare_reports(struct gate *g)
{
	int error = 0;

	if (!g->since && !g->save)
		return;
	g->saved = json_pack("{s:i,s:[],s:[]}", "schema", 1, "leaks", "possible");
	for (unsigned i = 0; g->launch.table && i < launch_rows(&g->launch); i++)
		if (g->launch.table->rows[i].state == RUNROW_DONE)
			compare_report(g, &g->launch.table->rows[i]);
	if (g->save)
		error = baseline_write(g->saved, g->save);
	if (error)
		say("cannot write %s: %s", g->save, strerror(error));
	json_decref(g->saved);
}

static void finish_suppressions(struct gate *g)
{
	int error;

	if (g->suppresses && !g->quiet)
		suppressions_say_unused(&g->supp);
	if (!g->generate)
		return;
	error = suppressions_write(&g->supp, g->generate);
	if (error)
		say("cannot write suppressions to %s: %s", g->generate, strerror(error));
	suppressions_free(&g->supp);
}

/* One line and a stack for each kind and place. */
static void print_threads(const struct runtable_row *r)
{
	char *path = format_string("%s.threads.pb.gz", r->prefix);
	struct threadfile *f = threadfile_read(path);
	size_t n = f ? threadfile_count(f) : 0;
	char wait[32];

	say_title("%s (process %d): %u threads blocked for ever, %u ended and never "
		  "joined",
		  r->exe, r->pid, r->threads_blocked, r->threads_ended);
	for (size_t i = 0; i < n; i++) {
		const struct thread_sample *s = threadfile_at(f, i);
		int64_t count = s->count, bytes = s->bytes;
		char size[32];

		if (!s->blocked[0] && strcmp(s->role, "ended") != 0)
			continue;
		if (threadfile_seen(f, i))
			continue;
		for (size_t k = i + 1; k < n; k++) {
			if (!threadfile_same(f, i, k))
				continue;
			count += threadfile_at(f, k)->count;
			bytes += threadfile_at(f, k)->bytes;
		}
		if (s->blocked[0])
			say_title("blocked for ever: %lld thread%s \"%s\": %s%s, at:",
				  (long long)count, count == 1 ? "" : "s", s->name,
				  s->blocked,
				  threadfile_wait(s->wait_ns, wait, sizeof(wait)));
		else
			say_title("thread leak: %lld thread%s ended and never joined nor "
				  "detached, %s of stack kept, created by:",
				  (long long)count, count == 1 ? "" : "s",
				  say_bytes((uint64_t)bytes, size, sizeof(size)));
		for (size_t k = 0; k < s->nframes && k < MAX_FRAMES; k++)
			say("    #%zu %s (%s)", k, s->frames[k].function,
			    s->frames[k].file);
	}
	free(path);
}

static void set_incomplete(struct gate *g, char *reason)
{
	if (g->incomplete)
		free(reason);
	else
		g->incomplete = reason;
}

static void not_checked(struct gate *g, const struct runtable_row *r, bool is_main,
			const char *why)
{
	if (!g->quiet)
		say("not checked: %s (process %d) %s", r->exe, r->pid, why);
	if (is_main || g->strict)
		set_incomplete(g,
			       format_string("%s (process %d) %s", r->exe, r->pid, why));
}

/* Nothing was heard of the program that this one became. */
static bool became_unknown(const struct gate *g, const struct runtable_row *r)
{
	const struct runtable *t = g->launch.table;

	if (r->end != RUNROW_EXEC)
		return false;
	for (size_t i = (size_t)(r - t->rows) + 1; i < launch_rows(&g->launch); i++)
		if (t->pids[i] == r->pid)
			return false;
	return true;
}

#define WITHOUT_SEEP \
	"without Seep (static, set-user-ID, in a sandbox, without the environment)"
static const char became_without_seep[] = "became a program " WITHOUT_SEEP;
static const char without_seep[] = "ran " WITHOUT_SEEP;

static void judge_row(struct gate *g, const struct runtable_row *r, bool is_main)
{
	const struct amounts a = amounts_of(g, r);

	if (r->state == RUNROW_CLAIMED) {
		not_checked(g, r, is_main,
			    launch_is_running(r)
				    ? "is still running"
				    : "ended without a check: it was killed or "
				      "left by a system call of its own");
		return;
	}
	if (r->state == RUNROW_SPAWNED) {
		not_checked(g, r, is_main, without_seep);
		return;
	}
	if (r->state == RUNROW_EXECED) {
		not_checked(g, r, r->pid == g->launch.pid,
			    "became another program without a check: by a system call of "
			    "its own");
		return;
	}
	if (r->state != RUNROW_DONE)
		return;
	if (became_unknown(g, r))
		not_checked(g, r, is_main, became_without_seep);
	if (g->reachable && !g->quiet)
		print_reachable(g, r);
	/* What a check finds that could not look everywhere may be held there. */
	if (r->verdict != RUNROW_INCOMPLETE) {
		g->objects += a.objects;
		g->bytes += a.bytes;
		g->sites += a.sites;
	}
	if (r->verdict == RUNROW_INCOMPLETE)
		set_incomplete(g, format_string("%s (process %d): %s", r->exe, r->pid,
						r->reason));
	else if (r->verdict == RUNROW_NO_CHECK)
		set_incomplete(g, format_string("%s (process %d) made no check", r->exe,
						r->pid));
	else if (!r->served && is_main)
		set_incomplete(g, format_string("Seep's malloc served no call of %s: it "
						"brings its own",
						r->exe));
	g->threads_blocked += r->threads_blocked;
	g->threads_ended += r->threads_ended;
	if (a.objects && r->verdict != RUNROW_INCOMPLETE && !g->quiet)
		print_report(g, r);
	if (r->threads_blocked + r->threads_ended > 0 && !g->quiet)
		print_threads(r);
}

static void judge(struct gate *g)
{
	const struct launch *l = &g->launch;
	const struct runtable_row *main_row;

	main_row = launch_main_row(l);
	if (l->hopeless && !main_row) {
		set_incomplete(g, format_string("%s %s", l->argv[0], l->why));
	} else if (!main_row) {
		set_incomplete(g, format_string("libseep.so was not loaded into %s",
						l->argv[0]));
		return;
	}
	for (unsigned i = 0; i < launch_rows(l); i++)
		judge_row(g, &l->table->rows[i], &l->table->rows[i] == main_row);
	if (l->table->lost)
		set_incomplete(g, format_string("some processes were not followed: there "
						"was no room for them"));
}

/* One line, for the first process that it is true of. */
static void note_slices(const struct gate *g)
{
	bool hide = false;

	for (unsigned i = 0; !hide && g->launch.table && i < launch_rows(&g->launch);
	     i++) {
		const struct runtable_row *r = &g->launch.table->rows[i];
		json_t *report = NULL;

		if (r->state == RUNROW_DONE)
			report = kept_report(&g->launch, r);
		hide = report && slices_hide(report);
		json_decref(report);
		if (hide)
			say("note: leaks may be hidden in GLib's slices in %s (process "
			    "%d): set G_SLICE=always-malloc to find them",
			    r->exe, r->pid);
	}
}

static bool found(const struct gate *g)
{
	return g->objects > 0 || g->threads_blocked + g->threads_ended > 0;
}

static void print_verdict(const struct gate *g)
{
	if (g->threads_blocked + g->threads_ended > 0)
		say("THREADS blocked=%u ended=%u", g->threads_blocked, g->threads_ended);
	if (found(g))
		say("LEAK objects=%llu bytes=%llu sites=%llu", g->objects, g->bytes,
		    g->sites);
	else if (g->incomplete)
		say("INCOMPLETE: %s", g->incomplete);
	else
		say("clean");
}

/* Status of the command as far as it counts: an end that was asked for is a normal one.
 */
static int own_status(const struct launch *l)
{
	if (WIFSIGNALED(l->status) && l->asked_to_end &&
	    (WTERMSIG(l->status) == SIGINT || WTERMSIG(l->status) == SIGTERM))
		return 0;
	return launch_exit_code(l->status);
}

int command_gate(int argc, char **argv)
{
	static struct gate g = {
		.launch = { .out = "seep.out/%e.%p",
			    .defaults = "mode=exact:leak=exit",
			    .is_gate = true,
			    .linger_s = LINGER_S },
		.exitcode = EXIT_LEAK,
	};
	const char *verdict;
	bool timely;
	int status;

	parse(&g, argc, argv);
	g.launch.quiet = g.quiet;
	launch_run(&g.launch);
	timely = knownleaks_run(&g.launch, g.quiet, keep_report, &g);
	collect_suppressions(&g);
	compare_reports(&g);
	if (!g.no_symbolize && timely)
		symbolizer_run(&g.launch, g.quiet);
	judge(&g);
	finish_suppressions(&g);
	if (!g.quiet)
		note_slices(&g);
	status = own_status(&g.launch);
	if (status == 0)
		status = found(&g) ? g.exitcode : g.incomplete ? EXIT_INCOMPLETE : 0;
	verdict = found(&g) ? "leak" : g.incomplete ? "incomplete" : "clean";
	if (g.launch.table && g.launch.out[0])
		runjson_write(&g.launch, status, verdict);
	launch_end(&g.launch);
	print_verdict(&g);
	return status;
}
