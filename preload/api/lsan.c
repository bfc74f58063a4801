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
#include <stdio.h>

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

/* 1 when something was lost, 0 when not or when nothing can be told. */
EXPORT int __lsan_do_recoverable_leak_check(void)
{
	struct leak_result r = { 0 };
	int found;

	if (!sample_is_on())
		return 0;
	seep_tls.internal++;
	leak_check(&r);
	leak_print(&r);
	leak_print_verdict(&r);
	found = r.verdict == LEAK_FOUND;
	leak_result_free(&r);
	seep_tls.internal--;
	return found;
}

EXPORT void __lsan_do_leak_check(void)
{
	if (__lsan_do_recoverable_leak_check()) {
		fflush(NULL);
		os_exit_group(opt_get()->exitcode);
	}
}
#endif
