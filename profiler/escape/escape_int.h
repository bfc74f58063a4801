/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escape_int: what the files of this folder share: the followed objects.
 */
#ifndef PROFILER_ESCAPE_ESCAPE_INT_H
#define PROFILER_ESCAPE_ESCAPE_INT_H

#include "profiler/escape/bound.h"
#include "profiler/escape/result.h"
#include "profiler/stack/trail.h"

/* One object that is followed. All guarded by the lock of escape.c, but for what the
 * owner of the object may read: site, thread, stack. */
struct followed {
	uint32_t site; /* 0: free */
	uint32_t next; /* in the free list, or in the list of its stub */
	uint32_t prev; /* in the list of its stub; 0: it is the first */
	uint32_t thread;
	uint16_t lg_weight;
	uint16_t level;	    /* activations that are known to have ended */
	uint16_t stub;	    /* 1 + number of the stub that it waits for; 0: none */
	uint8_t place;	    /* enum place: the farthest seen */
	bool inherited : 1; /* of the parent process: not reported */
	bool unwound : 1;   /* frames were left by an exception or longjmp */
	bool refused : 1;   /* a return address could not be replaced */
	bool full : 1;	    /* there was no stub left */
	bool grown : 1;
	bool several : 1; /* another of its site lived in the same activation */
	bool scanned : 1;
	uint8_t stale; /* bit i: at birth a word that refers to it was where an object of
			* its site was found after i activations */
	uint16_t seen_before; /* words of outer frames that looked like it at malloc */
	uintptr_t p;
	size_t size;
	size_t argument; /* mcache_argument() at birth */
	uint64_t detail; /* of place */
	uint64_t weight; /* of the sampler, fixed point */
	uint64_t birth_ns;
	struct bound_stack stack;
	struct trail_mark made; /* count 0: its stack was not captured as a trail */
};

/* FAST. By handle, which is not 0. */
struct followed *followed_at(uint32_t handle);
/* SLOW. One more object of its site: is it followed, among 2^lg? */
bool escape_chooses(uint32_t site, uint32_t *out_lg);
/* The lock; hijack.c takes it when a stub is reached. */
void escape_lock(void);
void escape_unlock(void);

#endif
