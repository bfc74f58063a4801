/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent: answers to the seep command in a running process. Costs one signal handler until
 * it is asked; see agent.c and, for what is said, request.h.
 */
#ifndef PROFILER_CONTROL_AGENT_H
#define PROFILER_CONTROL_AGENT_H

#include "preload/base/base.h"

/* INIT. Installs the handler if the option signal= names a signal that is at its default.
 * refusal: why nothing can be reported in this process, NULL: it can. */
void agent_init(const char *refusal);
/* In a forked child: no agent runs here. */
void agent_fork_child(void);

/* SIGNAL. A request that the tool makes by ptrace, see preload/api/agentcall.c; pc: where
 * the thread was interrupted. */
void agent_called(uint64_t key, uintptr_t pc);

#endif
