/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escape: did an object outlive the frame that made it, and where did it go? Objects that
 * the sampler records are followed to their free. With escape=bound the stacks of malloc
 * and free are compared, by what the thread's trail retains of malloc's (trail.h) or
 * frame by frame (bound.h). With escape=exact the return address of the allocating frame
 * is replaced by that of a stub, which counts the activations that really end, one after
 * the other, and looks where the object went (hijack.h, where.h).
 */
#ifndef PROFILER_ESCAPE_ESCAPE_H
#define PROFILER_ESCAPE_ESCAPE_H

#include "preload/base/base.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/unwind.h"

/* INIT. Tables for the option's mode. */
void escape_init(void);
bool escape_is_on(void);
/* SLOW. Starts following p, made at site by the calling thread, whose stack this is
 * (NULL: it was not captured as a trail); returns a handle, 0 when it is not followed
 * (full table: thinned out at random, so that estimates stay unbiased). */
uint32_t escape_begin(const void *p, size_t size, uint32_t site,
		      const struct trail *stack);
/* SLOW. The same of one that was chosen among 2^lg of its site. */
uint32_t escape_begin_one(const void *p, size_t size, uint32_t site,
			  const struct trail *stack, uint32_t lg);
#define ESCAPE_LG_ALL 9 /* of each site the first 2^this are to be followed */
/* SLOW. The object dies on the calling thread. */
void escape_end(uint32_t handle);
/* SLOW. escape_begin_one() and escape_end() with the stack given as frames; count 0: it
 * is unknown. */
uint32_t escape_begin_at(const void *p, size_t size, uint32_t site,
			 const struct frame *frames, int count, uint32_t lg);
void escape_end_at(uint32_t handle, const struct frame *frames, int count);
/* SLOW. It was grown or shrunk in place. */
void escape_resize(uint32_t handle, size_t size);
/* SLOW. Stops following without a verdict (the sampler lost the object). */
void escape_drop(uint32_t handle);
/* SLOW. The calling thread ends; sp: what lies below on its stack is dead. */
void escape_thread_end(uintptr_t sp);
/* DUMP. PREFIX.escape.pb.gz with labels escape, depth, confidence and more, see result.c.
 * 0 or -errno. */
int escape_write(const char *prefix);
void escape_fork_prepare(void);
void escape_fork_done(bool child);

#endif
