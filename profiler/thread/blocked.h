/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocked: threads that can never run again, because nobody who could wake them can run,
 * or can find what they wait for.
 *
 * A suspect waits on a private futex without a time limit. Its stack, registers and
 * thread-local storage are left out of the roots; memory is marked from all the rest. A
 * suspect whose futex word lies in reached memory can be woken: its stack becomes a root,
 * marking goes on, and so forth until nothing changes. Who is left is blocked for ever.
 * Stacks and thread-local storage that reached memory points at are reached memory, too.
 * Where it is known whom a suspect waits for (the holder of a pthread mutex, the thread
 * that is joined), it can run if that one can.
 */
#ifndef PROFILER_THREAD_BLOCKED_H
#define PROFILER_THREAD_BLOCKED_H

#include "preload/base/base.h"
#include "profiler/leak/leak_int.h"
#include "profiler/leak/stop.h"

enum blocked_why {
	BLOCKED_NOT,	  /* can run, or cannot be judged */
	BLOCKED_LOST,	  /* nobody who runs can find the word */
	BLOCKED_DEADLOCK, /* part of a cycle of mutexes (and joins) */
	BLOCKED_HOLDER,	  /* the mutex's holder, not in a cycle with it, is blocked */
	BLOCKED_JOIN	  /* joins a thread that is blocked */
};

struct blocked {
	uint8_t why; /* enum blocked_why */
	bool suspect;
	bool freed; /* BLOCKED_LOST: the word's object has been freed */
	int other;  /* tid of the holder or of the thread that is joined; 0: none known */
	uintptr_t word;
};

struct thread_info;
struct inflight;

/* What the caller has found out about each thread of the world. */
struct blocked_stack {
	const struct thread_info *info; /* NULL: libc's registry does not know it */
	const uintptr_t *pcs;
	uint32_t n;
};

/* DUMP. Finds functions of libc; before the world is stopped. */
void blocked_prepare(void);
/* What is looked at. */
struct blocked_world {
	const struct world *w;
	const struct blocked_stack *stacks; /* of w's threads */
	const struct leak_exit *own;	    /* the calling thread's stack */
	const struct inflight *inflight;    /* NULL: none taken */
	/* Of a snapshot process: where it is from, and the mappings that it began with.
	 */
	struct origin origin;
	struct root_range *mappings;
	size_t nmappings;
	int pid;     /* of the program */
	bool memory; /* false: only cycles, without marking */
};
/*
 * STW, or in a snapshot process of the stopped world; heap locks held. One entry of out
 * for each thread of w. False: could not be judged (memory is out).
 */
bool blocked_find(const struct blocked_world *in, struct blocked *out);

#endif
