/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escape: did an object outlive the frame that made it? First form, `bound`: the trail of
 * the thread's stack (profiler/stack/trail.h) retains a frame for as long as captures
 * find it unchanged. Frames of malloc's stack that are still retained at free are taken
 * as the same activations, so the depth is a lower bound: two activations of one function
 * at the same address look alike when nothing was captured in between.
 */
#ifndef PROFILER_ESCAPE_ESCAPE_H
#define PROFILER_ESCAPE_ESCAPE_H

#include "preload/base/base.h"
#include "profiler/stack/trail.h"

/* INIT. */
void escape_init(void);
bool escape_is_on(void);
/* SLOW. Starts following an object; returns a handle, 0 when it is not followed (full
 * table: thinned out at random, so that estimates stay unbiased). */
uint32_t escape_begin(uint32_t site, size_t size, const struct trail *stack);
/* SLOW. The object dies on the calling thread, whose stack this is (NULL: unknown). */
void escape_end(uint32_t handle, const struct trail *stack);
/* SLOW. Stops following without a verdict (the sampler lost the object). */
void escape_drop(uint32_t handle);
/* DUMP. PREFIX.escape.pb.gz with labels escape, depth, confidence. 0 or -errno. */
int escape_write(const char *prefix);
void escape_fork_prepare(void);
void escape_fork_done(bool child);

#endif
