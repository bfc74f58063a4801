/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread: registry of the threads that pthread_create made since Seep was loaded, with
 * the bounds of their stacks. Threads made otherwise (raw clone) are unknown here;
 * whoever stops the world finds them in /proc/self/task all the same.
 */
#ifndef PROFILER_STACK_THREAD_H
#define PROFILER_STACK_THREAD_H

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "preload/heap/tls.h"

enum thread_state {
	THREAD_RUNNING,
	THREAD_ANNOUNCED, /* joined or detached before it has registered itself */
	THREAD_FINISHED,  /* its stack may still be mapped: glibc caches stacks */
};

/* Of libc's thread descriptor, up to the end of what it points to the heap with: the
 * smallest among the versions from 2.31 on. */
#define THREAD_DESCRIPTOR_BYTES 2304

struct creator;
struct share;

/* What a thread waited in when it was last made to stand still. */
struct thread_wait {
	uint64_t since_ns; /* the scheduler's clock; 0: it did not wait */
	uint64_t switches; /* its voluntary ones before */
	uintptr_t sp;
	int call;
	uint32_t excused; /* switches since then that are our doing */
};

struct thread_info {
	struct thread_info *next;     /* guarded by the registry's lock */
	int tid;		      /* kernel's id */
	uintptr_t self;		      /* pthread_self(), also the fs base */
	uintptr_t stack_lo, stack_hi; /* the whole stack without its guard; 0: unknown */
	uintptr_t frames_hi;	 /* its start routine's frame ends here; 0: unknown */
	struct creator *creator; /* while it runs; NULL: the main thread's */
	uint32_t creator_site;	 /* site of the pthread_create call, 0: not captured */
	uint8_t state;		 /* enum thread_state */
	bool own_stack;		 /* the program's memory, not libc's */
	bool released;		 /* detached or joined: libc frees it at its end */
	bool detached;		 /* nobody will take its result */
	uint64_t started_ns;
	uintptr_t
		signal_stack; /* of sigaltstack(), which only the kernel knows; atomic */
	/* Of profiler/site/label.c, the thread's own: its name when last asked for. */
	char name[16];
	uint32_t name_uses;
	struct share *share; /* of profiler/site/share.c, the thread's own; NULL: none */
	struct thread_wait wait; /* profiler/thread's, in a stopped world; its excused
				    also the thread's own, in a signal handler */
};

/* INIT. Registers the main thread. */
void thread_init(void);
/* SLOW. Called by a new thread before its start routine, and at its end. */
struct thread_info *thread_register(uint32_t creator_site, bool detached);
/* Has the C library taken the finished thread's descriptor back, so that nobody can ask
 * for its result? It must be readable.
 */
bool thread_is_given_back(const struct thread_info *t);
/* FAST, SIGNAL. The calling thread has an alternate signal stack; 0: none. */
void thread_set_signal_stack(uintptr_t lo);
/* SLOW. The thread with this pthread_self() is joined or detached, or after all not. */
void thread_set_released(uintptr_t self, bool released);
/* SLOW. It is detached: released, and never joined. */
void thread_set_detached(uintptr_t self);
void thread_finished(void);
/* FAST, SIGNAL. Bounds of the stack of the calling thread that sp lies on: the thread's
 * own stack, else false (coroutine, alternate signal stack). */
static inline bool thread_stack_bounds(uintptr_t sp, uintptr_t *out_lo, uintptr_t *out_hi)
{
	const struct thread_info *t = seep_tls.thread;

	if (!t || sp < t->stack_lo || sp >= t->stack_hi)
		return false;
	*out_lo = t->stack_lo;
	*out_hi = t->stack_hi;
	return true;
}
/* FAST, SIGNAL. The calling thread was interrupted by us and will wait again. */
static inline void thread_excuse_wait(void)
{
	struct thread_info *t = seep_tls.thread;

	if (t)
		t->wait.excused++;
}
/* With the registry's lock held by the caller through thread_lock(): the list, finished
 * threads included. */
void thread_lock(void);
void thread_unlock(void);
bool thread_try_lock(void);
struct thread_info *thread_list(void);

void thread_fork_prepare(void);
void thread_fork_done(bool child); /* child: only the calling thread remains */

/* Before the first pthread_create() there is one thread, which may add to shared counters
 * without a locked instruction. A thread made otherwise must not allocate. */
extern bool thread_are_many HIDDEN; /* atomic, one way */
void thread_become_many(void);

/* FAST. A counter that nobody else writes to but a signal handler, which finds and leaves
 * it whole. */
static inline void thread_add_alone(uint64_t *counter, uint64_t value)
{
	__asm__("addq %1, %0" : "+m"(*counter) : "er"(value) : "cc");
}

/* FAST. Adds to a counter that several threads may add to. Relaxed. */
static inline void thread_add(uint64_t *counter, uint64_t value)
{
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many)))
		atomic_add_relaxed(counter, value);
	else
		thread_add_alone(counter, value);
}

ALWAYS_INLINE void thread_add_two(uint64_t *a, uint64_t to_a, uint64_t *b, uint64_t to_b)
{
	if (UNLIKELY(atomic_load_relaxed(&thread_are_many))) {
		atomic_add_relaxed(a, to_a);
		atomic_add_relaxed(b, to_b);
	} else {
		thread_add_alone(a, to_a);
		thread_add_alone(b, to_b);
	}
}
/* FAST. A number of the calling thread that no other one had or will have, from 1:
 * stacks, thread descriptors and kernel ids are used again. */
uint32_t thread_serial(void);

/* Raised around our own work: malloc still works in the calling thread but is never
 * sampled. FAST. Nestable. */
void thread_internal_enter(void);
void thread_internal_leave(void);

#endif
