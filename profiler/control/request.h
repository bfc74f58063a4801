/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request: what the tool and the live agent say to each other.
 *
 * The tool queues the agent's signal with a random key as its value, and waits at a
 * sequenced-packet socket that only the key leads to: in the abstract name space
 * "seep-KEY" (sixteen hex digits), or at "/tmp/.seep-KEY" of the process's root. The
 * agent connects; both look at the other's credentials. One request, with the descriptors
 * of regular files beside it where files are to be written; one reply; the end.
 *
 * Format (version 1): the structs below, x86-64 layout. Sizes, magic and version must be
 * right, or the agent hangs up.
 */
#ifndef PROFILER_CONTROL_REQUEST_H
#define PROFILER_CONTROL_REQUEST_H

#include <stdint.h>

#define AGENT_MAGIC   0x746e6567617065ull
#define AGENT_VERSION 1
/* Of the agent while it checks for leaks, and until what that has split is restored. */
#define AGENT_COMM   "seep-agent"
#define AGENT_TRACED 1	/* si_errno of the signal: its delivery is one more stop */
#define AGENT_SIGNAL 57 /* unless the option signal= says otherwise */
#define AGENT_NAME   "seep-%016lx"
#define AGENT_PATH   "/tmp/.seep-%016lx"

enum agent_command {
	AGENT_NOTHING,
	AGENT_HEAP, /* a profile into the descriptor */
	AGENT_ALLOCS,
	AGENT_PEAK,
	AGENT_THREADS,
	AGENT_SHOW,	    /* only the settings, in the reply */
	AGENT_SET,	    /* what is recorded from now on */
	AGENT_LEAK,	    /* a leak check: the report, and a profile if there is room */
	AGENT_THREADCREATE, /* a profile into the descriptor */
	AGENT_LIFETIMES,    /* the same */
	AGENT_COMMANDS
};

#define AGENT_QUICK	1  /* of AGENT_THREADS: do not judge who is blocked for ever */
#define AGENT_STOP	2  /* of AGENT_LEAK: no screen, threads are stopped at once */
#define AGENT_REACHABLE 4  /* of AGENT_LEAK: what is held is reported, too */
#define AGENT_STANDING	8  /* of AGENT_LEAK: where no snapshot can be made, stand still */
#define AGENT_BRIEF	16 /* of AGENT_LEAK: stacks of the largest leaks only */
#define AGENT_SNAPSHOT	32 /* of AGENT_LEAK: the first look is at a snapshot, too */
#define AGENT_UNSTOPPED 64 /* of AGENT_LEAK: no verdict rather than a pause */
#define AGENT_UNCOPIED	128 /* the same rather than a pause for a copy */
#define AGENT_LIMITED	256 /* the same if a copy would take much longer than foretold */
#define AGENT_FLAGS	511
#define AGENT_FILES	2	   /* that may come with a request */
#define AGENT_KEEP	UINT32_MAX /* mode as it is */

struct agent_request {
	uint64_t magic;
	uint32_t version, command;
	uint32_t mode;	 /* AGENT_SET: enum opt_mode, or AGENT_KEEP */
	uint32_t flags;	 /* AGENT_QUICK ... */
	uint64_t sample; /* AGENT_SET: mean bytes between samples; 0: as they are */
};

struct agent_reply {
	uint64_t magic;
	uint32_t version;
	int32_t error;	/* 0 or -errno */
	uint32_t mode;	/* after the request */
	uint32_t count; /* AGENT_THREADS: threads seen; AGENT_LEAK: stopped */
	uint64_t sample;
	uint64_t pause_ns; /* the program stood still for so long */
	char text[160];	   /* why it failed; terminated */
};

#endif
