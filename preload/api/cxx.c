/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cxx: the replaceable C++ operators new and delete, under their mangled names.
 *
 * C cannot throw, so an allocation that fails is handed to the C++ runtime's own
 * operator, found in the program: it calls the new-handler in a loop and throws
 * std::bad_alloc, and its retries come back to our malloc. Only the aligned nothrow forms
 * are finished here near SIZE_MAX, where libstdc++ 12 wraps around.
 *
 * A program may replace some of the operators and leave out others. These must then call
 * the program's, as the C++ runtime's do: what its operator new gives need be no block of
 * ours, and its operator delete may not take one. So each form that the standard
 * describes by another one asks first.
 */
#include <dlfcn.h>
#include <errno.h>

#include "preload/api/api.h"
#include "preload/base/atomic.h"
#include "preload/base/check.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"

typedef void *(*new_plain)(size_t);
typedef void *(*new_aligned)(size_t, size_t);
typedef void *(*new_nothrow)(size_t, const void *);
typedef void *(*new_aligned_nothrow)(size_t, size_t, const void *);
typedef void (*delete_plain)(void *);
typedef void (*delete_aligned)(void *, size_t);

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

/* Of every C++ runtime, and of no other. */
#pragma weak __gxx_personality_v0
extern const char __gxx_personality_v0[];

/* The linker's: our first byte, and the end of our code. */
HIDDEN extern const char __ehdr_start[];
HIDDEN extern const char etext[];

/* The forms by which the others are described, as the process has them. */
static struct {
	new_plain make, make_array;
	new_aligned make_aligned, make_array_aligned;
	delete_plain give, give_array;
	delete_aligned give_aligned, give_array_aligned;
} bound;

static bool replaced; /* atomic: one of them is not ours */

static uintptr_t bind(const char *name)
{
	uintptr_t fn = (uintptr_t)dlsym(RTLD_DEFAULT, name);

	if (fn - (uintptr_t)__ehdr_start >= (uintptr_t)(etext - __ehdr_start))
		atomic_store_relaxed(&replaced, true);
	return fn;
}

void cxx_init(void)
{
	if (!__gxx_personality_v0)
		return;
	bound.make = (new_plain)bind("_Znwm");
	bound.make_array = (new_plain)bind("_Znam");
	bound.make_aligned = (new_aligned)bind("_ZnwmSt11align_val_t");
	bound.make_array_aligned = (new_aligned)bind("_ZnamSt11align_val_t");
	bound.give = (delete_plain)bind("_ZdlPv");
	bound.give_array = (delete_plain)bind("_ZdaPv");
	bound.give_aligned = (delete_aligned)bind("_ZdlPvSt11align_val_t");
	bound.give_array_aligned = (delete_aligned)bind("_ZdaPvSt11align_val_t");
}

static inline bool is_replaced(void)
{
	return UNLIKELY(atomic_load_relaxed(&replaced));
}

static void *runtime_form(void **slot, const char *name)
{
	void *fn = atomic_load_relaxed(slot);

	if (!fn) {
		fn = api_next_symbol(name);
		atomic_store_relaxed(slot, fn);
	}
	return fn;
}

/* What operator new throws must be caught: the runtime's own forms do. Where there is no
 * runtime, nothing is thrown. */
static COLD void *replaced_nothrow(size_t size, const void *tag, const char *name,
				   void **slot, new_plain without)
{
	new_nothrow fn = (new_nothrow)(uintptr_t)runtime_form(slot, name);

	return fn ? fn(size, tag) : without(size);
}

static COLD void *replaced_aligned_nothrow(size_t size, size_t align, const void *tag,
					   const char *name, void **slot,
					   new_aligned without)
{
	new_aligned_nothrow fn = (new_aligned_nothrow)(uintptr_t)runtime_form(slot, name);

	return fn ? fn(size, align, tag) : without(size, align);
}

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
	void *p;

	if (is_replaced())
		return bound.make(size);
	p = heap_malloc_fast(size);
	return LIKELY(p != NULL) ? p : new_slow(size, "_Znam");
}

EXPORT void *_ZnwmRKSt9nothrow_t(size_t size, const void *tag)
{
	static void *runtimes;
	void *p;

	if (is_replaced())
		return replaced_nothrow(size, tag, "_ZnwmRKSt9nothrow_t", &runtimes,
					bound.make);
	p = heap_malloc_fast(size);
	return LIKELY(p != NULL) ? p : new_nothrow_slow(size, tag, "_ZnwmRKSt9nothrow_t");
}

EXPORT void *_ZnamRKSt9nothrow_t(size_t size, const void *tag)
{
	static void *runtimes;
	void *p;

	if (is_replaced())
		return replaced_nothrow(size, tag, "_ZnamRKSt9nothrow_t", &runtimes,
					bound.make_array);
	p = heap_malloc_fast(size);
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
	void *p;

	if (is_replaced())
		return bound.make_aligned(size, align);
	p = aligned(size, align);
	return LIKELY(p != NULL)
		       ? p
		       : new_aligned_failed(size, align, "_ZnamSt11align_val_t");
}

EXPORT void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t align,
						const void *tag)
{
	static void *runtimes;
	void *p;

	if (is_replaced())
		return replaced_aligned_nothrow(size, align, tag,
						"_ZnwmSt11align_val_tRKSt9nothrow_t",
						&runtimes, bound.make_aligned);
	p = aligned(size, align);
	return LIKELY(p != NULL)
		       ? p
		       : new_aligned_nothrow_failed(size, align, tag,
						    "_ZnwmSt11align_val_tRKSt9nothrow_t");
}

EXPORT void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t align,
						const void *tag)
{
	static void *runtimes;
	void *p;

	if (is_replaced())
		return replaced_aligned_nothrow(size, align, tag,
						"_ZnamSt11align_val_tRKSt9nothrow_t",
						&runtimes, bound.make_array_aligned);
	p = aligned(size, align);
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
	if (is_replaced())
		bound.give(p);
	else
		heap_free(p);
}

EXPORT void _ZdlPvm(void *p, size_t size)
{
	(void)size;
	if (is_replaced())
		bound.give(p);
	else
		heap_free(p);
}

EXPORT void _ZdaPvm(void *p, size_t size)
{
	(void)size;
	if (is_replaced())
		bound.give_array(p);
	else
		heap_free(p);
}

EXPORT void _ZdlPvRKSt9nothrow_t(void *p, const void *tag)
{
	(void)tag;
	if (is_replaced())
		bound.give(p);
	else
		heap_free(p);
}

EXPORT void _ZdaPvRKSt9nothrow_t(void *p, const void *tag)
{
	(void)tag;
	if (is_replaced())
		bound.give_array(p);
	else
		heap_free(p);
}

EXPORT void _ZdlPvSt11align_val_t(void *p, size_t align)
{
	(void)align;
	heap_free(p);
}

EXPORT void _ZdaPvSt11align_val_t(void *p, size_t align)
{
	if (is_replaced())
		bound.give_aligned(p, align);
	else
		heap_free(p);
}

EXPORT void _ZdlPvmSt11align_val_t(void *p, size_t size, size_t align)
{
	(void)size;
	if (is_replaced())
		bound.give_aligned(p, align);
	else
		heap_free(p);
}

EXPORT void _ZdaPvmSt11align_val_t(void *p, size_t size, size_t align)
{
	(void)size;
	if (is_replaced())
		bound.give_array_aligned(p, align);
	else
		heap_free(p);
}

EXPORT void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *p, size_t align, const void *tag)
{
	(void)tag;
	if (is_replaced())
		bound.give_aligned(p, align);
	else
		heap_free(p);
}

EXPORT void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *p, size_t align, const void *tag)
{
	(void)tag;
	if (is_replaced())
		bound.give_array_aligned(p, align);
	else
		heap_free(p);
}
