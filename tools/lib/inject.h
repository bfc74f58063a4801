/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inject: asking a process whose signal cannot be used: one of its threads is made to
 * call the library's seep_agent_call() by ptrace, and goes on as if nothing had been. No
 * system call of the program fails for it.
 */
#ifndef TOOLS_LIB_INJECT_H
#define TOOLS_LIB_INJECT_H

#include <stdbool.h>
#include <stdint.h>

/* NULL: done; else why not, allocated. out_early: the library is there but has not begun.
 */
char *inject_call(int pid, uint64_t key, bool *out_early);

#endif
