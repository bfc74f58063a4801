/* SPDX-License-Identifier: Apache-2.0 */
/*
 * result: what became of the followed objects, added up by site, depth, place and end;
 * and the profile made of it.
 */
#ifndef PROFILER_ESCAPE_RESULT_H
#define PROFILER_ESCAPE_RESULT_H

#include "preload/base/base.h"

#define RESULT_MAX 32768 /* keys that are kept apart */

/* How an object's life ended, and with it how sure its depth is: the label confidence. */
enum end_kind {
	END_BOUND,   /* stacks compared: at least this depth */
	END_EXACT,   /* counted by return stubs */
	END_EXC,     /* the same, with frames that an exception or longjmp left */
	END_THREAD,  /* freed by another thread */
	END_LIVE,    /* not freed yet: at least this depth */
	END_REFUSED, /* no stub could be put there; stacks compared */
	END_UNKNOWN  /* the stack at free could not be compared */
};

/* Where an object was seen outside its frame, nearest first: the label escape. */
enum place {
	PLACE_UNSEEN, /* not looked for, or not found */
	PLACE_MAYBE_RETURNED,
	PLACE_RETURNED,
	PLACE_CALLER, /* memory of an outer frame */
	PLACE_TLS,
	PLACE_HEAP,
	PLACE_GLOBAL,
	PLACE_THREAD, /* another thread's stack */
	PLACE_COUNT
};

struct result_key {
	uint32_t site;
	uint16_t depth;
	uint8_t end;	 /* enum end_kind */
	uint8_t place;	 /* enum place */
	uint64_t detail; /* global: its address; tls: bytes below the thread pointer;
			  * heap: site << 32 | offset; caller: which frame, counted from
			  * the allocating function's; thread: site that made it;
			  * maybe returned: 1 in the second register */
	uintptr_t freed; /* pc that called free, 0: unknown */
};

/* One object that has ended. */
struct ended {
	size_t size;
	size_t argument; /* calloc's count, an alignment; 0: none */
	uint64_t weight; /* fixed point, SITE_SHIFT */
	uint64_t lifetime_ns;
	bool grown;   /* by realloc in place */
	bool several; /* beside another of its site, in one activation */
	bool scanned; /* global and heap memory was looked through */
};

#define RESULT_BUCKETS \
	36 /* of lifetimes: [2^i, 2^(i+1)) ns; the last: a minute and more */

struct result {
	struct result_key key;
	uint32_t samples, scanned, grown, several;
	uint64_t objects; /* fixed point */
	uint64_t bytes, lifetime_ns;
	size_t size_min, size_max;
	size_t argument_min, argument_max;  /* 0: not all of them have one */
	uint32_t lifetimes[RESULT_BUCKETS]; /* samples */
};

/* INIT. False: out of memory. */
bool result_init(void);
/* SLOW. The caller serialises all calls. */
void result_add(const struct result_key *key, const struct ended *e);
void result_clear(void);      /* all of it */
void result_clear_live(void); /* those with END_LIVE */
uint64_t result_lost(void);   /* objects whose key found no room */
void result_each(bool (*fn)(const struct result *r, void *arg), void *arg);
/* DUMP. PREFIX.escape.pb.gz. how: a comment on the way depths were found. since_ns: when
 * following began, os_now_ns(). 0 or -errno. */
int result_write(const char *prefix, const char *how, uint64_t since_ns);

#endif
