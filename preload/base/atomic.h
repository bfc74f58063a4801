/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atomic: loads, stores and read-modify-writes whose memory order is part of the name,
 * so that a reader sees at the call which ordering the code relies on.
 */
#ifndef PRELOAD_BASE_ATOMIC_H
#define PRELOAD_BASE_ATOMIC_H

/* All macros work on plain integer or pointer objects of at most eight bytes. FAST. */
#define atomic_load_relaxed(p)	       __atomic_load_n((p), __ATOMIC_RELAXED)
#define atomic_load_acquire(p)	       __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define atomic_store_relaxed(p, v)     __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define atomic_store_release(p, v)     __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define atomic_add_release(p, v)       __atomic_add_fetch((p), (v), __ATOMIC_RELEASE)
#define atomic_add_relaxed(p, v)       __atomic_add_fetch((p), (v), __ATOMIC_RELAXED)
#define atomic_sub_relaxed(p, v)       __atomic_sub_fetch((p), (v), __ATOMIC_RELAXED)
#define atomic_or_relaxed(p, v)	       __atomic_or_fetch((p), (v), __ATOMIC_RELAXED)
#define atomic_fetch_add_acq_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define atomic_exchange_acquire(p, v)  __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
#define atomic_exchange_acq_rel(p, v)  __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define atomic_exchange_release(p, v)  __atomic_exchange_n((p), (v), __ATOMIC_RELEASE)
/* Strong compare and swap; *expected receives the value found on failure. */
#define atomic_cas_acquire(p, expected, v)                                     \
	__atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQUIRE, \
				    __ATOMIC_RELAXED)
#define atomic_cas_acq_rel(p, expected, v)                                     \
	__atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQ_REL, \
				    __ATOMIC_ACQUIRE)
#define atomic_cas_relaxed(p, expected, v)                                     \
	__atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_RELAXED, \
				    __ATOMIC_RELAXED)
/* Loads before it come before those behind it; and stores. */
#define atomic_fence_acquire() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define atomic_fence_release() __atomic_thread_fence(__ATOMIC_RELEASE)
/* Compiler-only barrier: orders accesses against a signal handler of the same thread. */
#define atomic_signal_barrier() __atomic_signal_fence(__ATOMIC_SEQ_CST)

#endif
