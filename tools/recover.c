/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover: `seep recover`: profiles from the store of a process that was killed outside
 * `seep run` (which recovers by itself).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/launch.h"
#include "tools/lib/recover.h"
#include "tools/lib/say.h"

static const char usage[] =
	"usage: seep recover [OPTIONS] FILE.store ...\n\n"
	"Writes heap, allocs and peak profiles from what a process that ran with "
	"SEEP_OPTIONS\n"
	"out=PATTERN left when it was killed: PATTERN.store. True up to its last "
	"allocation.\n"
	"With lifetimes=on there is a lifetimes profile, too.\n\n"
	"  -o, --out PATTERN  files' names: %e program, %p process (as the process was "
	"told)\n"
	"  --lib FILE         libseep.so, if it is not beside this command\n"
	"  -h, --help         this text\n\n"
	"Exit status: 0, or 1 when a file could not be read or no profile be written; "
	"25\n"
	"for wrong usage. The stores stay.\n";

enum { OPT_LIB = 256, OPT_NOT_PRELOADED };

static const struct option options[] = {
	{ "out", required_argument, NULL, 'o' },
	{ "lib", required_argument, NULL, OPT_LIB },
	{ "not-preloaded", no_argument, NULL, OPT_NOT_PRELOADED },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

int command_recover(int argc, char **argv)
{
	const char *out = NULL, *asked = NULL;
	char *library;
	int c, status = 0;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+o:h", options, NULL)) != -1) {
		switch (c) {
		case 'o':
			out = optarg;
			break;
		case OPT_LIB:
			asked = optarg;
			break;
		case OPT_NOT_PRELOADED: /* the reader, if the loader dropped the library
					 */
			return 1;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			die_option(argv[optind - 1], "recover");
		}
	}
	if (!argv[optind])
		die(EXIT_USAGE, "no file; see seep recover --help");
	library = launch_find_library(asked);
	for (; argv[optind]; optind++) {
		if (access(argv[optind], R_OK) == 0) {
			status |= !recover_store(library, argv[optind], out, NULL, false);
			continue;
		}
		say_bad("%s: %s", argv[optind], strerror(errno));
		status = 1;
	}
	free(library);
	return status;
}
