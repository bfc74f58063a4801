/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot: all threads of the process at one moment: stacks, what they wait in, who made
 * them, and which of them are blocked for ever; and the threads that have ended and that
 * nobody has joined.
 *
 *   list, clocks -> stop -> walk stacks, clone -> resume -> names, verdicts
 *
 * While the world stands still only program counters are copied. Whether threads are
 * blocked for ever is found out by a process cloned at that moment, which has the memory
 * as it was, while the program runs on.
 */
#ifndef PROFILER_THREAD_SNAPSHOT_H
#define PROFILER_THREAD_SNAPSHOT_H

#include "preload/base/base.h"
#include "profiler/thread/blocked.h"
#include "profiler/thread/state.h"

struct unwind_regs;

struct thread_record {
	int tid;
	char name[STATE_NAME_MAX];
	int call;	      /* see state_of_call() */
	uint64_t wait_ns;     /* since it ran last; 0: not known, or it runs */
	const uintptr_t *pcs; /* leaf first */
	uint32_t nframes;
	uint32_t hash;	       /* of the pcs */
	bool precise;	       /* pcs[0] is exact */
	uint32_t creator_site; /* 0: not known */
	struct blocked blocked;
};

struct ended_thread {
	int tid;
	uint32_t creator_site;
	size_t stack_bytes; /* still mapped */
};

struct thread_snapshot {
	struct thread_record *threads;
	uint32_t nthreads;
	uint32_t nmissed; /* could not be stopped: they are not listed */
	struct ended_thread *ended;
	uint32_t nended;
	uint64_t pause_ns;
	bool judged;	  /* blocked is known of every thread */
	bool only_cycles; /* of deadlocks, that is */
};

enum thread_judge {
	THREAD_JUDGE_CYCLES, /* only deadlocks, which is cheap */
	THREAD_JUDGE_MEMORY  /* also who waits for what nobody can find */
};

/* DUMP. own: with the calling thread, which was interrupted at regs, or NULL: it called
 * us. 0 or -errno with *out NULL. */
int thread_snapshot_take(struct thread_snapshot **out, bool own,
			 const struct unwind_regs *regs, enum thread_judge how);
void thread_snapshot_free(struct thread_snapshot *s);

#endif
