/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wakers: see wakers.h.
 *
 * A function that the program calls, or asks dlsym() for, is named in its read-only
 * memory, among the names of its symbols or the texts of its own. What names such a
 * function may call it.
 */
#include "profiler/thread/wakers.h"

#include <signal.h>
#include <string.h>

#include "preload/base/os.h"
#include "profiler/leak/unreadable.h"
#include "profiler/stack/module.h"
#include "profiler/thread/handler.h"

#define LIBC_FIRST 32 /* libc's own two signals */
#define LIBC_LAST  33
#define SIGNALS	   64

struct wakers_hooks wakers_hooks;

/* ---- names ---- */

/* Does a text that ends with the name stand in [lo, hi)? */
static bool has_name(const char *lo, const char *hi, const char *name)
{
	const size_t size = strlen(name) + 1;

	for (const char *p = lo; (size_t)(hi - p) >= size; p++) {
		p = memchr(p, name[0], (size_t)(hi - p) - size + 1);
		if (!p)
			return false;
		if (memcmp(p, name, size) == 0)
			return true;
	}
	return false;
}

static bool module_names(const struct module *m, const char *name)
{
	for (uint32_t i = 0; i < m->nsegments; i++) {
		const struct module_segment *s = &m->segments[i];

		/* Programs of old linkers have code and texts in one. */
		if (s->writable || (s->executable && i > 0) ||
		    !unreadable_is_not(s->start))
			continue;
		if (has_name((const char *)s->start, (const char *)s->end, name))
			return true;
	}
	return false;
}

bool wakers_names(const char *function, uintptr_t libc)
{
	for (uint32_t i = 0; i < module_count(); i++) {
		const struct module *m = module_at(i);

		if (m->unloaded || m->foreign || m->is_seep ||
		    (libc >= m->start && libc < m->end))
			continue;
		if (module_names(m, function))
			return true;
	}
	return false;
}

/* ---- handlers ---- */

static enum wakers_handlers judge(int sig, const void *handler)
{
	static const char *const leaves[] = { "longjmp",      "__longjmp_chk",
					      "setcontext",   "swapcontext",
					      "pthread_exit", "thrd_exit" };
	const struct module *m;

	if (wakers_hooks.program_handler)
		handler = wakers_hooks.program_handler(sig, handler);
	if (!handler)
		return WAKERS_NO_HANDLER;
	m = module_find_code((uintptr_t)handler);
	for (size_t i = 0; m && i < ARRAY_LEN(leaves); i++)
		if (module_names(m, leaves[i]))
			return handler_may_leave((uintptr_t)handler) ? WAKERS_LEAVE
								     : WAKERS_INTERRUPT;
	return m ? WAKERS_INTERRUPT : WAKERS_LEAVE;
}

static bool is_fault(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL;
}

/* libc's own two end no wait. A thread that waits raises no fault; one is sent to it, if
 * ever, to make it leave. */
static enum wakers_handlers judge_signal(int sig)
{
	struct {
		const void *handler;
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} act = { 0 };
	enum wakers_handlers handlers;

	if (sig == LIBC_FIRST || sig == LIBC_LAST)
		return WAKERS_NO_HANDLER;
	if (os_call(SYS_rt_sigaction, sig, 0, (long)&act, sizeof(act.mask), 0, 0) != 0)
		return WAKERS_LEAVE;
	handlers = judge(sig, act.handler);
	return is_fault(sig) && handlers == WAKERS_INTERRUPT ? WAKERS_NO_HANDLER
							     : handlers;
}

static bool see_line(char *line, void *arg)
{
	enum wakers_handlers *worst = arg;
	uint64_t caught = 0;

	if (strncmp(line, "SigCgt:", 7) != 0)
		return true;
	for (const char *p = line + 7; *p; p++)
		if (*p >= '0' && *p <= '9')
			caught = caught << 4 | (uint64_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			caught = caught << 4 | (uint64_t)(*p - 'a' + 10);
	*worst = WAKERS_NO_HANDLER;
	for (int sig = 1; sig <= SIGNALS && *worst != WAKERS_LEAVE; sig++) {
		enum wakers_handlers h =
			caught >> (sig - 1) & 1 ? judge_signal(sig) : WAKERS_NO_HANDLER;

		if (h > *worst)
			*worst = h;
	}
	return false;
}

enum wakers_handlers wakers_handlers(void)
{
	enum wakers_handlers worst = WAKERS_LEAVE;

	os_each_line("/proc/thread-self/status", see_line, &worst);
	return worst;
}
