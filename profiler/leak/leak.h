/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leak: which live heap objects no pointer reaches any more.
 *
 *   stop -> roots -> mark -> sweep -> report
 *
 * stop.c    stops every other thread and takes its registers: by ptrace from a cloned
 *           child (stop_trace.c), else by signal (stop_signal.c).
 * roots.c   data, bss and RELRO of every module but ours, stacks from the stack pointer,
 *           registers, TLS, thread-specific data, writable anonymous mappings.
 * mark.c    tri-colour: white = unmarked, grey = on the mark stack, black = scanned.
 * hidden.c  in a snapshot: memory that the copy does not have.
 * sweep.c   white live objects: possible (a pointer into their middle is left), direct
 *           (no other lost object points at them, or the lowest of a cycle), indirect
 *           (reachable only from lost objects), by site.
 * live.c    the same for a program that runs on, in it (beside.c) and by snapshots.
 * report.c  text, leak.pb.gz, report.json.  suppress.c  leak:glob lines.
 */
#ifndef PROFILER_LEAK_LEAK_H
#define PROFILER_LEAK_LEAK_H

#include "preload/base/base.h"

enum leak_verdict { LEAK_CLEAN, LEAK_FOUND, LEAK_INCOMPLETE };

enum leak_kind {
	LEAK_INDIRECT,	/* other lost objects point at it */
	LEAK_DIRECT,	/* nothing does: definitely lost, and the head of what is */
	LEAK_POSSIBLE,	/* only pointers into its middle are left, or into that of what
			 * leads to it */
	LEAK_RETRACTED, /* the check before said lost; freed or reached since */
	LEAK_REACHABLE	/* not lost at all: with reachable=on */
};

/* The way from a root to a reachable object, backwards. */
#define LEAK_CHAIN_STEPS 6
struct leak_chain {
	uintptr_t root;	 /* address of a word outside the heap; 1: a register; 0: none */
	uint32_t length; /* objects between the root and this one; the nearest are kept */
	struct leak_step {
		uint32_t site;
		uint64_t offset, bytes; /* of the pointer in the object; of the object */
	} steps[LEAK_CHAIN_STEPS];
};

struct leak_record {
	uint32_t site; /* SITE_NONE: [stack not sampled] */
	enum leak_kind kind;
	bool suppressed;
	bool growing;	      /* reachable: it has more from check to check */
	uint32_t rises;	      /* reachable: checks in a row that found more bytes */
	uint64_t grown_bytes; /* since the first of them */
	uint32_t chain;	      /* reachable: 1 + place in leak_result.chains; 0: none */
	uintptr_t example;    /* reachable: the site's largest object */
	uint64_t largest;     /* its bytes */
	/* os_now_ns() scale: when the first and the last of the objects were made; 0: not
	 * known (not sampled). */
	uint64_t first_ns, last_ns;
	uint64_t objects, bytes;
	uint64_t new_objects; /* of them that the check before did not find */
	uint64_t new_bytes;
	uint64_t freed;	   /* retracted: of the objects; the others are reached again */
	uint64_t retained; /* bytes of the objects that only this record's objects reach,
			      with their own (direct, possible; each counts once, with
			      the one that the search for them began at) */
};

struct leak_result {
	/* Of the caller's choice: records of what is reachable, too; chains for all of
	 * them, not only for what grows. */
	bool with_reachable, with_chains;
	uint32_t max_stacks; /* in report.json, of the first of each list; 0: all */
	enum leak_verdict verdict;
	char reason[160]; /* of LEAK_INCOMPLETE, else empty */
	/* Lost and not suppressed, direct and indirect; with possible=on the possibly
	 * lost, too. */
	uint64_t objects, bytes, sites;
	uint64_t possible_objects, possible_bytes; /* not suppressed */
	uint64_t suppressed_objects, suppressed_bytes;
	uint64_t new_objects; /* of objects: not found by the check before */
	uint64_t retracted_objects, retracted_bytes; /* of the check before */
	uint64_t retracted_freed;    /* of these objects; the others are reached again */
	struct leak_record *records; /* largest bytes first; leak_result_free() */
	uint32_t nrecords;
	struct leak_chain *chains; /* NULL: none */
	uint32_t nchains;
	size_t records_bytes; /* of the mapping that holds them */
	uint64_t reachable_objects, reachable_bytes;
	uint64_t checked_ns;	   /* when; os_now_ns() scale */
	uint64_t stop_ns, mark_ns; /* time the other threads stood; time of the mark */
	uint32_t nthreads;	   /* stopped */
	/* Of the check of a running program, see live.h: how it looked ("concurrent",
	 * "snapshot", "standing"; NULL at the end) and how threads were stopped ("" if
	 * none was); the pauses; what the screen found white that no check had confirmed
	 * before. */
	const char *way, *stopped_by;
	uint64_t screen_ns, confirm_ns, candidates;
	char instead[96];   /* why it did not look beside the program; else empty */
	const char *copied; /* why the confirm is of a copy; NULL: it is not */
};

/* DUMP. A whole check of this process, by its own thread. Never fails: trouble is
 * LEAK_INCOMPLETE with a reason. Objects made by the parent of a fork count as held by
 * the parent. */
void leak_check(struct leak_result *out);
/* The same by our own code that the program has called a while ago: from own_sp up the
 * calling thread's stack is the program's, its registers among it. */
void leak_check_above(struct leak_result *out, uintptr_t own_sp) HIDDEN;
/* The same from a stack of our own, for a thread that a signal has interrupted: its stack
 * begins at sp. Its registers are wherever the kernel saved them. */
#define LEAK_REGISTER_SETS 3
struct leak_interrupted {
	uintptr_t sp;
	struct leak_words {
		const uintptr_t *words;
		size_t count;
	} registers[LEAK_REGISTER_SETS];
};
void leak_check_interrupted(struct leak_result *out, const struct leak_interrupted *at);
void leak_result_free(struct leak_result *r);
/* DUMP. A check by a thread of our own that the program does not know, while all others
 * stand still for as long as it takes. The with_ fields of *out are set. */
void leak_check_standing(struct leak_result *out);
/* In a forked child: another thread of the parent may have been at it. */
void leak_fork_child(void);

/* What exit() or quick_exit() found on the calling thread's stack when it was called. */
struct leak_exit {
	uintptr_t sp; /* from here up the stack is the program's; 0: in neither */
	/* The registers that it must keep, as the function it calls saved them: they are
	 * still the caller's. */
	uintptr_t saved_lo, saved_hi;
};
/* DUMP. */
void leak_find_exit(struct leak_exit *out);

/* INIT. Reads the suppressions file of the options now, while the file is reachable. One
 * line on stderr for what is wrong with it. */
void leak_init(void);

/* DUMP. Text report through log/out to stderr, without and with the verdict line, which
 * is exactly one of "clean", "LEAK objects=N bytes=N sites=N", "INCOMPLETE: reason". */
void leak_print(const struct leak_result *r);
void leak_print_verdict(const struct leak_result *r);
/* DUMP. PREFIX.leak.pb.gz. 0 or -errno. */
int leak_write_profile(const struct leak_result *r, const char *prefix);
/* DUMP. PREFIX.report.json (schema 1, see design). 0 or -errno. */
int leak_write_json(const struct leak_result *r, const char *prefix);
/* DUMP. Both into descriptors. */
int leak_write_profile_fd(const struct leak_result *r, int fd);
int leak_write_json_fd(const struct leak_result *r, int fd);

/* The status of a process that leaked: of the options, or what the program says
 * (annotate.h). */
int leak_exitcode(void);

/* ---- marks for code that loses memory on purpose: lsan_interface.h ---- */
/* The check that was just made is the last one: none is made at the end. */
void leak_set_final(void);
bool leak_is_final(void);
void leak_disable(
	void); /* objects allocated by this thread from now on are not reported */
void leak_enable(void);
void leak_ignore_object(const void *p);
void leak_add_root(const void *p, size_t size);
void leak_remove_root(const void *p, size_t size);

#endif
