/* SPDX-License-Identifier: Apache-2.0 */
/*
 * personality: the personality routine of return stubs, see stub.S.
 *
 * Phase 1 (search) passes through. In phase 2 the activation has ended: its objects move
 * on and the stub is free. A stub's CFA is its caller's stack pointer, and so is the CFA
 * by which libgcc knows the frame that will handle the exception: where the caller is the
 * handler, phase 2 takes the stub for it. Then the search starts again from the caller,
 * in a landing pad; nothing of the exception's state changes by that.
 *
 * Unwinders: the library needs none. The functions are those of the unwinder that calls:
 * its module's own, where that exports them (libgcc_s, LLVM's libunwind), else
 * libgcc_s's, whose contexts a program with a static libgcc shares.
 */
#include "profiler/escape/personality.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include <unwind.h>

#include "preload/base/atomic.h"
#include "preload/base/base.h"
#include "profiler/escape/hijack.h"
#include "profiler/stack/module.h"

#define REG_RAX 0 /* DWARF numbers */
#define REG_RDX 1

struct unwinder {
	const struct module *module; /* that calls us */
	_Unwind_Ptr (*get_ip)(struct _Unwind_Context *);
	void (*set_ip)(struct _Unwind_Context *, _Unwind_Ptr);
	void (*set_gr)(struct _Unwind_Context *, int, _Unwind_Word);
	void *resume;
};

HIDDEN extern void *escape_resume; /* called by stub.S */
HIDDEN extern const char escape_landing[];
void *escape_resume;

static struct {
	struct unwinder libgcc, global;
} unwinders;

HIDDEN _Unwind_Reason_Code escape_personality(int version, _Unwind_Action actions,
					      _Unwind_Exception_Class class,
					      struct _Unwind_Exception *exception,
					      struct _Unwind_Context *context);

static void *symbol(void *handle, const char *name)
{
	return handle ? dlsym(handle, name) : NULL;
}

static void fill(struct unwinder *u, void *handle)
{
	void *get_ip = symbol(handle, "_Unwind_GetIP");
	void *set_ip = symbol(handle, "_Unwind_SetIP");
	void *set_gr = symbol(handle, "_Unwind_SetGR");

	memcpy(&u->get_ip, &get_ip, sizeof(get_ip));
	memcpy(&u->set_ip, &set_ip, sizeof(set_ip));
	memcpy(&u->set_gr, &set_gr, sizeof(set_gr));
	u->resume = symbol(handle, "_Unwind_Resume_or_Rethrow");
	u->module = get_ip ? module_find_code((uintptr_t)get_ip) : NULL;
}

static _Unwind_Reason_Code stop_at_once(struct _Unwind_Context *context, void *arg)
{
	(void)context;
	(void)arg;
	return _URC_END_OF_STACK;
}

/* libgcc fills the table of register sizes, which _Unwind_SetGR() needs, when it walks a
 * stack for the first time. */
static void warm_up(void *handle)
{
	void *walk = symbol(handle, "_Unwind_Backtrace");
	_Unwind_Reason_Code (*backtrace)(_Unwind_Trace_Fn, void *);

	memcpy(&backtrace, &walk, sizeof(walk));
	if (backtrace)
		backtrace(stop_at_once, NULL);
}

void personality_init(void)
{
	/* libc opens it too, when a thread is cancelled. */
	void *libgcc = dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_LOCAL);
	void *global = dlopen(NULL, RTLD_NOW);

	warm_up(libgcc);
	module_refresh();
	fill(&unwinders.libgcc, libgcc);
	fill(&unwinders.global, global);
	atomic_store_relaxed(&escape_resume, unwinders.libgcc.resume);
}

static const struct unwinder *unwinder_of(uintptr_t caller, struct unwinder *own)
{
	const struct module *m = module_find_code(caller);

	if (unwinders.global.resume && m == unwinders.global.module)
		return &unwinders.global;
	if (m && m != unwinders.libgcc.module && strstr(m->path, "/libunwind")) {
		fill(own,
		     dlopen(m->path, RTLD_NOW | RTLD_NOLOAD)); /* opened by a plugin */
		return own->resume ? own : NULL;
	}
	return unwinders.libgcc.resume ? &unwinders.libgcc : NULL;
}

_Unwind_Reason_Code escape_personality(int version, _Unwind_Action actions,
				       _Unwind_Exception_Class class,
				       struct _Unwind_Exception *exception,
				       struct _Unwind_Context *context)
{
	const struct unwinder *u;
	struct unwinder own = { 0 };
	uintptr_t ra;
	int stub;

	(void)version;
	(void)class;
	if (!(actions & _UA_CLEANUP_PHASE))
		return _URC_CONTINUE_UNWIND;
	u = unwinder_of((uintptr_t)__builtin_return_address(0), &own);
	stub = u ? hijack_stub_of(u->get_ip(context)) : -1;
	if (stub < 0)
		return _URC_CONTINUE_UNWIND;
	ra = hijack_true_return(stub);
	hijack_unwound(stub);
	if (!(actions & _UA_HANDLER_FRAME) || actions & _UA_FORCE_UNWIND)
		return _URC_CONTINUE_UNWIND;
	atomic_store_relaxed(&escape_resume, u->resume);
	u->set_gr(context, REG_RAX, (_Unwind_Word)(uintptr_t)exception);
	u->set_gr(context, REG_RDX, ra);
	u->set_ip(context, (_Unwind_Ptr)(uintptr_t)escape_landing);
	return _URC_INSTALL_CONTEXT;
}
