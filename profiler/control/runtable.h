/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtable: the file mapping that `seep run` and `seep gate` share with every process of
 * the tree. The tool creates it and names it in the option run=; each process claims a
 * row and leaves its verdict there, where closed descriptors, chroot and dropped
 * privileges cannot take it away.
 *
 * Format (version 6): struct runtable, little endian, x86-64 layout; a row belongs to the
 * process that moved its state from FREE to CLAIMED. Everything is written by the library
 * and read by the tool, but for header fields, which the tool writes before it starts the
 * program. The file is as long as its rows that were needed so far: who takes the first
 * row behind them makes it longer.
 */
#ifndef PROFILER_CONTROL_RUNTABLE_H
#define PROFILER_CONTROL_RUNTABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RUNTABLE_MAGIC	 0x31307065657367ull
#define RUNTABLE_VERSION 6
#define RUNTABLE_ROWS	 16384 /* processes of a run */
#define RUNTABLE_STEP	 64    /* rows that the file grows by */
#define RUNROW_RSS_PARTS 6

enum runtable_state {
	RUNROW_FREE,
	RUNROW_CLAIMED, /* process started; nothing decided (killed, _exit, still running)
			 */
	RUNROW_DONE,	/* verdict is valid */
	RUNROW_EXECED,	/* the process replaced itself by another program */
	/* Written by the process that starts another by vfork or posix_spawn, which has
	 * nothing of its own before its program begins: pid and exe only. The program
	 * takes the row over; one without the library leaves it. */
	RUNROW_SPAWNED,
};

/* How a process ended that got as far as its report. */
enum runtable_end { RUNROW_RUNS, RUNROW_EXITED, RUNROW_EXEC, RUNROW_SIGNALLED };

enum runtable_verdict { RUNROW_NO_CHECK, RUNROW_CLEAN, RUNROW_LEAK, RUNROW_INCOMPLETE };

struct runtable_row {
	uint32_t
		state; /* enum runtable_state; atomic, release when the rest is written */
	int32_t pid, ppid;
	uint32_t verdict;   /* enum runtable_verdict */
	uint32_t served;    /* the program's calls of malloc reach ours */
	uint32_t forked;    /* made by fork, not by exec */
	uint32_t end;	    /* enum runtable_end */
	int32_t signal;	    /* that ended it, 0: none or unknown */
	uint32_t stored;    /* its profile store is TABLE.ROW (profiler/site/store.h) */
	uint32_t recovered; /* figures and files were made from the store */
	uint32_t lost;	    /* parts of the profile that had no room in the store */
	uint32_t kept;	    /* its files are TABLE.ROW.*: PREFIX.* could not be written */
	uint64_t objects, bytes, sites; /* leaks */
	uint64_t alloc_objects, alloc_bytes, live_objects, live_bytes, peak_bytes;
	uint64_t dropped, truncated, samples;
	/* Resident at the end, and its parts: live, slack, free in the allocator,
	 * metadata, profiler, outside the heap (profiler/sample/rss.h). 0: not known. */
	uint64_t rss, rss_parts[RUNROW_RSS_PARTS];
	uint64_t ended_ns; /* CLOCK_MONOTONIC, when the tool saw its end; 0: it did not */
	uint32_t threads_blocked, threads_ended; /* for ever; and never joined */
	char exe[256];				 /* path of the program */
	char prefix[512];			 /* of the files it wrote; empty: none */
	char reason[160]; /* of an incomplete verdict or of files not written */
};

struct runtable {
	uint64_t magic;
	uint32_t version, nrows;
	uint32_t
		claimed; /* rows handed out; atomic; may exceed nrows (then: lost rows) */
	uint32_t is_gate; /* the library leaves reports and statuses to the tool */
	uint32_t room;	  /* rows that the file has room for; atomic, only rises */
	uint32_t lost;	  /* processes that got no row; atomic */
	int32_t forking;  /* forks whose child has no row yet; atomic */
	uint32_t unused;
	uint64_t reserved[3];
	int32_t pids[RUNTABLE_ROWS]; /* rows[].pid, to be found quickly; atomic */
	struct runtable_row rows[RUNTABLE_ROWS];
};

/* ---- the library's side ---- */
/* INIT. Maps the table of the option run= and claims a row. Without one all calls below
 * do nothing. */
void runtable_attach(void);
void runtable_fork_prepare(void);
void runtable_fork_child(void);		 /* claims a row of its own */
struct runtable_row *runtable_row(void); /* NULL: no table */
int runtable_is_gate(void);
/* SIGNAL. Process pid (0: the caller) is about to become the program, or just has. A row
 * to give back if it does not, or NULL. */
struct runtable_row *runtable_note_spawn(int pid, const char *program);
void runtable_forget_spawn(struct runtable_row *row);
/* There is a table, but this process cannot get at it, as in a sandbox or after chroot:
 * it reports by itself, and its status stays its own. */
int runtable_is_out_of_reach(void);
uint32_t runtable_row_index(void); /* 0 without a table */
/* Of files that cannot be written where they belong, because the process has dropped its
 * privileges, say: the tool, which made the directory of the table, brings them there.
 * False: there is no table. */
bool runtable_kept_prefix(char *buf, size_t size);
/* DUMP. Maps the table of the option run= and returns another process's row; NULL: there
 * is no table, or the row is not of that process. */
struct runtable_row *runtable_adopt(uint32_t index, int pid);

#endif
