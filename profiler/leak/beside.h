/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beside: the first look of a check of a running program, while it runs: nothing is
 * stopped, and nothing is copied.
 */
#ifndef PROFILER_LEAK_BESIDE_H
#define PROFILER_LEAK_BESIDE_H

#include "profiler/leak/leak_int.h"
#include "profiler/leak/sweep.h"

enum beside_end {
	BESIDE_DONE,	   /* nothing new is white, or a stop has confirmed it: the result
			    * has its records */
	BESIDE_CANDIDATES, /* something is, as far as a look can tell */
	BESIDE_NOT	   /* it cannot be looked so: *out_why */
};

struct beside_help {
	/* Between two looks: takes back what is not known any more of waiting threads'
	 * stacks. */
	void (*doubt)(void *arg);
	/* Stops the threads, calls look_stopped(), and lets them go; NULL: no stop. */
	void (*stop)(void *arg);
	bool at_once; /* to confirm, without a look before */
	void *arg;
};

/*
 * DUMP. c is prepared, with what is known of waiting threads' stacks in its world. What c
 * has of memory and roots is as before afterwards. out: the candidates' table, empty.
 * *out_locked_ns: a lock of the program's threads was held for so long at once.
 */
enum beside_end beside_look(struct cycle *c, const struct beside_help *help,
			    struct sweep_candidates *out, uint64_t *out_locked_ns,
			    const char **out_why);

#endif
