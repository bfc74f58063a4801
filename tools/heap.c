/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap: `seep heap PID`, and allocs, peak, lifetimes: a profile of a live process.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/lib/agent.h"
#include "tools/lib/output.h"
#include "tools/lib/profile.h"
#include "tools/lib/resident.h"
#include "tools/lib/say.h"

#define TOP_SITES 10

static const char usage[] =
	"usage: seep heap|allocs|peak|lifetimes [OPTIONS] PID\n\n"
	"Writes a profile of a running process that has libseep.so loaded: heap, what "
	"it\n"
	"holds now; allocs, all that it ever allocated; peak, what it held when that "
	"was\n"
	"most; lifetimes, how long objects lived and how old those are that live (needs\n"
	"lifetimes=on from the start). The process runs on meanwhile.\n\n"
	"  -o, --out FILE     the file (seep.out/PROGRAM.PID.KIND.pb.gz); - for standard "
	"output\n"
	"  --signal N         the signal= that the process was started with\n"
	"  --force            ask even where a seccomp filter might kill the process for "
	"it\n"
	"  -q, --quiet        no summary\n"
	"  -h, --help         this text\n\n"
	"Exit status: 0; 24 when the process cannot be asked or did not answer, with "
	"the\n"
	"reason; 25 for wrong usage.\n";

static const struct option options[] = {
	{ "out", required_argument, NULL, 'o' },
	AGENT_OPTIONS,
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct kind {
	const char *name;
	uint32_t command;
	const char *objects, *space,
		*title; /* of the summary; NULL: seep report has it */
};

static const struct kind kinds[] = {
	{ "heap", AGENT_HEAP, "inuse_objects", "inuse_space", "memory held now" },
	{ "allocs", AGENT_ALLOCS, "alloc_objects", "alloc_space", "memory allocated" },
	{ "peak", AGENT_PEAK, "peak_objects", "peak_space", "memory held at the peak" },
	{ "lifetimes", AGENT_LIFETIMES, NULL, NULL, NULL },
};

struct heap {
	const struct kind *kind;
	struct agent_target target;
	const char *out;
	bool quiet;
};

static void parse(struct heap *h, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "o:qh", options, NULL)) != -1) {
		switch (c) {
		case 'o':
			h->out = optarg;
			break;
		case AGENT_OPTION_SIGNAL:
		case AGENT_OPTION_FORCE:
			agent_option(&h->target, c);
			break;
		case 'q':
			h->quiet = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			die_option(argv[optind - 1], h->kind->name);
		}
	}
	if (optind + 1 != argc)
		die(EXIT_USAGE, "one process id is needed; see seep %s --help",
		    h->kind->name);
	h->target.pid = agent_parse_pid(argv[optind]);
}

static void print_mode(const struct heap *h, const struct agent_reply *r)
{
	static const char *const modes[] = { "off", "sampled", "exact" };
	char *program = agent_program(h->target.pid);
	char bytes[32];

	if (r->mode == 1)
		say_title("%s (process %d), sampled: one in %s on average", program,
			  h->target.pid, say_bytes(r->sample, bytes, sizeof(bytes)));
	else
		say_title("%s (process %d), mode %s", program, h->target.pid,
			  r->mode < 3 ? modes[r->mode] : "unknown");
	free(program);
}

static void print_sites(const struct heap *h, const char *path)
{
	struct profile_site sites[TOP_SITES];
	char bytes[32];
	int n = profile_top(path, h->kind->objects, h->kind->space, sites, TOP_SITES);

	if (n < 0)
		die(EXIT_INCOMPLETE, "%s: not readable", path);
	say_title(n ? "top sites by %s:" : "no site recorded yet (%s)", h->kind->title);
	for (int i = 0; i < n; i++)
		say("  %10s%s in %9lld  %s",
		    say_bytes((uint64_t)sites[i].bytes, bytes, 32), sites[i].error,
		    (long long)sites[i].objects, sites[i].stack);
	profile_free(sites, n);
	say("look closer: go tool pprof -top %s", path);
}

int command_heap(int argc, char **argv)
{
	struct heap h = { .kind = &kinds[0] };
	struct agent_request q = { 0 };
	struct agent_reply r;
	struct output o;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(argv[0], kinds[i].name) == 0)
			h.kind = &kinds[i];
	parse(&h, argc, argv);
	output_open(&o, h.out, h.target.pid, h.kind->name);
	q.command = h.kind->command;
	agent_ask(&h.target, &q, o.fd, &r);
	output_finish(&o);
	if (!h.quiet) {
		print_mode(&h, &r);
		if (o.path) {
			resident_print_file(o.path, "now");
			if (h.kind->title)
				print_sites(&h, o.path);
			else
				say("look closer: seep report %s", o.path);
		}
	}
	return 0;
}
