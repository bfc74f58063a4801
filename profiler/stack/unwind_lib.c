/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unwind_lib: libunwind, for frames whose rules need a DWARF expression that our own
 * walker does not know. It is opened privately, never linked: as a NEEDED library its
 * _Unwind_* functions would catch the program's C++ exceptions.
 */
#include <dlfcn.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "profiler/stack/unwind_int.h"

#define MAX_PCS 256

static struct {
	int (*backtrace)(void **pcs, int max); /* unw_backtrace; NULL: no libunwind */
	uint64_t used, failed;		       /* atomic, for statistics */
} lib;

void unwind_lib_open(void)
{
	void *handle = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
	void *fn = handle ? dlsym(handle, "unw_backtrace") : NULL;

	memcpy(&lib.backtrace, &fn, sizeof(fn));
}

/* The buffer is larger than our usual frames; this is the rare fallback. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wframe-larger-than="
int unwind_lib_continue(struct frame *frames, int n, int max)
{
	void *pcs[MAX_PCS];
	int count, i;

	if (!lib.backtrace)
		return -n;
	atomic_add_relaxed(&lib.used, 1u);
	count = lib.backtrace(pcs, MAX_PCS);
	for (i = 0; i < count; i++)
		if ((uintptr_t)pcs[i] == frames[n - 1].pc)
			break;
	if (i + 1 >= count) {
		atomic_add_relaxed(&lib.failed, 1u);
		return -n;
	}
	for (i++; i < count && n < max; i++)
		frames[n++] = (struct frame){ .pc = (uintptr_t)pcs[i] };
	return n;
}
#pragma GCC diagnostic pop
