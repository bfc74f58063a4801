/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run: `seep run`: profiles of one run of a program, and a summary of them on stderr.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/launch.h"
#include "tools/lib/profile.h"
#include "tools/lib/resident.h"
#include "tools/lib/runjson.h"
#include "tools/lib/say.h"
#include "tools/lib/symbolizer.h"

#define TOP_SITES 10

static const char usage[] =
	"usage: seep run [OPTIONS] [--] PROGRAM [ARGUMENTS]\n\n"
	"Runs PROGRAM with every allocation recorded, writes heap, allocs, peak, escape "
	"and\n"
	"threads profiles at its end, and prints a summary on stderr.\n\n"
	"  -o, --out PATTERN      files' names: %e program, %p process (seep.out/%e.%p)\n"
	"  --mode MODE            exact (default), sampled or off\n"
	"  --sample BYTES         sampled: one in BYTES on average (512K)\n"
	"  --seed N               sampled: seed of the random choice\n"
	"  --leak                 look for leaks at the end of each process as well\n"
	"  --suppressions FILE    leaks to leave out, lines of leak:PATTERN\n"
	"  --lifetimes            how long objects live, by site: lifetimes profile\n"
	"  --labels LIST          split sites by thread, size or both: thread,size\n"
	"  --no-escape            no escape profile\n"
	"  --no-threads           no threads profile\n"
	"  --no-follow            only PROGRAM itself, not what it starts\n"
	"  --no-symbolize         no lines and inlined frames in the profiles\n"
	"  -O, --option KEY=VALUE any option of the library\n"
	"  --lib FILE             libseep.so, if it is not beside this command\n"
	"  -q, --quiet            no summary\n"
	"  -h, --help             this text\n\n"
	"Exit status: PROGRAM's own, 128+N when signal N killed it; 126 and 127 when it\n"
	"cannot be run, 25 for wrong usage. A program that cannot be helped (static, "
	"32-bit,\n"
	"set-user-ID ...) is named and run without profiling.\n";

enum {
	OPT_MODE = 256,
	OPT_SAMPLE,
	OPT_SEED,
	OPT_LEAK,
	OPT_SUPPRESSIONS,
	OPT_LIFETIMES,
	OPT_LABELS,
	OPT_NO_ESCAPE,
	OPT_NO_THREADS,
	OPT_NO_FOLLOW,
	OPT_NO_SYMBOLIZE
};

static const struct option options[] = {
	LAUNCH_OPTIONS,
	{ "mode", required_argument, NULL, OPT_MODE },
	{ "sample", required_argument, NULL, OPT_SAMPLE },
	{ "seed", required_argument, NULL, OPT_SEED },
	{ "leak", no_argument, NULL, OPT_LEAK },
	{ "suppressions", required_argument, NULL, OPT_SUPPRESSIONS },
	{ "lifetimes", no_argument, NULL, OPT_LIFETIMES },
	{ "labels", required_argument, NULL, OPT_LABELS },
	{ "no-escape", no_argument, NULL, OPT_NO_ESCAPE },
	{ "no-threads", no_argument, NULL, OPT_NO_THREADS },
	{ "no-follow", no_argument, NULL, OPT_NO_FOLLOW },
	{ "no-symbolize", no_argument, NULL, OPT_NO_SYMBOLIZE },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct run {
	struct launch launch;
	bool quiet, no_symbolize;
};

static void parse_one(struct run *r, int c)
{
	switch (c) {
	case OPT_MODE:
		launch_set(&r->launch, "mode", optarg);
		break;
	case OPT_SAMPLE:
		launch_set(&r->launch, "sample", optarg);
		break;
	case OPT_SEED:
		launch_set(&r->launch, "seed", optarg);
		break;
	case OPT_LEAK:
		launch_set(&r->launch, "leak", "exit");
		break;
	case OPT_SUPPRESSIONS:
		launch_set(&r->launch, "suppressions", optarg);
		break;
	case OPT_LIFETIMES:
		launch_set(&r->launch, "lifetimes", "on");
		break;
	case OPT_LABELS:
		launch_set(&r->launch, "labels", optarg);
		break;
	case OPT_NO_ESCAPE:
		launch_set(&r->launch, "escape", "off");
		break;
	case OPT_NO_THREADS:
		launch_set(&r->launch, "threads", "off");
		break;
	case OPT_NO_FOLLOW:
		launch_set(&r->launch, "follow", "off");
		break;
	case OPT_NO_SYMBOLIZE:
		r->no_symbolize = true;
		break;
	case 'q':
		r->quiet = true;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		die(EXIT_USAGE, "see seep run --help");
	}
}

static void parse(struct run *r, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, LAUNCH_LETTERS "qh", options, NULL)) != -1) {
		if (c == '?')
			die_option(argv[optind - 1], "run");
		if (!launch_option(&r->launch, c, optarg))
			parse_one(r, c);
	}
	r->launch.argv = argv + optind;
	if (!argv[optind])
		die(EXIT_USAGE, "no program; see seep run --help");
}

/* ---- the summary ---- */

static void print_sites(const char *prefix, bool live)
{
	struct profile_site sites[TOP_SITES];
	char *path = format_string("%s.heap.pb.gz", prefix), bytes[32];
	int n = profile_top(path, live ? "inuse_objects" : "alloc_objects",
			    live ? "inuse_space" : "alloc_space", sites, TOP_SITES);

	if (n > 0)
		say_title("top sites by %s:",
			  live ? "memory still held at the end" : "memory allocated");
	for (int i = 0; i < n; i++)
		say("  %10s%s in %9lld  %s",
		    say_bytes((uint64_t)sites[i].bytes, bytes, 32), sites[i].error,
		    (long long)sites[i].objects, sites[i].stack);
	profile_free(sites, n);
	free(path);
}

static char *error_of(const struct runtable_row *r, const char *kind, const char *type,
		      const char *what, int64_t *period)
{
	char *path = format_string("%s.%s.pb.gz", r->prefix, kind);
	double percent = profile_error(path, type, period);

	free(path);
	return percent > 0 ? format_string(", %s ±%.1f %%", what, percent)
			   : format_string("%s", "");
}

/* Where figures are estimates. */
static void print_errors(const struct runtable_row *r)
{
	int64_t period = 0;
	char *heap = error_of(r, "heap", "inuse_space", "at the end", &period);
	char *allocs, *peak, bytes[32];

	if (period > 1) {
		allocs = error_of(r, "allocs", "alloc_space", "allocated", &period);
		peak = error_of(r, "peak", "peak_space", "peak", &period);
		say("estimated from %llu samples%s%s%s; less than %s may be missing",
		    (unsigned long long)r->samples, allocs, peak, heap,
		    say_bytes((uint64_t)period, bytes, sizeof(bytes)));
		free(allocs);
		free(peak);
	}
	free(heap);
}

static void print_file(const char *path, void *arg)
{
	bool *any = arg;

	if (!*any)
		say_title("files:");
	*any = true;
	say("  %s", path);
}

static void print_files(const struct runtable_row *r)
{
	char *heap = format_string("%s.heap.pb.gz", r->prefix);
	bool any = false;

	runjson_each_file(r, print_file, &any);
	if (access(heap, F_OK) == 0)
		say("look closer: go tool pprof -top %s", heap);
	free(heap);
}

static void print_totals(const struct launch *l, const struct runtable_row *r)
{
	char a[32], b[32], c[32];

	say_title("%s (process %d)", r->exe, r->pid);
	say("peak %s, at the end %s in %llu objects, allocated %s in %llu objects",
	    say_bytes(r->peak_bytes, a, 32), say_bytes(r->live_bytes, b, 32),
	    (unsigned long long)r->live_objects, say_bytes(r->alloc_bytes, c, 32),
	    (unsigned long long)r->alloc_objects);
	if (r->prefix[0])
		print_errors(r);
	resident_print(r->rss, r->rss_parts, "at the end");
	if (!r->rss && r->recovered && l->max_rss)
		say("resident: never more than %s", say_bytes(l->max_rss, a, 32));
	if (!r->served && !r->recovered)
		say("warning: Seep's malloc served no call: the program brings its own");
	if (r->dropped)
		say("warning: %llu allocations were not recorded",
		    (unsigned long long)r->dropped);
	if (r->truncated)
		say("warning: %llu stacks end in [truncated]",
		    (unsigned long long)r->truncated);
	if (r->reason[0])
		say("warning: %s", r->reason);
}

/* Processes beside the command itself. */
static void print_others(const struct launch *l, const struct runtable_row *main_row)
{
	unsigned done = 0, recovered = 0, uncovered = 0, running = 0;

	for (unsigned i = 0; i < launch_rows(l); i++) {
		const struct runtable_row *r = &l->table->rows[i];

		if (r == main_row)
			continue;
		done += r->state == RUNROW_DONE;
		recovered += r->recovered;
		if (r->state == RUNROW_CLAIMED && launch_is_running(r))
			running++;
		else
			uncovered += r->state == RUNROW_CLAIMED && !r->recovered;
	}
	if (done)
		say("%u more process%s profiled, see run.json", done,
		    done == 1 ? " was" : "es were");
	if (recovered)
		say("%u process%s killed; the profiles are of that moment", recovered,
		    recovered == 1 ? " was" : "es were");
	if (uncovered)
		say("%u process%s ended without profiles: killed", uncovered,
		    uncovered == 1 ? "" : "es");
	if (running)
		say("%u process%s still running", running,
		    running == 1 ? " is" : "es are");
}

static void print_killed(const struct launch *l, const struct runtable_row *r)
{
	if (!r->recovered)
		return;
	if (l->out_of_memory && r->signal == SIGKILL)
		say_bad("%s was killed because memory ran out; what it held then:",
			l->argv[0]);
	else if (r->signal)
		say_bad("%s was killed by signal %d (%s); what it held then:", l->argv[0],
			r->signal, strsignal(r->signal));
	else
		say_bad("%s ended itself by a system call; what it held then:",
			l->argv[0]);
	if (r->lost)
		say("warning: %u parts of the profile are missing: its store could not "
		    "grow",
		    r->lost);
}

static void summarize(const struct launch *l)
{
	const struct runtable_row *r = launch_main_row(l);

	if (l->hopeless && !r) {
		print_others(l, NULL);
		return;
	}
	if (!r && WIFSIGNALED(l->status)) {
		say_bad("%s was killed by signal %d (%s) before Seep was loaded into it",
			l->argv[0], WTERMSIG(l->status), strsignal(WTERMSIG(l->status)));
		return;
	}
	if (!r) {
		say_bad("libseep.so was not loaded into %s: the loader or the program "
			"dropped LD_PRELOAD",
			l->argv[0]);
		return;
	}
	if (r->state != RUNROW_DONE && !r->recovered) {
		if (WIFSIGNALED(l->status))
			say_bad("%s ended without profiles: it was killed", l->argv[0]);
		else
			say("%s has recorded nothing: mode=off, or it ended by a system "
			    "call of its own",
			    l->argv[0]);
		print_others(l, r);
		return;
	}
	print_killed(l, r);
	print_totals(l, r);
	if (r->prefix[0]) {
		print_sites(r->prefix, r->live_bytes > 0);
		print_others(l, r);
		print_files(r);
	}
}

int command_run(int argc, char **argv)
{
	struct run r = {
		.launch = { .out = "seep.out/%e.%p",
			    .defaults = "mode=exact:escape=bound:threads=on" },
	};

	parse(&r, argc, argv);
	launch_run(&r.launch);
	if (!r.no_symbolize)
		symbolizer_run(&r.launch, r.quiet);
	if (!r.quiet)
		summarize(&r.launch);
	if (!r.launch.hopeless)
		runjson_write(&r.launch, launch_exit_code(r.launch.status), "none");
	launch_end(&r.launch);
	return launch_exit_code(r.launch.status);
}
