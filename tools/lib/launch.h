/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch: starts a program with the library preloaded and the run table shared, passes
 * signals on, waits, and leaves the table for whoever reports.
 */
#ifndef TOOLS_LIB_LAUNCH_H
#define TOOLS_LIB_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>

#include "profiler/control/runtable.h"

struct launch {
	/* asked */
	char **argv;	       /* the command, NULL-terminated */
	const char *library;   /* --lib, or NULL: found beside the tool */
	const char *out;       /* pattern */
	const char *out_asked; /* -o, or NULL */
	const char *defaults;  /* options of the subcommand, before the user's */
	char *extra; /* options of the command line, after the user's; or NULL */
	bool is_gate;
	int linger_s;	/* how long to wait for what the command leaves behind */
	bool quiet;	/* no line about that */
	bool tells_all; /* reports are shown, also where nothing is lost */
	/* found */
	struct runtable *table;
	int pid;
	int status;	   /* of wait4() */
	uint64_t max_rss;  /* the most that was resident, of it or one of its children */
	bool asked_to_end; /* by INT or TERM that came through us or the terminal */
	bool hopeless;	   /* the library cannot be in it */
	bool is_static;	   /* hopeless, but what it starts may have the library */
	char *why;	   /* what is wrong with the program, or NULL */
	char *directory, *table_path; /* of the table, until launch_end() */
	bool out_of_memory; /* the kernel killed somebody for memory meanwhile */
};

/* libseep.so: asked, or beside the tool; with a path that LD_PRELOAD can hold. Dies when
 * there is none. */
char *launch_find_library(const char *asked);

/* What the user has put into SEEP_OPTIONS; perhaps empty. Allocated. */
char *launch_user_options(void);
/* Adds "key=value" to the options, escaped. options is allocated or NULL. */
char *launch_add_option(char *options, const char *key, const char *value);
/* The options of every command that starts a program, for getopt_long() with
 * LAUNCH_LETTERS; launch_option() takes what it returns, or is false. */
#define LAUNCH_LETTERS "+o:O:"
#define LAUNCH_LIBRARY 'L' /* has no letter of its own */
#define LAUNCH_OPTIONS                                         \
	{ "out", required_argument, NULL, 'o' },               \
		{ "option", required_argument, NULL, 'O' },    \
	{                                                      \
		"lib", required_argument, NULL, LAUNCH_LIBRARY \
	}
bool launch_option(struct launch *l, int option, const char *value);
/* Sets a key of the options of the command line. */
void launch_set(struct launch *l, const char *key, const char *value);
/* Dies of wrong usage when an option of the command line has a bad value. Sets out to
 * what the user wants. */
void launch_check_options(struct launch *l);
/* Makes the directory of the files; where none can be written dies, or gives up the files
 * of a gate (out is empty then). */
void launch_check_files(struct launch *l);
/* To be called first: who ignores SIGCHLD is told of no child's end. The program that is
 * started inherits what we have inherited. */
void launch_see_children(void);
/* Runs the program to its end. Dies with 126 or 127 when it cannot be started. */
void launch_run(struct launch *l);
/* Removes what only the run needed: the directory of the table. */
void launch_end(struct launch *l);
/* How often INT or TERM came, also after the program's end. */
int launch_asks(void);
/* 0-255: what a shell would report for status. */
int launch_exit_code(int status);
/* The last row of the command itself, NULL: the library was not loaded. */
const struct runtable_row *launch_main_row(const struct launch *l);
unsigned launch_rows(const struct launch *l);
/* Is the process of a row that is CLAIMED alive (a daemon, say)? */
bool launch_is_running(const struct runtable_row *r);

#endif
