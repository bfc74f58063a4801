/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roots_stacks: which parts of the threads' stacks are no roots: what lies below a stack
 * pointer, what finished threads have left, and exit().
 */
#include "profiler/leak/roots.h"

#include <dlfcn.h>
#include <string.h>

#include "preload/base/os.h"
#include "profiler/leak/leak_int.h"
#include "profiler/leak/stop.h"
#include "profiler/leak/unreadable.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define RED_ZONE       128
#define DTV_AT	       8  /* in libc's thread descriptor */
#define EXIT_BYTES     64 /* exit() and quick_exit() are a call and little more */
#define KEPT_REGISTERS 6  /* rbx, rbp, r12 to r15 */
#define START_FRAMES   2  /* of libc, between _start and main() */

#define NO_SANITIZE    __attribute__((no_sanitize("address", "thread", "undefined")))

static struct {
	uintptr_t exit, quick_exit;   /* the C library's */
	uintptr_t of_libc, of_loader; /* any function that nobody replaces */
	/* The loader's __libc_stack_end: what the kernel put on the main thread's stack
	 * begins there. */
	const uintptr_t *stack_end;
} functions;

/* A function of the program may be a leaf that makes a system call: what it has below. */
static uintptr_t lower_end(const struct stopped_thread *t)
{
	return stopped_waits_in_libc(t) ? t->regs.sp : t->regs.sp - RED_ZONE;
}

static uintptr_t sp_of(const struct world *w, int tid, uintptr_t own_sp)
{
	if (tid == os_gettid())
		return own_sp;
	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].tid == tid && w->threads[i].captured)
			return lower_end(&w->threads[i]);
	return 0;
}

/* Does a finished thread's stack still lie there? glibc leaves the thread descriptor,
 * which begins with its own address, twice; the memory may also be gone, or something
 * else. */
static bool is_cached_stack(const struct thread_info *t)
{
	const uintptr_t *descriptor = (const uintptr_t *)t->self;

	if (!unreadable_is_not(t->self))
		return false;
	return descriptor[0] == t->self && descriptor[2] == t->self;
}

/* But for the dtv, which the descriptor still owns, and the result of a thread that can
 * still be joined. */
static void exclude_finished(struct roots *r, const struct thread_info *t)
{
	if (t->stack_lo) /* known */
		roots_exclude(r, t->stack_lo, t->self + DTV_AT);
	if (thread_is_given_back(t))
		roots_exclude(r, t->self + DTV_AT + sizeof(uintptr_t),
			      t->self + THREAD_DESCRIPTOR_BYTES);
}

struct range {
	uintptr_t lo, hi;
	bool is_pointed_to;
};

static void note_word(uintptr_t word, void *arg)
{
	struct range *main = arg;

	main->is_pointed_to |= word - main->lo < main->hi - main->lo;
}

/* Has the thread a pointer to it, as far as is known? Its descriptor, at the top of its
 * stack, has what it was given at its start. */
static NO_SANITIZE void note_thread(const struct world *w, const struct thread_info *t,
				    uintptr_t own_sp, struct range *main)
{
	uintptr_t sp = align_down(sp_of(w, t->tid, own_sp), 8), hi = t->stack_hi;

	if (sp < t->stack_lo || sp >= t->stack_hi) {
		main->is_pointed_to = true;
		return;
	}
	if (t->self - t->stack_lo <= t->stack_hi - t->stack_lo)
		hi = t->self + THREAD_DESCRIPTOR_BYTES;
	for (; sp < hi && !main->is_pointed_to; sp += sizeof(uintptr_t))
		note_word(*(const volatile uintptr_t *)sp, main);
	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].tid == t->tid)
			stopped_each_word(&w->threads[i], note_word, main);
}

/* The main thread has ended, others have not. What the kernel put on its stack stays, and
 * the rest if another thread has a pointer there: its stack is never given back, and
 * programs make use of that. */
static void exclude_main(struct roots *r, const struct world *w, uintptr_t own_sp,
			 const struct thread_info *list, const struct thread_info *t)
{
	struct range main = { .lo = t->stack_lo };

	main.hi = functions.stack_end ? align_down(*functions.stack_end, 8) : 0;
	if (main.hi - t->stack_lo >= t->stack_hi - t->stack_lo)
		return;
	for (; list && !main.is_pointed_to; list = list->next)
		if (list->state != THREAD_FINISHED)
			note_thread(w, list, own_sp, &main);
	if (!main.is_pointed_to)
		roots_exclude(r, main.lo, main.hi);
}

void roots_see_stacks(struct roots *r, const struct world *w, uintptr_t own_sp,
		      const struct thread_info *list)
{
	for (const struct thread_info *t = list; t; t = t->next) {
		uintptr_t sp = sp_of(w, t->tid, own_sp);

		if (t->state == THREAD_FINISHED) {
			if (t->tid == os_getpid())
				exclude_main(r, w, own_sp, list, t);
			else if (!t->own_stack && is_cached_stack(t))
				exclude_finished(r, t);
			continue;
		}
		/* A thread on another stack (coroutine) keeps its own one whole. */
		if (sp >= t->stack_lo && sp < t->stack_hi) {
			roots_exclude(r, t->stack_lo, align_down(sp, 8));
			if (r->no_maps)
				roots_include(r, align_down(sp, 8), t->stack_hi);
		}
	}
}

/* ---- exit ---- */

void exit_frames_init(void)
{
	if (functions.exit)
		return;
	functions.quick_exit = (uintptr_t)dlsym(RTLD_NEXT, "quick_exit");
	functions.of_loader = (uintptr_t)dlsym(RTLD_NEXT, "__tls_get_addr");
	functions.stack_end = dlsym(RTLD_DEFAULT, "__libc_stack_end");
	functions.of_libc = (uintptr_t)dlsym(RTLD_NEXT, "gnu_get_libc_version");
	functions.exit = (uintptr_t)dlsym(RTLD_NEXT, "exit");
	stopped_set_libc(functions.of_libc);
}

static bool is_in_exit(uintptr_t pc)
{
	return pc - functions.exit < EXIT_BYTES || pc - functions.quick_exit < EXIT_BYTES;
}

static bool is_libc_or_loader(uintptr_t pc)
{
	const struct module *m = pc > FRAME_PSEUDO_MAX ? module_find_code(pc) : NULL;

	return m && (m == module_find_code(functions.of_libc) ||
		     m == module_find_code(functions.of_loader));
}

static bool is_libc(uintptr_t pc)
{
	return module_find_code(pc) == module_find_code(functions.of_libc);
}

/* main() has returned: there are the C library's frames that had called it, and _start.
 */
static bool main_has_returned(const struct frame *caller, int n)
{
	if (n < 2 || n > START_FRAMES + 1 || is_libc(caller[n - 1].pc))
		return false;
	for (int i = 0; i < n - 1; i++)
		if (!is_libc(caller[i].pc))
			return false;
	return true;
}

/*
 * While the process ends, the frames between exit() or quick_exit() and us are the C
 * library's, the loader's and our own, on stack that the program has left: in their gaps
 * old pointers stand. Found by walking up to its frame, with no function of the program
 * on the way. When it is libc that has called exit(), there are arguments and the
 * environment above.
 */
void leak_find_exit(struct leak_exit *out)
{
	enum unwind_end end;
	int max, n = 0;
	struct frame *frames = functions.exit ? unwind_scratch(&max) : NULL;

	memset(out, 0, sizeof(*out));
	if (frames)
		n = unwind_here(frames, max, &end);
	for (int i = 0; i + 1 < n && is_libc_or_loader(frames[i].pc); i++) {
		if (!is_in_exit(frames[i].pc) || !frames[i].slot || !frames[i + 1].slot)
			continue;
		out->sp = frames[i + 1].slot;
		if (end == UNWIND_COMPLETE && functions.stack_end &&
		    main_has_returned(&frames[i + 1], n - i - 1)) {
			out->sp = *functions.stack_end;
			return; /* nor are the registers of anybody's any more */
		}
		out->saved_hi = frames[i].slot;
		out->saved_lo = out->saved_hi - KEPT_REGISTERS * sizeof(uintptr_t);
		return;
	}
}
