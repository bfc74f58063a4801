/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentcall: where the tool sends a thread by ptrace when the agent's signal cannot be
 * used (tools/lib/inject.c). rdi holds the key, rsi where the thread was, and
 * the stack is aligned. The breakpoint hands the thread back; its registers are restored
 * by the tool, so none is kept here.
 * The tool calls it only where seep_agent_ready is AGENT_MAGIC: before, the library may
 * not even be mapped whole, and other bytes of its file stand there.
 */
#include "preload/api/api.h"
#include "profiler/control/agent.h"

EXPORT uint64_t seep_agent_ready;

void seep_agent_call(uint64_t key, uintptr_t pc);

__attribute__((naked)) EXPORT void seep_agent_call(uint64_t key UNUSED,
						   uintptr_t pc UNUSED)
{
	__asm__("cld\n\t"
		"xor %ebp, %ebp\n\t"
		"call agent_called\n\t"
		"int3\n\t"
		"ud2");
}
