/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escape: `seep escape`: runs a program and says, for each place that allocates, whether
 * its objects ever outlive the function that makes them, where they go, and what could be
 * done about it; in the manner of a compiler's escape analysis. It speaks of what was
 * seen in this run, with numbers; other paths may do otherwise.
 *
 * The default is escape=exact, because comparison is wrong just where the question
 * matters: a buffer that each call of a function grows or replaces looks like one that
 * never leaves it. Of the objects that comparison took for such (one in about ten
 * followed, seed=5), the stubs confirmed 47 of 179 in python3, 391 of 3788 in g++, 21556
 * of 30309 in clang++ and 2 of 1507 in z3. It costs more (sqlite3, lua, python3, gs, z3
 * with all objects followed: 1.3 to 2 times the CPU of comparison), which a run that asks
 * this question has.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/escapes.h"
#include "tools/lib/launch.h"
#include "tools/lib/runjson.h"
#include "tools/lib/say.h"
#include "tools/lib/symbolizer.h"

#define DEFAULT_TOP 40

static const char usage[] =
	"usage: seep escape [OPTIONS] [--] PROGRAM [ARGUMENTS]\n"
	"       seep escape [OPTIONS] --from FILE.escape.pb.gz\n\n"
	"Runs PROGRAM and reports, for each place that allocates, whether its objects\n"
	"outlive the function that makes them, where they go, and what would be gained "
	"by\n"
	"a change. It speaks of the paths that were run.\n\n"
	"  -o, --out PATTERN      files' names: %e program, %p process (seep.out/%e.%p)\n"
	"  --from FILE            no run: the report of this profile, on stdout\n"
	"  --format FORMAT        text (default) or json\n"
	"  --report FILE          write the report there (default: stderr)\n"
	"  --top N                places to show (40; 0: all)\n"
	"  --sample BYTES         follow one object in BYTES on average (default: all)\n"
	"  --bound                compare stacks instead of counting returns\n"
	"  --no-symbolize         no lines and inlined frames\n"
	"  -O, --option KEY=VALUE any option of the library\n"
	"  --lib FILE             libseep.so, if it is not beside this command\n"
	"  -h, --help             this text\n\n"
	"Exit status: PROGRAM's own, as for seep run; 24 when FILE cannot be read.\n";

enum {
	OPT_FROM = 256,
	OPT_FORMAT,
	OPT_REPORT,
	OPT_TOP,
	OPT_SAMPLE,
	OPT_BOUND,
	OPT_NO_SYMBOLIZE
};

static const struct option options[] = {
	LAUNCH_OPTIONS,
	{ "from", required_argument, NULL, OPT_FROM },
	{ "format", required_argument, NULL, OPT_FORMAT },
	{ "report", required_argument, NULL, OPT_REPORT },
	{ "top", required_argument, NULL, OPT_TOP },
	{ "sample", required_argument, NULL, OPT_SAMPLE },
	{ "bound", no_argument, NULL, OPT_BOUND },
	{ "no-symbolize", no_argument, NULL, OPT_NO_SYMBOLIZE },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct escape {
	struct launch launch;
	const char *from, *report;
	bool json, no_symbolize;
	unsigned long top;
	FILE *out;
};

/* ---- options ---- */

static void parse_one(struct escape *e, int c)
{
	switch (c) {
	case OPT_FROM:
		e->from = optarg;
		break;
	case OPT_FORMAT:
		if (strcmp(optarg, "text") != 0 && strcmp(optarg, "json") != 0)
			die(EXIT_USAGE, "--format %s: must be text or json", optarg);
		e->json = optarg[0] == 'j';
		break;
	case OPT_REPORT:
		e->report = optarg;
		break;
	case OPT_TOP:
		e->top = (unsigned long)parse_number("--top", optarg, 0, LONG_MAX);
		break;
	case OPT_SAMPLE:
		launch_set(&e->launch, "mode", "sampled");
		launch_set(&e->launch, "sample", optarg);
		break;
	case OPT_BOUND:
		launch_set(&e->launch, "escape", "bound");
		break;
	case OPT_NO_SYMBOLIZE:
		e->no_symbolize = true;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		die(EXIT_USAGE, "see seep escape --help");
	}
}

static void parse(struct escape *e, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, LAUNCH_LETTERS "h", options, NULL)) != -1) {
		if (c == '?')
			die_option(argv[optind - 1], "escape");
		if (!launch_option(&e->launch, c, optarg))
			parse_one(e, c);
	}
	e->launch.argv = argv + optind;
	if (!argv[optind] == !e->from)
		die(EXIT_USAGE, "a program or --from FILE; see seep escape --help");
}

/* ---- JSON ---- */

static json_t *text_or_null(const char *text)
{
	json_t *j = text ? json_string(text) : json_null();

	return j ? j : json_string("?"); /* not UTF-8 */
}

static json_t *json_places(const struct escape_site *s)
{
	json_t *o = json_object();

	for (unsigned i = 0; i < ESCAPE_PLACES; i++)
		if (s->places[i])
			json_object_set_new(o, escapes_word((enum escape_place)i),
					    json_integer((json_int_t)s->places[i]));
	return o;
}

/* How long they lived, in steps of a factor of two. The last is open. */
static json_t *json_lives(const struct escape_site *s)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < ESCAPE_LIVES; i++)
		if (s->lives[i])
			json_array_append_new(
				list, json_pack("{s:I,s:I,s:I}", "from_ns",
						(json_int_t)(i ? 1ull << i : 0),
						"below_ns", (json_int_t)(2ull << i),
						"samples", (json_int_t)s->lives[i]));
	return list;
}

static json_t *json_site(const struct escape_site *s)
{
	enum escape_place place = escapes_verdict(s);
	char *hint = escapes_advice(s);
	json_t *o = json_pack(
		"{s:o,s:o,s:o,s:s,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f}",
		"where", text_or_null(s->where), "function", text_or_null(s->function),
		"through", text_or_null(s->through), "escape", escapes_word(place),
		"places", json_places(s), "samples", (json_int_t)s->samples, "objects",
		(json_int_t)s->objects, "bytes", (json_int_t)s->bytes, "size_min",
		(json_int_t)s->size_min, "size_max", (json_int_t)s->size_max, "depth_min",
		(json_int_t)s->depth_min, "depth_max", (json_int_t)s->depth_max,
		"median_ns", (json_int_t)s->median_ns, "grown", (json_int_t)s->grown,
		"moved", (json_int_t)s->moved, "gain", s->gain);

	json_object_set_new(o, "several", json_integer((json_int_t)s->several));

	json_object_set_new(o, "allocator", text_or_null(s->allocator.text));
	if (s->argument_min) {
		json_object_set_new(o, "argument_min",
				    json_integer((json_int_t)s->argument_min));
		json_object_set_new(o, "argument_max",
				    json_integer((json_int_t)s->argument_max));
	}
	json_object_set_new(o, "lifetimes", json_lives(s));
	json_object_set_new(o, "inlined_in", text_or_null(s->inlined_in));
	json_object_set_new(o, "to", text_or_null(s->to.text));
	json_object_set_new(o, "freed_by", text_or_null(s->freed_by.text));
	json_object_set_new(o, "dies_with", text_or_null(s->ancestor.text));
	json_object_set_new(o, "dies_with_frame",
			    json_integer((json_int_t)s->ancestor.number));
	json_object_set_new(o, "advice", text_or_null(hint));
	free(hint);
	json_object_set_new(
		o, "confidence",
		json_pack("{s:I,s:I,s:I,s:I,s:I}", "exact", (json_int_t)s->exact,
			  "exact-exc", (json_int_t)s->unwound, "bound",
			  (json_int_t)s->bound, "refused", (json_int_t)s->refused, "live",
			  (json_int_t)s->live));
	return o;
}

static json_t *json_profile(const char *path, const struct escape_report *r, size_t n)
{
	json_t *sites = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(sites, json_site(&r->sites[i]));
	return json_pack("{s:o,s:o,s:I,s:o}", "file", text_or_null(path), "method",
			 text_or_null(r->comment), "duration_ns",
			 (json_int_t)r->duration_ns, "sites", sites);
}

/* ---- the report ---- */

static bool report_file(struct escape *e, const char *path, json_t *profiles)
{
	struct escape_report r;
	const char *prefix = e->out == stderr ? "seep: " : "";
	size_t n;

	if (!escapes_read(path, &r)) {
		if (access(path, R_OK) != 0)
			say_bad("%s: %s", path, strerror(errno));
		else
			say_bad("%s: not an escape profile, or damaged", path);
		return false;
	}
	n = e->top && e->top < r.nsites ? e->top : r.nsites;
	if (e->json) {
		json_array_append_new(profiles, json_profile(path, &r, n));
	} else {
		for (size_t i = 0; i < n; i++) {
			fputs(prefix, e->out);
			escapes_print(e->out, &r, &r.sites[i]);
		}
		if (n < r.nsites)
			fprintf(e->out, "%s%zu more places; --top 0 shows them\n", prefix,
				r.nsites - n);
		fprintf(e->out, "%s%s\n", prefix, path);
	}
	escapes_free(&r);
	return true;
}

static void report_row(struct escape *e, const struct runtable_row *row, json_t *profiles)
{
	char *path;

	if (row->state != RUNROW_DONE || row->prefix[0] == '\0')
		return;
	path = format_string("%s.escape.pb.gz", row->prefix);
	report_file(e, path, profiles);
	free(path);
}

/* False: the profile asked for cannot be read. */
static bool report(struct escape *e)
{
	bool good = true;
	json_t *profiles = json_array(), *root;

	e->out = e->from ? stdout : stderr;
	if (e->report && !(e->out = fopen(e->report, "w")))
		die(EXIT_INCOMPLETE, "%s: cannot be written", e->report);
	if (e->from)
		good = report_file(e, e->from, profiles);
	for (unsigned i = 0; !e->from && i < launch_rows(&e->launch); i++)
		report_row(e, &e->launch.table->rows[i], profiles);
	root = json_pack("{s:i,s:o}", "schema", 1, "profiles", profiles);
	if (e->json) {
		json_dumpf(root, e->out, JSON_INDENT(2));
		fputc('\n', e->out);
	}
	json_decref(root);
	if (fflush(e->out) != 0) {
		say_bad("the report could not be written: %s", strerror(errno));
		good = false;
	}
	if (e->report)
		fclose(e->out);
	return good;
}

int command_escape(int argc, char **argv)
{
	struct escape e = {
		.launch = { .out = "seep.out/%e.%p",
			    .defaults = "mode=exact:escape=exact" },
		.top = DEFAULT_TOP,
	};

	parse(&e, argc, argv);
	if (e.from)
		return report(&e) ? 0 : EXIT_INCOMPLETE;
	launch_run(&e.launch);
	launch_end(&e.launch);
	if (e.launch.hopeless)
		return launch_exit_code(e.launch.status);
	if (!e.no_symbolize)
		symbolizer_run(&e.launch, false);
	report(&e);
	runjson_write(&e.launch, launch_exit_code(e.launch.status), "none");
	return launch_exit_code(e.launch.status);
}
