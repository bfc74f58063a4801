/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: `seep check PID`: has a running process lost memory? and `seep leak PID`: the
 * same as a profile.
 *
 * The process writes its report into memory of ours, and the profile into a file; what is
 * new, and the verdict, are worked out here.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/agent.h"
#include "tools/lib/baseline.h"
#include "tools/lib/knownleaks.h"
#include "tools/lib/leakprint.h"
#include "tools/lib/output.h"
#include "tools/lib/pause.h"
#include "tools/lib/reportjson.h"
#include "tools/lib/say.h"
#include "tools/lib/symbolizer.h"

#define MAX_LEAKS  20
#define PATIENCE_S 1800 /* for a very large program */

static const char usage_check[] =
	"usage: seep check [OPTIONS] PID\n\n"
	"Looks for lost memory in a running process that has libseep.so loaded. The "
	"process\n"
	"runs on meanwhile; only if something new seems lost, it stands still while its\n"
	"page tables are copied and its threads' registers are read. The last line is\n"
	"\"seep: clean\", \"seep: LEAK objects=N bytes=N sites=N\" or \"seep: "
	"INCOMPLETE:\n"
	"reason\".\n\n";

static const char usage_leak[] =
	"usage: seep leak [OPTIONS] PID\n\n"
	"Looks for lost memory in a running process, as seep check does, and writes it "
	"as a\n"
	"profile.\n\n"
	"  -o, --out FILE     the profile (seep.out/PROGRAM.PID.leak.pb.gz); - for "
	"standard\n"
	"                     output\n";

static const char usage_both[] =
	"  --since[=FILE]     only what is new: since the check before, or what is not "
	"in\n"
	"                     FILE, which --save has written\n"
	"  --save FILE        keeps what was found\n"
	"  --max-pause MS     rather no verdict than the process standing still for "
	"longer\n"
	"  --stop             stops the threads at once, without the first look\n"
	"  --snapshot         the first look is at a copy of the process\n"
	"  --standing         where no snapshot can be made, the process may stand "
	"still\n"
	"                     for as long as the check takes\n"
	"  --possible         possibly lost objects count as lost\n"
	"  --reachable        lists what is still held as well, and by whom\n"
	"  --json FILE        the whole report; - for standard output\n"
	"  --no-symbolize     no lines and inlined frames\n"
	"  --signal N         the signal= that the process was started with\n"
	"  --force            ask even where a seccomp filter might kill the process for "
	"it\n"
	"  -q, --quiet        only the verdict\n"
	"  -h, --help         this text\n\n";

static const char status_check[] =
	"Exit status: 0 nothing lost; 23 something is; 24 the check could not be "
	"completed,\n"
	"with the reason; 25 wrong usage.\n";
static const char status_leak[] =
	"Exit status: 0; 24 the check could not be completed, with the reason; 25 "
	"wrong\n"
	"usage.\n";

enum {
	OPT_SINCE = 256,
	OPT_SAVE,
	OPT_MAX_PAUSE,
	OPT_STOP,
	OPT_SNAPSHOT,
	OPT_STANDING,
	OPT_POSSIBLE,
	OPT_REACHABLE,
	OPT_JSON,
	OPT_NO_SYMBOLIZE
};

static const struct option options[] = {
	{ "since", optional_argument, NULL, OPT_SINCE },
	{ "save", required_argument, NULL, OPT_SAVE },
	{ "max-pause", required_argument, NULL, OPT_MAX_PAUSE },
	{ "stop", no_argument, NULL, OPT_STOP },
	{ "snapshot", no_argument, NULL, OPT_SNAPSHOT },
	{ "standing", no_argument, NULL, OPT_STANDING },
	{ "possible", no_argument, NULL, OPT_POSSIBLE },
	{ "reachable", no_argument, NULL, OPT_REACHABLE },
	{ "json", required_argument, NULL, OPT_JSON },
	{ "no-symbolize", no_argument, NULL, OPT_NO_SYMBOLIZE },
	AGENT_OPTIONS,
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "out", required_argument, NULL, 'o' }, /* last: of `seep leak` only */
	{ NULL, 0, NULL, 0 },
};

struct check {
	struct agent_target target;
	const char *command;
	bool profile; /* `seep leak` */
	const char *out, *save, *json;
	bool since;
	struct baseline *baseline; /* NULL: since the check before */
	double max_pause_ms;	   /* below 0: any */
	bool stop, snapshot, standing, possible, reachable, no_symbolize, quiet;
	struct pause predicted;
	bool is_predicted;
	bool unstopped; /* a pause would be longer than is allowed */
	bool uncopied;	/* that of a copy would be */
	struct agent_reply reply;
	json_t *report;
	/* the verdict */
	long long objects, bytes, sites;
};

static void help(const struct check *c)
{
	fputs(c->profile ? usage_leak : usage_check, stdout);
	fputs(usage_both, stdout);
	fputs(c->profile ? status_leak : status_check, stdout);
	exit(0);
}

static double parse_ms(const char *text)
{
	char *end;
	double ms = strtod(text, &end);

	if (*text == '\0' || *end || !(ms >= 0))
		die(EXIT_USAGE, "--max-pause %s: not a number of milliseconds", text);
	return ms;
}

static void parse_since(struct check *c, const char *path)
{
	char *why = NULL;

	c->since = true;
	if (!path)
		return;
	baseline_free(c->baseline);
	c->baseline = baseline_read(path, &why);
	if (!c->baseline)
		die(EXIT_INCOMPLETE, "--since %s", why);
}

static void parse_one(struct check *c, int option, const char *word)
{
	switch (option) {
	case OPT_SINCE:
		parse_since(c, optarg);
		break;
	case OPT_SAVE:
		c->save = optarg;
		break;
	case OPT_MAX_PAUSE:
		c->max_pause_ms = parse_ms(optarg);
		break;
	case OPT_STOP:
		c->stop = true;
		break;
	case OPT_SNAPSHOT:
		c->snapshot = true;
		break;
	case OPT_STANDING:
		c->standing = true;
		break;
	case OPT_POSSIBLE:
		c->possible = true;
		break;
	case OPT_REACHABLE:
		c->reachable = true;
		break;
	case OPT_JSON:
		c->json = optarg;
		break;
	case OPT_NO_SYMBOLIZE:
		c->no_symbolize = true;
		break;
	case 'o':
		c->out = optarg;
		break;
	case AGENT_OPTION_SIGNAL:
	case AGENT_OPTION_FORCE:
		agent_option(&c->target, option);
		break;
	case 'q':
		c->quiet = true;
		break;
	case 'h':
		help(c);
		break;
	default:
		die_option(word, c->command);
	}
}

static void parse(struct check *c, int argc, char **argv)
{
	const size_t n = sizeof(options) / sizeof(options[0]);
	struct option mine[sizeof(options) / sizeof(options[0])];
	int option;

	memcpy(mine, options, sizeof(options));
	if (!c->profile)
		mine[n - 2] = mine[n - 1];
	opterr = 0;
	while ((option = getopt_long(argc, argv, c->profile ? "o:qh" : "qh", mine,
				     NULL)) != -1)
		parse_one(c, option, argv[optind - 1]);
	if (optind + 1 != argc)
		die(EXIT_USAGE, "one process id is needed; see seep %s --help",
		    c->command);
	c->target.pid = agent_parse_pid(argv[optind]);
}

/* ---- the pause ---- */

/* The pause: at once if it is sure to come, else should it be needed. */
static void refuse(struct check *c, const char *why)
{
	if (c->stop || c->snapshot || c->standing || c->reachable)
		die(EXIT_INCOMPLETE, "process %d: %s; nothing was done", c->target.pid,
		    why);
	if (c->predicted.uncopied_ms > 0 && c->predicted.uncopied_ms <= c->max_pause_ms)
		c->uncopied = true;
	else
		c->unstopped = true;
	snprintf(c->target.busy, sizeof(c->target.busy), "%s", why);
}

static void predict(struct check *c)
{
	char huge[32], small[32], uncopied[48] = "";
	const struct pause *p = &c->predicted;

	c->is_predicted = pause_predict(c->target.pid, &c->predicted);
	if (c->is_predicted && p->uncopied_ms > 0)
		snprintf(uncopied, sizeof(uncopied), ", %.1f ms without a copy",
			 p->uncopied_ms);
	if (!c->is_predicted) {
		if (c->max_pause_ms >= 0)
			refuse(c, "its page tables cannot be seen, so the pause would be "
				  "of unknown length");
		return;
	}
	if (!c->quiet)
		say("predicted pause: %.1f ms (%s in huge pages, %s in small ones), %.1f "
		    "ms to stop %u thread%s%s",
		    p->screen_ms, say_bytes(p->huge_bytes, huge, sizeof(huge)),
		    say_bytes(p->small_bytes, small, sizeof(small)), p->confirm_ms,
		    p->threads, p->threads == 1 ? "" : "s", uncopied);
	if (c->max_pause_ms >= 0 && p->confirm_ms > c->max_pause_ms) {
		char why[128];

		snprintf(why, sizeof(why),
			 "it would stand still for about %.1f ms, which is more than "
			 "--max-pause %g",
			 p->confirm_ms, c->max_pause_ms);
		refuse(c, why);
	}
}

/* ---- asking ---- */

static json_t *load(int fd)
{
	json_error_t why;
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return reportjson_read(path, &why);
}

static int open_memory(void)
{
	int fd = memfd_create("seep", MFD_CLOEXEC);

	if (fd < 0)
		die(EXIT_INCOMPLETE, "memory: %s", strerror(errno));
	return fd;
}

static void ask(struct check *c, int fd)
{
	struct agent_request q = { .command = AGENT_LEAK };
	struct output o = { .fd = -1 };
	int fds[2] = { fd, -1 };

	q.flags = (c->stop ? AGENT_STOP : 0) | (c->standing ? AGENT_STANDING : 0) |
		  (c->snapshot ? AGENT_SNAPSHOT : 0) |
		  (c->unstopped ? AGENT_UNSTOPPED : 0) |
		  (c->uncopied ? AGENT_UNCOPIED : 0) |
		  (c->max_pause_ms >= 0 ? AGENT_LIMITED : 0) |
		  (c->reachable ? AGENT_REACHABLE : 0) |
		  (c->json || c->save || c->since ? 0 : AGENT_BRIEF);
	if (c->profile) {
		output_open(&o, c->out, c->target.pid, "leak");
		fds[1] = o.fd;
	}
	c->target.patience_s = PATIENCE_S;
	agent_ask_files(&c->target, &q, fds, c->profile ? 2 : 1, &c->reply);
	c->report = load(fd);
	if (!json_is_array(json_object_get(c->report, "leaks")))
		die(EXIT_INCOMPLETE, "process %d: its answer is not readable",
		    c->target.pid);
	if (!c->profile)
		return;
	c->out = o.path;
	output_finish(&o);
}

/* What suppressions cover by names that the process does not know. */
static void leave_out_known(struct check *c, int fd)
{
	json_t *copy, *found;

	if (!knownleaks_wanted(c->report))
		return;
	copy = load(fd);
	found = knownleaks_find(copy, 0);
	knownleaks_apply(c->report, found, c->profile ? c->out : NULL);
	json_decref(found);
	json_decref(copy);
}

/* ---- what is new ---- */

static long long number_in(const json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

static const char *text_in(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static bool counts(const struct check *c, const json_t *leak)
{
	return !c->since || number_in(leak, "new_objects") > 0;
}

static void add_up(struct check *c, const char *list)
{
	json_t *leak;
	size_t i;

	json_array_foreach(json_object_get(c->report, list), i, leak)
	{
		if (!counts(c, leak))
			continue;
		c->objects += number_in(leak, c->since ? "new_objects" : "objects");
		c->bytes += number_in(leak, c->since ? "new_bytes" : "bytes");
		c->sites++;
	}
}

static void save(const struct check *c, const char *path)
{
	int error = baseline_write(c->report, path);

	if (error)
		die(EXIT_INCOMPLETE, "%s: %s", path, strerror(error));
}

static void write_json(const struct check *c)
{
	size_t size;
	char *text;

	if (strcmp(c->json, "-") != 0) {
		save(c, c->json);
		return;
	}
	text = reportjson_text(c->report, &size);
	if (!text)
		die(EXIT_INCOMPLETE, "out of memory");
	fwrite(text, 1, size, stdout);
	free(text);
	if (fflush(stdout) != 0)
		die(EXIT_INCOMPLETE, "standard output: %s", strerror(errno));
}

/* ---- text ---- */

/* Lines where they can be had: never a reason to fail. */
static void add_lines(struct check *c)
{
	struct symbolizer *s = symbolizer_new(NULL, NAMES_SIMPLE);

	symbolizer_report(s, c->report, 0);
	symbolizer_free(s);
}

static void print_list(const struct check *c, const char *list)
{
	size_t i, printed = 0, left = 0;
	json_t *leak;

	json_array_foreach(json_object_get(c->report, list), i, leak)
	{
		if (!counts(c, leak))
			continue;
		if (printed < MAX_LEAKS) {
			leakprint_live(leak, c->since);
			printed++;
		} else {
			left++;
		}
	}
	if (left)
		say("... and %zu more sites", left);
}

static void print_reachable(const struct check *c)
{
	json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(c->report, "reachable"), i, entry)
	{
		bool growing = json_is_true(json_object_get(entry, "growing"));

		if (growing)
			say_title("growing: by %lld bytes in the last %lld checks:",
				  number_in(entry, "grown_bytes"),
				  number_in(entry, "rises") + 1);
		if (!growing && !json_object_get(entry, "chain"))
			continue;
		leakprint_leak(entry, false);
		leakprint_chain(entry);
	}
}

static double ms_in(const struct check *c, const char *key)
{
	return (double)number_in(c->report, key) / 1e6;
}

/* How it was looked, and what the process felt of it. */
static void print_pauses(const struct check *c)
{
	const char *by = text_in(c->report, "stopped_by");
	const char *way = text_in(c->report, "way"),
		   *instead = text_in(c->report, "instead"),
		   *copied = text_in(c->report, "copied");
	long long threads = number_in(c->report, "threads_stopped");

	if (strcmp(way, "standing") == 0) {
		say("no snapshot could be made: the process stood still for %.1f ms, all "
		    "the time",
		    ms_in(c, "confirm_ns"));
		return;
	}
	if (number_in(c->report, "screen_ns"))
		say("screen: %s%s%s%s, pause %.2f ms, %lld new candidate%s", way,
		    *instead ? " (" : "", instead, *instead ? ")" : "",
		    ms_in(c, "screen_ns"), number_in(c->report, "candidates"),
		    number_in(c->report, "candidates") == 1 ? "" : "s");
	if (number_in(c->report, "confirm_ns"))
		say("confirm: %s%s%spause %.2f ms, %lld thread%s stopped by %s%s",
		    *copied ? "of a copy (" : "", copied, *copied ? "), " : "",
		    ms_in(c, "confirm_ns"), threads, threads == 1 ? "" : "s", by,
		    strcmp(by, "signal") == 0
			    ? " (ptrace was refused: waiting calls may have ended early)"
			    : "");
}

static void print_notes(const struct check *c)
{
	long long retracted = number_in(c->report, "retracted_objects");
	long long freed = number_in(c->report, "retracted_freed_objects");
	long long possible = number_in(c->report, "possible_objects");

	if (retracted)
		say("retracted: %lld bytes in %lld objects of the check before: %lld "
		    "freed "
		    "since, %lld reached again",
		    number_in(c->report, "retracted_bytes"), retracted, freed,
		    retracted - freed);
	if (possible && !c->possible)
		say("possibly lost, not counted: %lld bytes in %lld objects",
		    number_in(c->report, "possible_bytes"), possible);
	if (number_in(c->report, "suppressed_objects"))
		say("suppressed: %lld bytes in %lld objects",
		    number_in(c->report, "suppressed_bytes"),
		    number_in(c->report, "suppressed_objects"));
}

static void print_text(const struct check *c)
{
	char *program = agent_program(c->target.pid);

	say_title("%s (process %d), %s: %lld objects, %lld bytes are held", program,
		  c->target.pid, text_in(c->report, "mode"),
		  number_in(c->report, "reachable_objects"),
		  number_in(c->report, "reachable_bytes"));
	free(program);
	print_pauses(c);
	print_list(c, "leaks");
	if (c->possible)
		print_list(c, "possible");
	print_reachable(c);
	print_notes(c);
	if (c->profile && c->out)
		say("look closer: go tool pprof -top %s", c->out);
}

static int judge(const struct check *c)
{
	if (strcmp(text_in(c->report, "verdict"), "incomplete") == 0) {
		say("INCOMPLETE: %s", text_in(c->report, "reason"));
		return EXIT_INCOMPLETE;
	}
	if (c->objects == 0) {
		say("clean");
		return 0;
	}
	say("LEAK objects=%lld bytes=%lld sites=%lld", c->objects, c->bytes, c->sites);
	return c->profile ? 0 : EXIT_LEAK;
}

int command_check(int argc, char **argv)
{
	struct check c = { .command = argv[0],
			   .profile = strcmp(argv[0], "leak") == 0,
			   .max_pause_ms = -1 };
	int fd = open_memory(), status;

	say_verdict_when_incomplete();
	parse(&c, argc, argv);
	agent_expect(&c.target);
	predict(&c);
	ask(&c, fd);
	leave_out_known(&c, fd);
	close(fd);
	if (c.save)
		save(&c, c.save);
	if (c.baseline)
		baseline_apply(c.baseline, c.report);
	add_up(&c, "leaks");
	if (c.possible)
		add_up(&c, "possible");
	if (!c.no_symbolize && (!c.quiet || c.json))
		add_lines(&c);
	if (c.json)
		write_json(&c);
	if (!c.quiet)
		print_text(&c);
	status = judge(&c);
	baseline_free(c.baseline);
	json_decref(c.report);
	return status;
}
