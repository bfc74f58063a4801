/* SPDX-License-Identifier: Apache-2.0 */
/*
 * public: what seep.h calls, where Seep is loaded.
 */
#include "preload/api/seep.h"

#include "preload/api/api.h"

#if CONFIG_PROFILER
#include "preload/heap/tls.h"
#include "profiler/leak/leak.h"
#include "profiler/sample/sample.h"

static int check(bool only_new)
{
	static const int codes[] = { [LEAK_CLEAN] = SEEP_CLEAN,
				     [LEAK_FOUND] = SEEP_LEAK,
				     [LEAK_INCOMPLETE] = SEEP_INCOMPLETE };
	struct leak_result r = { 0 };
	int code;

	if (!sample_is_on())
		return SEEP_ABSENT;
	seep_tls.internal++;
	leak_check(&r);
	leak_print(&r);
	leak_print_verdict(&r);
	code = codes[r.verdict];
	if (code == SEEP_LEAK && only_new && r.new_objects == 0)
		code = SEEP_CLEAN;
	leak_result_free(&r);
	seep_tls.internal--;
	return code;
}

EXPORT int seep_api_leak_check(void)
{
	return check(false);
}

EXPORT int seep_api_leak_check_new(void)
{
	return check(true);
}

EXPORT void seep_api_leak_disable(void)
{
	leak_disable();
}

EXPORT void seep_api_leak_enable(void)
{
	leak_enable();
}

EXPORT void seep_api_leak_ignore(const void *p)
{
	leak_ignore_object(p);
}

EXPORT void seep_api_root_add(const void *p, size_t size)
{
	leak_add_root(p, size);
}

EXPORT void seep_api_root_remove(const void *p, size_t size)
{
	leak_remove_root(p, size);
}
#endif
