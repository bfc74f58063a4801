/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cxx: the replaceable C++ operators new and delete, under their mangled names.
 *
 * C cannot throw, so an allocation that fails is handed to the C++ runtime's own
 * operator, found in the program: it calls the new-handler in a loop and throws
 * std::bad_alloc, and its retries come back to our malloc. Only the aligned nothrow forms
 * are finished here near SIZE_MAX, where libstdc++ 12 wraps around.
 */
#include <errno.h>

#include "preload/api/api.h"
#include "preload/base/check.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"

typedef void *(*new_plain)(size_t);
typedef void *(*new_aligned)(size_t, size_t);
typedef void *(*new_nothrow)(size_t, const void *);
typedef void *(*new_aligned_nothrow)(size_t, size_t, const void *);

/* Prototypes: these names are the C++ ABI's. */
void *_Znwm(size_t size);
void *_Znam(size_t size);
void *_ZnwmSt11align_val_t(size_t size, size_t align);
void *_ZnamSt11align_val_t(size_t size, size_t align);
void *_ZnwmRKSt9nothrow_t(size_t size, const void *tag);
void *_ZnamRKSt9nothrow_t(size_t size, const void *tag);
void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t align, const void *tag);
void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t align, const void *tag);
void _ZdlPv(void *p);
void _ZdaPv(void *p);
void _ZdlPvm(void *p, size_t size);
void _ZdaPvm(void *p, size_t size);
void _ZdlPvRKSt9nothrow_t(void *p, const void *tag);
void _ZdaPvRKSt9nothrow_t(void *p, const void *tag);
void _ZdlPvSt11align_val_t(void *p, size_t align);
void _ZdaPvSt11align_val_t(void *p, size_t align);
void _ZdlPvmSt11align_val_t(void *p, size_t size, size_t align);
void _ZdaPvmSt11align_val_t(void *p, size_t size, size_t align);
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *p, size_t align, const void *tag);
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *p, size_t align, const void *tag);

/* The forms that throw have no other way to fail. */
static COLD void *runtime_operator(const char *name)
{
	void *fn = api_next_symbol(name);

	if (!fn)
		fatal("out of memory in operator new, and no C++ runtime to report it");
	return fn;
}

static NOINLINE void *new_slow(size_t size, const char *name)
{
	void *p = heap_malloc_slow(size);

	if (LIKELY(p != NULL))
		return p;
	return ((new_plain)(uintptr_t)runtime_operator(name))(size);
}

/* Rounding size up inside the runtime must not wrap: ask for the largest. */
static size_t without_wrap(size_t size, size_t align)
{
	return size > SIZE_MAX - align ? (size_t)PTRDIFF_MAX + 1 - align : size;
}

static COLD void *new_aligned_failed(size_t size, size_t align, const char *name)
{
	return ((new_aligned)(uintptr_t)runtime_operator(name))(without_wrap(size, align),
								align);
}

static NOINLINE void *new_nothrow_slow(size_t size, const void *tag, const char *name)
{
	void *p = heap_malloc_slow(size);
	new_nothrow fn;

	if (LIKELY(p != NULL))
		return p;
	fn = (new_nothrow)(uintptr_t)api_next_symbol(name);
	return fn ? fn(size, tag) : NULL;
}

static COLD void *new_aligned_nothrow_failed(size_t size, size_t align, const void *tag,
					     const char *name)
{
	new_aligned_nothrow fn = (new_aligned_nothrow)(uintptr_t)api_next_symbol(name);

	return fn ? fn(without_wrap(size, align), align, tag) : NULL;
}

EXPORT void *_Znwm(size_t size)
{
	void *p = heap_malloc_fast(size);

	return LIKELY(p != NULL) ? p : new_slow(size, "_Znwm");
}

EXPORT void *_Znam(size_t size)
{
	void *p = heap_malloc_fast(size);

	return LIKELY(p != NULL) ? p : new_slow(size, "_Znam");
}

EXPORT void *_ZnwmRKSt9nothrow_t(size_t size, const void *tag)
{
	void *p = heap_malloc_fast(size);

	return LIKELY(p != NULL) ? p : new_nothrow_slow(size, tag, "_ZnwmRKSt9nothrow_t");
}

EXPORT void *_ZnamRKSt9nothrow_t(size_t size, const void *tag)
{
	void *p = heap_malloc_fast(size);

	return LIKELY(p != NULL) ? p : new_nothrow_slow(size, tag, "_ZnamRKSt9nothrow_t");
}

static void *aligned(size_t size, size_t align)
{
	return is_pow2(align) ? heap_memalign(align, size) : NULL;
}

EXPORT void *_ZnwmSt11align_val_t(size_t size, size_t align)
{
	void *p = aligned(size, align);

	return LIKELY(p != NULL)
		       ? p
		       : new_aligned_failed(size, align, "_ZnwmSt11align_val_t");
}

EXPORT void *_ZnamSt11align_val_t(size_t size, size_t align)
{
	void *p = aligned(size, align);

	return LIKELY(p != NULL)
		       ? p
		       : new_aligned_failed(size, align, "_ZnamSt11align_val_t");
}

EXPORT void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t align,
						const void *tag)
{
	void *p = aligned(size, align);

	return LIKELY(p != NULL)
		       ? p
		       : new_aligned_nothrow_failed(size, align, tag,
						    "_ZnwmSt11align_val_tRKSt9nothrow_t");
}

EXPORT void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t align,
						const void *tag)
{
	void *p = aligned(size, align);

	return LIKELY(p != NULL)
		       ? p
		       : new_aligned_nothrow_failed(size, align, tag,
						    "_ZnamSt11align_val_tRKSt9nothrow_t");
}

EXPORT void _ZdlPv(void *p)
{
	heap_free(p);
}

EXPORT void _ZdaPv(void *p)
{
	heap_free(p);
}

EXPORT void _ZdlPvm(void *p, size_t size)
{
	(void)size;
	heap_free(p);
}

EXPORT void _ZdaPvm(void *p, size_t size)
{
	(void)size;
	heap_free(p);
}

EXPORT void _ZdlPvRKSt9nothrow_t(void *p, const void *tag)
{
	(void)tag;
	heap_free(p);
}

EXPORT void _ZdaPvRKSt9nothrow_t(void *p, const void *tag)
{
	(void)tag;
	heap_free(p);
}

EXPORT void _ZdlPvSt11align_val_t(void *p, size_t align)
{
	(void)align;
	heap_free(p);
}

EXPORT void _ZdaPvSt11align_val_t(void *p, size_t align)
{
	(void)align;
	heap_free(p);
}

EXPORT void _ZdlPvmSt11align_val_t(void *p, size_t size, size_t align)
{
	(void)size;
	(void)align;
	heap_free(p);
}

EXPORT void _ZdaPvmSt11align_val_t(void *p, size_t size, size_t align)
{
	(void)size;
	(void)align;
	heap_free(p);
}

EXPORT void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *p, size_t align, const void *tag)
{
	(void)align;
	(void)tag;
	heap_free(p);
}

EXPORT void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *p, size_t align, const void *tag)
{
	(void)align;
	(void)tag;
	heap_free(p);
}
