/* SPDX-License-Identifier: Apache-2.0 */
/*
 * callee: which function does a call call? Tells malloc from calloc and operator new, and
 * free from realloc, without a word more to keep for each object: the instruction in
 * front of a return address says it.
 */
#ifndef PROFILER_ESCAPE_CALLEE_H
#define PROFILER_ESCAPE_CALLEE_H

#include "preload/base/base.h"

/* DUMP. The linkage name of what is called before return address ra: the symbol that the
 * call is bound by, else the function at its target. NULL: an indirect call, or the code
 * is gone. Lives as long as the module stays loaded. */
const char *callee_name(uintptr_t ra);

#endif
