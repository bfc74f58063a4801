/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lsan: the functions of sanitizer/lsan_interface.h, so that programs with annotations
 * for LeakSanitizer work unchanged. They are declared weak there, so they are found here.
 */
#include "preload/api/api.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/tls.h"

#if CONFIG_PROFILER
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "profiler/leak/leak.h"
#include "profiler/sample/sample.h"

void __lsan_disable(void);
void __lsan_enable(void);
void __lsan_ignore_object(const void *p);
void __lsan_register_root_region(const void *p, size_t size);
void __lsan_unregister_root_region(const void *p, size_t size);
void __lsan_do_leak_check(void);
int __lsan_do_recoverable_leak_check(void);

EXPORT void __lsan_disable(void)
{
	leak_disable();
}

EXPORT void __lsan_enable(void)
{
	leak_enable();
}

EXPORT void __lsan_ignore_object(const void *p)
{
	leak_ignore_object(p);
}

EXPORT void __lsan_register_root_region(const void *p, size_t size)
{
	leak_add_root(p, size);
}

EXPORT void __lsan_unregister_root_region(const void *p, size_t size)
{
	leak_remove_root(p, size);
}

static enum leak_verdict look(bool says)
{
	struct leak_result r = { 0 };

	if (!sample_is_on())
		return LEAK_INCOMPLETE;
	seep_tls.internal++;
	leak_check(&r);
	if (says) {
		leak_print(&r);
		leak_print_verdict(&r);
	}
	leak_result_free(&r);
	seep_tls.internal--;
	return r.verdict;
}

/* 1 when something was lost, 0 when not or when nothing can be told. */
EXPORT int __lsan_do_recoverable_leak_check(void)
{
	return look(true) == LEAK_FOUND;
}

/* fflush(NULL) would wait for a thread that reads or holds a stream. Looked up here, as
 * each symbol that is bound at start costs every program. */
static void write_out(const char *name)
{
	int (*try_lock)(FILE *), (*flush)(FILE *);
	void (*unlock)(FILE *);
	void *found[] = { dlsym(RTLD_DEFAULT, "ftrylockfile"),
			  dlsym(RTLD_DEFAULT, "fflush_unlocked"),
			  dlsym(RTLD_DEFAULT, "funlockfile") };
	FILE **f = dlsym(RTLD_DEFAULT, name);

	if (!f || !found[0] || !found[1] || !found[2])
		return;
	memcpy(&try_lock, &found[0], sizeof(void *));
	memcpy(&flush, &found[1], sizeof(void *));
	memcpy(&unlock, &found[2], sizeof(void *));
	if (try_lock(*f) != 0)
		return;
	flush(*f);
	unlock(*f);
}

/*
 * Works once, and no check follows at the end: so it is documented, and programs use it
 * to look before their destructors let go of things. Where the end is checked, too, that
 * one's report is enough.
 */
EXPORT void __lsan_do_leak_check(void)
{
	const struct exit_cause cause = { .way = EXIT_AT_ONCE };
	enum leak_verdict verdict;

	if (leak_is_final())
		return;
	verdict = look(opt_get()->leak == OPT_LEAK_OFF);
	if (verdict == LEAK_FOUND && leak_exitcode() != 0) {
		write_out("stdout");
		write_out("stderr");
		exit_reports(&cause);
		os_exit_group(leak_exitcode());
	}
	if (verdict == LEAK_CLEAN)
		leak_set_final();
}
#endif
