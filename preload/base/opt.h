/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt: SEEP_OPTIONS, parsed once and then frozen in a read-only page.
 *
 * Format: key=value:key=value. "\:" and "\\" escape; sizes take K, M, G; the last of
 * equal keys wins; relative paths are resolved against the directory at start. "%%", "%e"
 * and
 * "%p" in out= are expanded later, by whoever opens the file. An unknown key or a bad
 * value costs one line on stderr and is otherwise ignored.
 */
#ifndef PRELOAD_BASE_OPT_H
#define PRELOAD_BASE_OPT_H

#include "preload/base/base.h"

enum opt_mode { OPT_MODE_OFF, OPT_MODE_SAMPLED, OPT_MODE_EXACT };
enum opt_leak { OPT_LEAK_OFF, OPT_LEAK_EXIT };
enum opt_escape { OPT_ESCAPE_OFF, OPT_ESCAPE_BOUND, OPT_ESCAPE_EXACT };
enum opt_huge { OPT_HUGE_AUTO, OPT_HUGE_ON, OPT_HUGE_OFF };

#define OPT_PATH_MAX	    4096
#define OPT_SIGNAL	    57 /* of the live agent: a real-time one that is seldom used */
#define OPT_EXIT_LEAK	    23 /* a gate found leaks */
#define OPT_EXIT_INCOMPLETE 24 /* a gate could not look */

/* A pointer in disguise, as pointers= names it. */
enum opt_pointer_code {
	OPT_POINTER_MASK,     /* word & value: tags in the highest bits (tagN) */
	OPT_POINTER_RIGHT,    /* word >> value: tags in the lowest bits (shiftN) */
	OPT_POINTER_LEFT,     /* word << value: low zeros left out (leftN) */
	OPT_POINTER_XOR,      /* word ^ value (xorHEX) */
	OPT_POINTER_LOW32,    /* each half is the low half of an address (low32) */
	OPT_POINTER_UNALIGNED /* at any address (unaligned) */
};

#define OPT_POINTERS_MAX 8

struct opt_pointer {
	enum opt_pointer_code code;
	uint64_t value;
};

struct options {
	enum opt_mode mode;
	size_t sample; /* mean bytes between samples */
	uint64_t seed; /* 0: from the kernel */
	enum opt_leak leak;
	enum opt_escape escape;
	bool threads;
	bool thread_leaks; /* threads=leak: also look who is blocked or never joined */
	bool lifetimes;	   /* how long recorded objects live, and who frees them */
	bool label_thread, label_size; /* labels=: what sites are split by */
	bool follow;		       /* profile children of fork and exec */
	unsigned stack;		       /* most frames of one stack */
	int exitcode;	   /* status of a process that leaked, with leak=exit */
	bool has_exitcode; /* it was given */
	bool deepbind;	   /* true: RTLD_DEEPBIND is left alone */
	enum opt_huge hugepage;
	int signal;		/* for the live agent; 0: it cannot be asked */
	char out[OPT_PATH_MAX]; /* pattern, absolute; empty: nothing is written */
	/* Of the leak check's scan. */
	struct opt_pointer pointers[OPT_POINTERS_MAX];
	unsigned npointers;
	bool reachable; /* the leak check lists what is held, and by whom */
	bool possible;	/* the possibly lost count as lost */
	char suppressions[OPT_PATH_MAX]; /* absolute; empty: none */
	char recover[OPT_PATH_MAX]; /* read this store and exit (preload/api/survive.c) */
	char run[OPT_PATH_MAX]; /* the tool's run table (profiler/control/runtable.h) */
};

/* INIT. Parses text (NULL: defaults) into the frozen options. Messages go to stderr. */
void opt_init(const char *text);
/* FAST. The options; defaults before opt_init(). */
const struct options *opt_get(void);
/* For opt_init() and tests: parses into *o, which holds defaults already. Calls
 * complain(key, reason) for every bad pair; cwd resolves relative paths. */
void opt_parse(struct options *o, const char *text, const char *cwd,
	       void (*complain)(const char *pair, const char *reason));
void opt_defaults(struct options *o);
/*
 * Expands %e (program name), %p (pid) and %% of pattern into buf and adds ".PID" when the
 * pattern has no %p. False: it does not fit. SIGNAL.
 */
bool opt_expand(const char *pattern, const char *program, int pid, char *buf,
		size_t size);

#endif
