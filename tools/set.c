/* SPDX-License-Identifier: Apache-2.0 */
/*
 * set: `seep set PID mode=...,sample=...`: what a live process records from now on.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/lib/agent.h"
#include "tools/lib/say.h"

static const char usage[] =
	"usage: seep set [OPTIONS] PID KEY=VALUE[,KEY=VALUE]\n\n"
	"Changes what a running process records from now on; without KEY=VALUE, shows "
	"it.\n"
	"Objects that are already recorded stay so, with their weights.\n\n"
	"  mode=MODE          off, sampled or exact\n"
	"  sample=BYTES       sampled: one in BYTES on average; K, M, G\n\n"
	"  --signal N         the signal= that the process was started with\n"
	"  --force            ask even where a seccomp filter might kill the process for "
	"it\n"
	"  -h, --help         this text\n\n"
	"After mode=exact, free stays a little slower until the process ends.\n"
	"Exit status: 0; 24 when the process cannot be asked or did not answer, with "
	"the\n"
	"reason; 25 for wrong usage.\n";

static const struct option options[] = {
	AGENT_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static const char *const modes[] = { "off", "sampled", "exact" };
#define NMODES (sizeof(modes) / sizeof(modes[0]))

static uint32_t parse_mode(const char *text)
{
	for (uint32_t i = 0; i < NMODES; i++)
		if (strcmp(text, modes[i]) == 0)
			return i;
	die(EXIT_USAGE, "mode=%s: must be off, sampled or exact", text);
}

static uint64_t parse_size(const char *text)
{
	static const char units[] = "KMG";
	char *end;
	unsigned long long value = strtoull(text, &end, 10);
	const char *unit = *end ? strchr(units, *end & ~0x20) : NULL;
	int shift = unit ? 10 * (int)(unit - units + 1) : 0;

	if (*text < '0' || *text > '9' || value == 0 || end[unit ? 1 : 0] != '\0' ||
	    value > (1ull << 40 >> shift))
		die(EXIT_USAGE, "sample=%s: must be a size such as 512K", text);
	return value << shift;
}

static void parse_pair(struct agent_request *q, const char *pair)
{
	if (strncmp(pair, "mode=", 5) == 0)
		q->mode = parse_mode(pair + 5);
	else if (strncmp(pair, "sample=", 7) == 0)
		q->sample = parse_size(pair + 7);
	else
		die(EXIT_USAGE, "%s: only mode=MODE and sample=BYTES can be set", pair);
}

static void parse_options(struct agent_target *t, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case AGENT_OPTION_SIGNAL:
		case AGENT_OPTION_FORCE:
			agent_option(t, c);
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			die_option(argv[optind - 1], "set");
		}
	}
	if (optind == argc)
		die(EXIT_USAGE, "a process id is needed; see seep set --help");
	t->pid = agent_parse_pid(argv[optind]);
}

int command_set(int argc, char **argv)
{
	struct agent_request q = { .command = AGENT_SET, .mode = AGENT_KEEP };
	struct agent_target t = { 0 };
	struct agent_reply r;
	char bytes[32];

	parse_options(&t, argc, argv);
	for (int i = optind + 1; i < argc; i++) {
		char *rest = NULL;

		for (char *pair = strtok_r(argv[i], ",:", &rest); pair;
		     pair = strtok_r(NULL, ",:", &rest))
			parse_pair(&q, pair);
	}
	if (q.mode == AGENT_KEEP && q.sample == 0)
		q.command = AGENT_SHOW;
	agent_ask(&t, &q, -1, &r);
	say("process %d: mode=%s, sample=%llu (%s)", t.pid,
	    r.mode < NMODES ? modes[r.mode] : "unknown", (unsigned long long)r.sample,
	    say_bytes(r.sample, bytes, sizeof(bytes)));
	return 0;
}
