/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbolize: `seep symbolize`: file, line and inlined frames for profiles and reports,
 * from debug information found by build-id.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/lib/dwarf.h"
#include "tools/lib/say.h"
#include "tools/lib/symbolizer.h"

#define MAX_DIRECTORIES 32

static const char usage[] =
	"usage: seep symbolize [OPTIONS] FILE...\n\n"
	"Adds file, line, inlined frames and readable names to profiles (.pb.gz) and "
	"leak\n"
	"reports (.report.json), so that they tell all without the programs. Each FILE "
	"is\n"
	"replaced, unless -o names another one.\n\n"
	"  -o, --out FILE         write here; then there is one input\n"
	"  -d, --debug-dir DIR    look for programs and debug information here too "
	"(again for\n"
	"                         more): DIR/NAME, DIR/BUILD-ID/NAME, DIR/.build-id\n"
	"  --demangle STYLE       names of C++: none, simple (default; as pprof shows "
	"them),\n"
	"                         templates, full\n"
	"  -q, --quiet            no summary\n"
	"  -h, --help             this text\n\n"
	"A program is used when its build-id is the profile's. Debug information comes "
	"from the\n"
	"program, .gnu_debuglink, /usr/lib/debug, and from debuginfod when "
	"DEBUGINFOD_URLS is set.\n\n"
	"Exit status: 0; 24 when a file cannot be read or written; 25 wrong usage.\n";

enum { OPT_DEMANGLE = 256 };

static const struct option options[] = {
	{ "out", required_argument, NULL, 'o' },
	{ "debug-dir", required_argument, NULL, 'd' },
	{ "demangle", required_argument, NULL, OPT_DEMANGLE },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct symbolize {
	const char *out;
	const char *directories[MAX_DIRECTORIES + 1];
	int ndirectories;
	enum names_style style;
	bool quiet;
	char **files;
};

static void parse_one(struct symbolize *s, int c)
{
	switch (c) {
	case 'o':
		s->out = optarg;
		break;
	case 'd':
		if (s->ndirectories == MAX_DIRECTORIES)
			die(EXIT_USAGE, "--debug-dir: more than %d", MAX_DIRECTORIES);
		s->directories[s->ndirectories++] = optarg;
		break;
	case OPT_DEMANGLE:
		if (!names_style_of(optarg, &s->style))
			die(EXIT_USAGE,
			    "--demangle %s: not none, simple, templates or full", optarg);
		break;
	case 'q':
		s->quiet = true;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		die(EXIT_USAGE, "see seep symbolize --help");
	}
}

static void parse(struct symbolize *s, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "o:d:qh", options, NULL)) != -1) {
		if (c == '?')
			die_option(argv[optind - 1], "symbolize");
		parse_one(s, c);
	}
	s->files = argv + optind;
	if (!argv[optind])
		die(EXIT_USAGE, "no file; see seep symbolize --help");
	if (s->out && argv[optind + 1])
		die(EXIT_USAGE, "-o takes the result of one file, not of %d",
		    argc - optind);
}

int command_symbolize(int argc, char **argv)
{
	struct symbolize s = { .style = NAMES_SIMPLE };
	struct symbolizer *worker;
	int status = 0;

	parse(&s, argc, argv);
	if (!dwarf_available())
		die(EXIT_INCOMPLETE, "this seep was built without libdw: install "
				     "libdw-dev and build it again");
	worker = symbolizer_new(s.directories, s.style);
	for (char **file = s.files; *file; file++) {
		const char *out = s.out ? s.out : *file;
		struct symbolizer_counts n;
		char *why;

		if (!symbolizer_file(worker, *file, out, &n, &why)) {
			say_bad("%s: %s", *file, why);
			free(why);
			status = EXIT_INCOMPLETE;
		} else if (!s.quiet) {
			say("%s: %zu places in code, %zu with a name, %zu with a line",
			    out, n.places, n.named, n.lined);
		}
	}
	symbolizer_free(worker);
	return status;
}
