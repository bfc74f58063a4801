/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init: the constructor. Reads the options, finds libc's own functions, plugs the
 * profiler into the heap, and registers what runs at fork and at the end.
 *
 * The constructors of the program's libraries run before ours and allocate, libstdc++'s
 * 72 KiB for one. So the first call of malloc after libc's own constructor does the work,
 * and the constructor finds it done. What is allocated even earlier, by IFUNC resolvers
 * and the program's preinit_array, is served unprofiled.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/tls.h"
#if CONFIG_PROFILER
#include "profiler/control/agent.h"
#include "profiler/control/request.h"
#include "profiler/control/runtable.h"
#include "profiler/escape/escape.h"
#include "profiler/leak/leak.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/dynsym.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/module.h"
#include "profiler/stack/tables.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"
#include "profiler/thread/wakers.h"
#endif

/* The compiler's start files call these three where they exist, and look for them by name
 * at every start. They do nothing for a library without transactions or gprof: found
 * here, they need no search. */
HIDDEN void _ITM_registerTMCloneTable(void *table, size_t count);
HIDDEN void _ITM_deregisterTMCloneTable(void *table);
HIDDEN void __gmon_start__(void);

void _ITM_registerTMCloneTable(void *table, size_t count)
{
	(void)table;
	(void)count;
}

void _ITM_deregisterTMCloneTable(void *table)
{
	(void)table;
}

void __gmon_start__(void)
{
}

static void apply_huge_option(void)
{
	switch (opt_get()->hugepage) {
	case OPT_HUGE_ON:
		arena_set_huge(ARENA_HUGE_ALWAYS);
		break;
	case OPT_HUGE_OFF:
		arena_set_huge(ARENA_HUGE_NEVER);
		break;
	default:
		arena_set_huge(ARENA_HUGE_AUTO);
		break;
	}
}

#if CONFIG_PROFILER
/* The linker's: our first byte, and the end of our code. */
HIDDEN extern const char __ehdr_start[];
HIDDEN extern const char etext[];

typedef int (*clock_fn)(clockid_t id, struct timespec *out);

static void profiler_init(void)
{
	const struct options *o = opt_get();

	survive_recover();
	runtable_attach();
	if (!api_is_bound()) {
		if (o->mode != OPT_MODE_OFF)
			exit_set_passive();
		return;
	}
	wakers_hooks.program_handler = signal_program_handler;
	unwind_set_own_text((uintptr_t)__ehdr_start, (uintptr_t)etext);
	os_set_clock((clock_fn)dynsym_find_in_vdso("__vdso_clock_gettime"));
	if (o->mode == OPT_MODE_OFF) {
		sample_init(); /* the agent may turn it on */
		return;
	}
	if (exit_is_wanted())
		loader_init();
	survive_init();
	module_refresh();
	thread_init();
	tables_be_thrifty();
	unwind_init();
	if (o->leak != OPT_LEAK_OFF || o->suppressions[0])
		leak_init();
	if (o->escape != OPT_ESCAPE_OFF)
		escape_init();
	if (o->escape != OPT_ESCAPE_OFF && escape_is_on())
		sample_hooks = (struct sample_hooks){ .begin = escape_begin,
						      .begin_one = escape_begin_one,
						      .lg_all = ESCAPE_LG_ALL,
						      .end = escape_end,
						      .resize = escape_resize,
						      .drop = escape_drop };
	sample_init();
}

/* Last: a request may come at once, and uses all the rest. */
static void answer_from_now_on(void)
{
	agent_init(api_is_bound()
			   ? NULL
			   : "the program brings its own malloc: nothing was seen");
	if (!os_is_in_valgrind())
		seep_agent_ready = AGENT_MAGIC;
}
#endif

static void begin(void)
{
	const char *text = os_is_secure() ? NULL : getenv("SEEP_OPTIONS");

	seep_tls.internal++;
	log_remember_stderr();
	opt_init(text);
	if (text && !opt_get()->follow)
		unsetenv("SEEP_OPTIONS"); /* programs that this one starts */
	apply_huge_option();
	foreign_init();
	cxx_init();
	dl_init();
	longjmp_init();
	sandbox_init();
	thread_api_init();
	exit_init();
#if CONFIG_PROFILER
	profiler_init();
#endif
	fork_init();
	leave_init();
	if (exit_is_wanted())
		fatal_init();
	meta_started();
#if CONFIG_PROFILER
	answer_from_now_on();
#endif
	seep_tls.internal--;
}

#define WAIT_SLICE_NS 10000000u

enum stage { STAGE_NONE, STAGE_BUSY, STAGE_DONE };

static uint32_t stage;	 /* enum stage; atomic, futex */
static uint32_t waiting; /* threads; atomic */

/* Has libc's constructor run? Then all that we need of it works. Its main thread is known
 * to nobody else, so the others leave this to it. */
static bool libc_is_ready(void)
{
	return environ && os_gettid() == os_getpid();
}

/* False: somebody is at it. */
static bool begin_once(void)
{
	uint32_t none = STAGE_NONE;

	if (!atomic_cas_acq_rel(&stage, &none, (uint32_t)STAGE_BUSY))
		return none == STAGE_DONE;
	begin();
	atomic_store_release(&heap_begin, (bool (*)(void))NULL);
	atomic_store_release(&stage, (uint32_t)STAGE_DONE);
	/* A filter from before the start may kill for it. */
	if (atomic_load_acquire(&waiting))
		os_futex_wake(&stage, INT32_MAX);
	return true;
}

static bool begin_early(void)
{
	int saved = errno;
	bool done = seep_tls.internal == 0 && libc_is_ready() && begin_once();

	errno = saved;
	return done;
}

/* heap.c's own is NULL, and weak. */
bool (*heap_begin)(void) = begin_early;

__attribute__((constructor)) static void seep_init(void)
{
	while (!begin_once()) { /* another thread is */
		atomic_fetch_add_acq_rel(&waiting, 1u);
		os_futex_wait(&stage, STAGE_BUSY, WAIT_SLICE_NS);
	}
}

__attribute__((destructor)) static void seep_exit(void)
{
	heap_process_exit();
	exit_normally();
}
