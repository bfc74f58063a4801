/* SPDX-License-Identifier: Apache-2.0 */
/*
 * where: where is an object known, now that an activation has ended?
 */
#ifndef PROFILER_ESCAPE_WHERE_H
#define PROFILER_ESCAPE_WHERE_H

#include "preload/base/base.h"
#include "profiler/escape/escape_int.h"

/* INIT. */
void where_init(void);
/* The process's CPU time begins anew: in a forked child. */
void where_start(void);
/* Needs the lock of escape.c; only on the object's own stack, whose slots are kept. How
 * many words of the outer frames look like the new object by chance. */
void where_begin(struct followed *f);
/* The same; activation f->level has just ended and its caller goes on at ret with these
 * registers (all 0: it was left by an exception or longjmp). Raises f->place to the
 * farthest place seen. */
void where_look(struct followed *f, uintptr_t rax, uintptr_t rdx, uintptr_t ret);
/* Needs the lock. */
struct where_stats {
	uint64_t looks;		       /* through all memory */
	uint64_t spent_ns, process_ns; /* CPU time: of these, of all since the start */
};
void where_get_stats(struct where_stats *out);
/* SLOW. Between the two calls libraries may be unmapped: no global memory is read. */
void where_pause(void);
void where_resume(void);

/* FAST. retuse.c: does the code at ret read rax before it is overwritten? */
enum retuse { RETUSE_MAYBE, RETUSE_READ, RETUSE_LOST };
enum retuse retuse_of(uintptr_t ret);

#endif
