/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hidden: memory of the program that its copy lacks or has empty, because the program
 * asked for that: MADV_DONTFORK, MADV_WIPEONFORK. It is read where it is.
 */
#ifndef PROFILER_LEAK_HIDDEN_H
#define PROFILER_LEAK_HIDDEN_H

#include "profiler/leak/leak_int.h"

/* What the copy will need, opened by the program; and closed. */
void hidden_open(struct origin *out);
void hidden_close(struct origin *o);
/* In a snapshot. Marks from every such range that is no excluded one; *out_any: one
 * holds what nothing else does. False: one could not be read. */
bool hidden_mark(struct marker *m, const struct roots *roots, const struct origin *from,
		 bool *out_any);
/* In a snapshot. The program has pages of objects that are yet to be supplied
 * (userfaultfd), or may have: they were read as empty. */
bool hidden_is_awaited(const struct origin *from);

#endif
