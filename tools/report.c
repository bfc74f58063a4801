/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report: `seep report`: leak reports and profiles as text, JSON, HTML, SARIF or JUnit.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/filebytes.h"
#include "tools/lib/reports.h"
#include "tools/lib/say.h"

static const char usage[] =
	"usage: seep report [OPTIONS] FILE...\n\n"
	"Shows leak reports (.report.json) and profiles (.pb.gz) for people and for "
	"build "
	"servers.\n\n"
	"  --format FORMAT        text (default), json, html (one page, complete in "
	"itself),\n"
	"                         sarif (2.1.0) or junit\n"
	"  --sample-index TYPE    inuse_space, alloc_objects ... (a profile's default)\n"
	"  -n, --top N            so many stacks of each file (text: 50; else all); 0: "
	"all\n"
	"  --source-root DIR      write files below DIR relative to it (the current "
	"directory)\n"
	"  -o, --out FILE         write here, not on standard output\n"
	"  -h, --help             this text\n\n"
	"Lines are there when the files have them: seep run and seep gate see to it, "
	"and\n"
	"seep symbolize. Exit status: 0, whatever the findings; 24 when a file cannot be "
	"read\n"
	"or written; 25 wrong usage.\n";

enum { OPT_FORMAT = 256, OPT_INDEX, OPT_ROOT };

static const struct option options[] = {
	{ "format", required_argument, NULL, OPT_FORMAT },
	{ "sample-index", required_argument, NULL, OPT_INDEX },
	{ "top", required_argument, NULL, 'n' },
	{ "source-root", required_argument, NULL, OPT_ROOT },
	{ "out", required_argument, NULL, 'o' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static const struct format {
	const char *name;
	void (*write)(const struct reports *r, FILE *out);
	long top; /* unless -n says otherwise */
} formats[] = {
	{ "text", report_text, 50 },  { "json", report_json, 0 },
	{ "html", report_html, 0 },   { "sarif", report_sarif, 0 },
	{ "junit", report_junit, 0 },
};

struct report {
	const struct format *format;
	const char *index, *out, *root;
	long top; /* -1: the format's */
	char **files;
};

static const struct format *parse_format(const char *name)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (strcmp(name, formats[i].name) == 0)
			return &formats[i];
	die(EXIT_USAGE, "--format %s: not text, json, html, sarif or junit", name);
}

static void parse_one(struct report *r, int c)
{
	switch (c) {
	case OPT_FORMAT:
		r->format = parse_format(optarg);
		break;
	case OPT_INDEX:
		r->index = optarg;
		break;
	case 'n':
		r->top = parse_number("-n", optarg, 0, LONG_MAX);
		break;
	case OPT_ROOT:
		r->root = optarg;
		break;
	case 'o':
		r->out = optarg;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		die(EXIT_USAGE, "see seep report --help");
	}
}

static void parse(struct report *r, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "n:o:h", options, NULL)) != -1) {
		if (c == '?')
			die_option(argv[optind - 1], "report");
		parse_one(r, c);
	}
	r->files = argv + optind;
	if (!argv[optind])
		die(EXIT_USAGE, "no file; see seep report --help");
}

static char *find_root(const char *asked)
{
	char *root = realpath(asked ? asked : ".", NULL);

	if (!root && asked)
		die(EXIT_USAGE, "--source-root %s: %s", asked, strerror(errno));
	return root ? root : format_string("/");
}

static void write_out(const struct report *r, const struct reports *all)
{
	char *bytes = NULL;
	size_t size = 0;
	FILE *memory = open_memstream(&bytes, &size);
	bool ok;

	if (!memory)
		die(EXIT_INCOMPLETE, "out of memory");
	r->format->write(all, memory);
	if (fclose(memory) != 0)
		die(EXIT_INCOMPLETE, "out of memory");
	if (r->out)
		ok = file_bytes_write(bytes, size, r->out);
	else
		ok = fwrite(bytes, 1, size, stdout) == size && fflush(stdout) == 0;
	if (!ok)
		die(EXIT_INCOMPLETE, "cannot write %s: %s",
		    r->out ? r->out : "the report", strerror(errno));
	free(bytes);
}

/* The list of a run's files, which a shell's *.json brings along. */
static bool is_list(const char *path)
{
	const char *slash = strrchr(path, '/');

	return strcmp(slash ? slash + 1 : path, "run.json") == 0;
}

int command_report(int argc, char **argv)
{
	struct report r = { .format = &formats[0], .top = -1 };
	struct reports all = { 0 };
	int status = 0;
	char *root;

	parse(&r, argc, argv);
	root = find_root(r.root);
	all.source_root = root;
	all.top = r.top >= 0 ? r.top : r.format->top;
	all.list = allocate((size_t)argc * sizeof(struct findings *));
	for (char **file = r.files; *file; file++) {
		char *why = NULL;
		struct findings *f;

		if (is_list(*file) && (r.files[1] || file > r.files))
			continue;
		f = findings_read(*file, r.index, &why);
		if (f) {
			all.list[all.count++] = f;
			continue;
		}
		say_bad("%s: %s", *file, why);
		free(why);
		status = EXIT_INCOMPLETE;
	}
	if (all.count > 0)
		write_out(&r, &all);
	for (size_t i = 0; i < all.count; i++)
		findings_free(all.list[i]);
	free(all.list);
	free(root);
	return status;
}
