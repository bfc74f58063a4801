/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop: all other threads of the process stand still between world_stop() and
 * world_resume(), with their registers known.
 *
 * Locks: the caller holds heap_lock_all() and the loader's lock (by working inside a
 * dl_iterate_phdr callback), so that no stopped thread holds one of them.
 */
#ifndef PROFILER_LEAK_STOP_H
#define PROFILER_LEAK_STOP_H

#include "preload/base/base.h"
#include "profiler/stack/unwind.h"

struct stopped_thread {
	int tid;
	struct unwind_regs regs;
	uintptr_t gprs[16]; /* every general register, for the root scan */
	uintptr_t fs_base;
	uint64_t xmm[32]; /* 16 vector registers, low 128 bits */
	/* What may be pointers in the rest of them and in 16 more; of a thread that runs.
	 */
	uintptr_t *wide;
	uint32_t nwide;
	int call;	   /* system call it waits in, -1: none, it runs */
	uintptr_t args[6]; /* of the call */
	int partly;	   /* stop_trace.c: the call that has moved a part, -1: none */
	bool captured;	   /* false: could not be stopped; registers unknown */
	uint32_t pending;  /* stop_trace.c: the signal that it gets when it is let go */
	bool signalled;	   /* a signal that may carry a pointer is on its way to it */
};

struct world {
	struct stopped_thread *threads; /* without the caller's */
	uint32_t nthreads;
	uintptr_t *wide;  /* of all of them */
	uint32_t nwide;	  /* in use; atomic */
	uint32_t nmissed; /* threads that could not be stopped */
	bool overflow;	  /* more than STOP_MAX_THREADS; counts as one more missed */
	bool late;	  /* a thread may have run between world_interrupt()'s end and
			   * world_await()'s, see there */
	bool for_copy;
	bool hasty; /* set by the caller: threads that no signal reaches (state D) are not
		     * waited for */
	const char *how;  /* "ptrace", "signal", "alone" */
	char reason[128]; /* why nmissed is not 0, or why nothing could be stopped */
};

#define STOP_MAX_THREADS 16384
#define STOP_WIDE_WORDS	 65536 /* of 292 threads with all of their registers full */

/* DUMP. Memory for a stop, before any lock but LEAK is held; waits until no other thread
 * is between world_prepare() and world_free(). 0 or -ENOMEM (nothing to free then). */
int world_prepare(struct world *out);
/* Likewise; w->threads is seen by copies of the process, too, and world_interrupt() need
 * not wait. Before w is read there, what world_await() has written must be copied. */
int world_prepare_for_copy(struct world *out);
void world_free(struct world *w);
/* DUMP. Lists the threads in w->threads without stopping any: tids only. How many. A
 * world_stop() at once afterwards begins with these, and saves the time. */
uint32_t world_list(struct world *w);
/* DUMP. Waits, for two seconds at most, until no listed thread is in such a state. */
void world_await_reachable(const struct world *w);
/*
 * DUMP. 0, or -errno when no thread at all could be stopped and there are others; nothing
 * is then stopped. Bounded: a thread that does not stop within two seconds is counted in
 * nmissed. Takes no lock and maps no memory, so the caller may hold META. On success the
 * calling thread takes no signals until world_resume().
 */
int world_stop(struct world *w);
/*
 * DUMP. world_stop() in two steps, so that a copy of the process (clone without CLONE_VM,
 * by the caller) can be made while the threads are still on their way to the stop. Unless
 * w->late is set then, the copy's memory is that of the stop, and goes with the
 * registers; else it is of no use, and another one has to be made after world_await().
 * Why that is so: stop_trace.c. Errors as of world_stop(); after one of world_interrupt()
 * nothing is to be awaited.
 */
int world_interrupt(struct world *w);
int world_await(struct world *w);
/* INIT. Any function of the C library. */
void stopped_set_libc(uintptr_t function);
/* Does it wait in a system call made by the C library? Then nothing of the program's is
 * below its stack pointer, or in a register that a function may change: what stands there
 * is old. */
bool stopped_waits_in_libc(const struct stopped_thread *t);
/* What the thread has in its registers; nothing if they are not known. */
void stopped_each_word(const struct stopped_thread *t,
		       void (*fn)(uintptr_t word, void *arg), void *arg);
/* DUMP. Adds to nmissed when the threads did not stand still all the time. */
void world_resume(struct world *w);
/*
 * DUMP. Between world_prepare() and world_free(), around a short stop: the calling thread
 * comes before all others of the machine where that is allowed (to root), and so do
 * processes that it makes meanwhile, until they call world_hurry_no_more() themselves.
 * The threads that are stopped and let go would run first otherwise.
 */
void world_hurry(void);
/* After world_hurry(): processes made from now on do not come before others. */
void world_hurry_alone(void);
void world_hurry_no_more(void);
/*
 * SIGNAL. Around an exec by a thread of this process, not of a child that shares its
 * memory: it does not begin while threads are stopped by a signal, which would end the
 * new program.
 */
void world_exec_begin(void);
void world_exec_failed(void);
/* In a forked child: a stop by another thread of the parent is none here. */
void world_fork_child(void);

#endif
