/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop_int: what stop.c, stop_trace.c and stop_signal.c share.
 */
#ifndef PROFILER_LEAK_STOP_INT_H
#define PROFILER_LEAK_STOP_INT_H

#include <signal.h>

#include "preload/base/meta.h"
#include "profiler/leak/stop.h"

/* Of handlers that run in places where a sanitizer knows of no thread. */
#define STOP_NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

/* Without any thread arriving for so long the rest is missed. */
#define STOP_PATIENCE_NS 2000000000u

/* Adds the threads of pid that w does not know, but caller. How many, or -errno. SIGNAL.
 */
int stop_list_threads(struct world *w, int pid, int caller);
/* How many threads pid has, by one system call; 0: not known. SIGNAL. */
uint32_t stop_count_threads(int pid);
/* SIGNAL. Has the thread ended, all but its entry in /proc (a main thread that called
 * pthread_exit stays there until the process ends), or is about to in the kernel, where a
 * loaded machine may leave it for seconds? */
bool stop_is_dead(int pid, int tid);
/* SIGNAL. Is it in the kernel, where no signal and no tracer gets at it? */
bool stop_is_deaf(int pid, int tid);
/* Has it a tracer, whoever that is? */
bool stop_is_traced(int pid, int tid);

/* As the kernel has it: the C library's sigaction() refuses its own signals, and its
 * thread pointer may be another thread's. */
struct stop_action {
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};
#define STOP_RESTORER 0x04000000ul /* flag: there is one */
void stop_signal_restorer(void) HIDDEN;

/* Room for the words of vector registers; false: out of memory. */
bool stop_vectors_map(struct world *w, void *(*map)(size_t, enum meta_tag));
void stop_vectors_unmap(struct world *w);
/* SIGNAL. Of an XSAVE area of so many bytes. False: there is no room. */
bool stop_take_vectors(struct world *w, struct stopped_thread *t, const void *area,
		       size_t bytes);

/* All return 0, or -errno with nothing stopped. stack: of the tracer, STOP_STACK bytes.
 * interrupt_by_trace() may return before the threads stand still. */
#define STOP_STACK (64 * KIB)
int interrupt_by_trace(struct world *w, int pid, int caller, char *stack);
int await_by_trace(void);
int stop_by_signal(struct world *w, int pid, int caller);
/* False: the tracer was killed, so the threads ran on some time ago. */
bool resume_by_trace(void);
void resume_by_signal(void);
void stop_signal_fork_child(void);

#endif
