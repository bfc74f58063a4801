/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent_int: what the files of the agent share.
 */
#ifndef PROFILER_CONTROL_AGENT_INT_H
#define PROFILER_CONTROL_AGENT_INT_H

#include "profiler/control/agent.h"

/* The agent's thread. Connects by the key, serves one request, hangs up. refusal: see
 * agent_init(). */
void serve(uint64_t key, const char *refusal);

#endif
