/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handler: what a signal handler can come to, read from its code.
 */
#ifndef PROFILER_THREAD_HANDLER_H
#define PROFILER_THREAD_HANDLER_H

#include "preload/base/base.h"

/* DUMP. False: the handler, and what it calls, do nothing but return; all of their code
 * is known, and of libc they call only functions that neither end the thread nor leave by
 * a jump. True where that is not certain. */
bool handler_may_leave(uintptr_t handler);

#endif
