/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls: everything Seep keeps in thread-local storage: 48 bytes, initial-exec, all zero in
 * a new thread (lock.c has 16 more). At most 64 bytes, so that the library fits in the
 * static TLS surplus.
 */
#ifndef PRELOAD_HEAP_TLS_H
#define PRELOAD_HEAP_TLS_H

#include "preload/base/base.h"

enum tls_state {
	TLS_NEW,   /* no mcache yet */
	TLS_LIVE,  /* has an mcache */
	TLS_DYING, /* gave its mcache back: uses the shared fallback */
};

struct seep_tls {
	/* This thread's mcache minus &mcache_empty, so that zero means the empty one. */
	uintptr_t cache_offset;
	uint16_t hiding;   /* profiler/sample: depth of sample_hide_enter() */
	uint16_t internal; /* > 0: our own work is running, do not sample; see thread.h */
	uint8_t state;	   /* enum tls_state */
	bool unwinding;	   /* a stack is being captured in this thread */
	bool in_start;	   /* the thread's mcache is being made */
	void *thread;	   /* struct thread_info of profiler/stack, or NULL */
	void *unwind;	   /* per-thread scratch of profiler/stack, or NULL */
	void *trails;	   /* per-thread stacks of profiler/stack/trail.c, or NULL */
	int32_t live_delta; /* profiler/sample: bytes not yet in the total of all threads
			     */
	uint32_t serial;    /* of profiler/stack: this thread's number; 0: none yet */
};
_Static_assert(sizeof(struct seep_tls) <= 48, "static TLS budget");

extern __thread struct seep_tls seep_tls
	__attribute__((tls_model("initial-exec"), visibility("hidden")));

#endif
