/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent: asking a running process, by profiler/control/request.h. Looks first whether it
 * can be asked at all, so that a process that cannot is not touched, and says why.
 */
#ifndef TOOLS_LIB_AGENT_H
#define TOOLS_LIB_AGENT_H

#include <stdbool.h>

#include "profiler/control/request.h"

struct agent_target {
	int pid;
	int signal;	/* 0: found in the process's environment, or the default */
	bool force;	/* also where a seccomp filter might kill it for answering */
	int patience_s; /* for the reply; 0: a minute */
	char busy[128]; /* why it must not do what it says it would have to; or empty */
};

/* The options of every command that asks a process: entries for getopt_long(), and what
 * to do when it returns one of them. */
#define AGENT_OPTION_SIGNAL 's'
#define AGENT_OPTION_FORCE  'f'
#define AGENT_OPTIONS                                               \
	{ "signal", required_argument, NULL, AGENT_OPTION_SIGNAL }, \
	{                                                           \
		"force", no_argument, NULL, AGENT_OPTION_FORCE      \
	}
void agent_option(struct agent_target *t, int option);

/* Dies with 24 unless the process is there and has the library. */
void agent_expect(const struct agent_target *t);
/* Sends *q, which needs its command only, with the descriptor fd (-1: none), and waits
 * for the reply. Dies with 24 when there is none or it is a refusal. */
void agent_ask(const struct agent_target *t, struct agent_request *q, int fd,
	       struct agent_reply *r);
/* The same with up to AGENT_FILES descriptors. */
void agent_ask_files(const struct agent_target *t, struct agent_request *q,
		     const int *fds, int nfds, struct agent_reply *r);
/* "NAME" of the process's program, allocated. */
char *agent_program(int pid);
/* A process id, or dies of wrong usage. */
int agent_parse_pid(const char *text);

#endif
