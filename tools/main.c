/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main: the seep command. Each subcommand has a file of its own; shared code is in lib/.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/launch.h"
#include "tools/lib/say.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{ "run", command_run, "run a program and profile what it does with memory" },
	{ "gate", command_gate, "run a command and fail when anything in it leaks" },
	{ "check", command_check, "say whether a running process has lost memory" },
	{ "escape", command_escape, "say which objects need not be on the heap" },
	{ "recover", command_recover, "profiles of a process that was killed" },
	{ "heap", command_heap, "what a running process holds" },
	{ "allocs", command_heap, "what a running process ever allocated" },
	{ "peak", command_heap, "what a running process held at its peak" },
	{ "lifetimes", command_heap, "how long objects of a running process live" },
	{ "leak", command_check, "what a running process has lost" },
	{ "threads", command_threads, "what the threads of a running process do" },
	{ "set", command_set, "change what a running process records" },
	{ "symbolize", command_symbolize, "add lines and inlined frames to profiles" },
	{ "diff", command_diff, "what grew between two profiles" },
	{ "report", command_report, "leaks and profiles as text, HTML, SARIF, JUnit" },
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

static void help(void)
{
	puts("usage: seep COMMAND [OPTIONS] [--] PROGRAM [ARGUMENTS]\n"
	     "       seep COMMAND [OPTIONS] PID\n\n"
	     "Profiles memory of unmodified programs: a preloaded malloc that finds "
	     "leaks\n"
	     "and writes profiles for go tool pprof.\n\nCommands:");
	for (size_t i = 0; i < NCOMMANDS; i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].summary);
	puts("\nOptions:\n  --help     this text; after a command, that command's\n"
	     "  --version  the version\n\nExit status: the program's own; gate: 23 "
	     "leaks, "
	     "24 could not be checked; 25 usage.");
}

/* What was to be read and could not be written is no success. */
static void check_output(int status, void *arg)
{
	(void)arg;
	if ((fflush(stdout) == 0 && !ferror(stdout)) || status != 0)
		return;
	say_bad("standard output: %s", strerror(errno));
	_exit(EXIT_INCOMPLETE);
}

/* A file of ours under the number of a closed one would get what is meant for that. What
 * is done with these fails as before, and programs that are started do not see them. */
static void take_closed_numbers(void)
{
	static const int modes[] = { O_WRONLY, O_RDONLY, O_RDONLY };

	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", modes[fd] | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	take_closed_numbers();
	launch_see_children();
	on_exit(check_output, NULL);
	if (strcmp(name, "help") == 0 && argc == 3) {
		static char option[] = "--help";

		name = argv[1] = argv[2]; /* of a command: its own */
		argv[2] = option;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
	    strcmp(name, "help") == 0) {
		help();
		return 0;
	}
	if (strcmp(name, "--version") == 0) {
		puts("seep " SEEP_VERSION);
		return 0;
	}
	for (size_t i = 0; i < NCOMMANDS; i++)
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	if (*name == '\0')
		die(EXIT_USAGE, "no command; try: seep run -- PROGRAM, or seep --help");
	die(EXIT_USAGE, "unknown command \"%s\"; see seep --help", name);
}
