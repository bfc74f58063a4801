/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leak_int: what the check at the end (leak.c) and the check of a running program
 * (live.c) share.
 */
#ifndef PROFILER_LEAK_LEAK_INT_H
#define PROFILER_LEAK_LEAK_INT_H

#include "profiler/leak/handed.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/mark.h"
#include "profiler/leak/roots.h"
#include "profiler/leak/stop.h"

/* A snapshot's way to the memory it was copied from: descriptors of the program's list of
 * mappings and of its memory; -1: none. */
struct origin {
	int maps, memory;
	bool supplied; /* pages may be, by userfaultfd */
	int smaps;
};

struct cycle {
	struct world world;
	struct roots roots;
	struct marker marker;
	struct handed *handed;
	int agent; /* the thread that asks, with descriptors of its own; 0: none */
	struct leak_result *out;
	uintptr_t own_sp; /* from here up the calling thread's stack counts */
	struct leak_exit exit;
	const struct leak_interrupted *interrupted; /* NULL: by no signal */
	bool alone;				    /* no other threads mark */
	bool at_once;	 /* in a snapshot: no look beside the program came before */
	bool prepared;	 /* there is something to free */
	bool keeps_lost; /* the lost canary stays white at the end of a marking */
	const struct origin *origin; /* in a snapshot; else NULL */
};

/* The lock of all checks, and what they remember of each other. */
void leak_enter(void);
void leak_leave(void);
/* roots_stacks.c: before the first check, by who may call the loader. */
void exit_frames_init(void);
/* Memory and canaries for a cycle, whose out is set; false: out of memory, and *out says
 * so. cycle_free() in any case. */
bool cycle_prepare(struct cycle *c);
void cycle_free(struct cycle *c);
/* STW, or in a snapshot. Finds what is white: the marker and the roots are filled in. */
bool cycle_mark(struct cycle *c);
/* The same beside a running program, by a process that may die of it (look.h), with
 * memory that is mapped. False: roots_unfit() says why, or there was too little memory,
 * or the canaries were not found. */
bool cycle_look(struct cycle *c);
/* What was reached is searched again, with what is new: what has changed its place
 * meanwhile is found in the end. False: as above. */
bool cycle_look_again(struct cycle *c);
/* The parts of it. New mappings and objects are found, not marked; false as above. */
bool cycle_find_again(struct cycle *c);
void cycle_mark_roots(struct cycle *c);
/* DUMP. What the kernel keeps at this moment is among the roots from now on. */
void cycle_ask_kernel(struct cycle *c);
void cycle_mark_handed(struct cycle *c);
/* After the sweep: was all of that seen? */
void cycle_doubt_handed(struct cycle *c);
/* STW. What the threads of c->world have in registers. */
void cycle_mark_threads(struct cycle *c);
/* With c->keeps_lost: the lost canary's address is put where a root is, or taken away.
 * Has it been reached? */
void cycle_show_lost(bool shown);
bool cycle_has_found_lost(const struct cycle *c);
/* After cycle_mark(): the records. */
void cycle_sweep(struct cycle *c);
/* Applies the suppressions, adds up what is left, and gives the verdict. */
void leak_judge(struct leak_result *out);
void leak_incomplete(struct leak_result *out, const char *reason);

#endif
