/* SPDX-License-Identifier: Apache-2.0 */
/*
 * personality: exceptions and forced unwinding through return stubs.
 */
#ifndef PROFILER_ESCAPE_PERSONALITY_H
#define PROFILER_ESCAPE_PERSONALITY_H

/* INIT. Finds the unwinder's functions; may call the loader. */
void personality_init(void);

#endif
