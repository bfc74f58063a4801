/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hijack: counting the activations that end, exactly. The word that holds an activation's
 * return address gets the address of a stub; when the function returns, the stub runs,
 * looks where the waiting objects are, moves each to the next frame outwards and goes on
 * to the true return address.
 *
 * The word is never put back by free(): another thread's free could meet the return. The
 * stub stays, with an empty list, and later objects of that activation share it. State is
 * kept by stub and not by thread, so coroutines may change threads.
 *
 * A stub that can no longer be reached is given back where that is certain: a normal
 * return, unwinding, longjmp, the end of its thread. Where it is not (an abandoned
 * coroutine, a fork's other threads), it is lost: a copy of the stack may still hold its
 * address. When stubs run out, objects are judged by comparison instead.
 *
 * Not done: threads with a shadow stack; return addresses outside of loaded code (JIT),
 * in code without call frame information (builtins of a language's runtime, which walks
 * its stacks by itself), in OCaml's, which has tables of its own, in the loader, or
 * without a call instruction before them (signal trampolines, starts of coroutines).
 */
#ifndef PROFILER_ESCAPE_HIJACK_H
#define PROFILER_ESCAPE_HIJACK_H

#include "preload/base/base.h"
#include "profiler/escape/escape_int.h"

/* INIT. False: the processor or the system does not allow it. */
bool hijack_init(void);
/* FAST. */
bool hijack_is_on(void);
/* The processor, as far as tests must be able to stand in for it. */
struct hijack_system {
	uintptr_t (*shadow_stack)(void); /* of the calling thread; 0: it has none */
};
extern struct hijack_system hijack_system;
/* Needs the lock. Waits for the end of activation f->level of the object's stack. Sets
 * refused or full when it cannot. Only on the object's own stack. */
void hijack_attach(uint32_t handle);
/* Needs the lock, held since hijack_attach(): a return address that it refused because it
 * lies in code that was perhaps loaded lately, see module_learn(); 0: none. */
uintptr_t hijack_take_unknown(void);
/* Needs the lock. Takes the object from its stub's list, if it is in one. */
void hijack_detach(uint32_t handle);
/* Needs the lock. Is the activation that the object waits for certainly still there? */
bool hijack_holds(const struct followed *f);
/* SLOW. Control of the calling thread leaves for the frame with this stack pointer: the
 * activations below it end. */
void hijack_leave(uintptr_t target);
/* SLOW. The calling thread ends: its stack's stubs below sp, or overwritten, are free. */
void hijack_thread_end(uintptr_t sp);

struct hijack_stats {
	uint64_t armed, shared, returned, unwound, left, refused, full;
	uint32_t in_use;
};
void hijack_get_stats(struct hijack_stats *out);

/* For stub.S and personality.c. Saved registers, as pushed there. */
struct stub_regs {
	uintptr_t rbp, r11, r10, r9, r8, rdi, rsi, rcx, rdx, rax, ret;
};
HIDDEN void escape_stub_return(uintptr_t after_call, const struct stub_regs *r);
/* The stub that pc lies in (just behind its start counts as well), or -1. FAST. */
int hijack_stub_of(uintptr_t pc);
uintptr_t hijack_true_return(int stub);
/* SLOW. Unwinding passes through the stub: its activation ends. */
void hijack_unwound(int stub);

#endif
