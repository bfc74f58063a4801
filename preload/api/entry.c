/* SPDX-License-Identifier: Apache-2.0 */
/*
 * entry: the malloc family as programs see it, with glibc 2.36's semantics.
 *
 * Each function is a thin layer over preload/heap: it checks arguments as glibc does and
 * sets errno on failure; on success and in free() errno keeps its value (the layers below
 * make raw system calls only). C23's sized frees and the historical aliases are here too.
 */
#include <errno.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "preload/api/api.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/sizeclass.h"

#define ZERO_INLINE 128 /* bytes; above, memset is faster than a loop */

static COLD void *out_of_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

static NOINLINE void *malloc_slow(size_t size)
{
	void *p = heap_malloc_slow(size);

	return LIKELY(p != NULL) ? p : out_of_memory();
}

static NOINLINE void *malloc_large_slow(size_t size)
{
	void *p = heap_malloc_large_slow(size);

	return LIKELY(p != NULL) ? p : out_of_memory();
}

static NOINLINE void *malloc_large(size_t size)
{
	struct mcache *mc = mcache_self();
	struct mspan *s = mcache_take_large(mc, size);

	return LIKELY(s != NULL) ? mcache_give_large(mc, s, size)
				 : malloc_large_slow(size);
}

EXPORT void *malloc(size_t size)
{
	void *p = heap_malloc_fast(size);

	if (LIKELY(p != NULL))
		return p;
	return size > SIZECLASS_MAX_SIZE ? malloc_large(size) : malloc_slow(size);
}

/* At the beginning of a cache line, and malloc, which lies before it, so that both have
 * few branches at the ends of such: elsewhere a pair takes 7 to 9 % longer, by no more
 * than where they lie. */
EXPORT __attribute__((aligned(64))) void free(void *p)
{
	heap_free(p);
}

static NOINLINE void *calloc_slow(size_t bytes, size_t count)
{
	void *p;

	mcache_note_argument(count);
	p = heap_calloc_slow(bytes);
	mcache_note_argument(0);
	return LIKELY(p != NULL) ? p : out_of_memory();
}

/* Zeroes the slot for so many bytes, all that malloc_usable_size() grants. Small ones are
 * the next multiple of 16 long. */
static void *zero_slot(void *p, size_t bytes)
{
	typedef long long sixteen __attribute__((vector_size(16)));
	sixteen *at = p;
	size_t done = 0;

	if (bytes > ZERO_INLINE)
		return memset(p, 0, sizeclass_info[sizeclass_of(bytes)].slot_size);
	do { /* also for 0 bytes */
		*at++ = (sixteen){ 0 };
		__asm__("" : "+r"(at)); /* or gcc makes it a rep stos: slow to start */
		done += sizeof(*at);
	} while (done < bytes);
	return p;
}

EXPORT void *calloc(size_t count, size_t size)
{
	size_t bytes;
	void *p;

	if (UNLIKELY(__builtin_mul_overflow(count, size, &bytes)))
		return out_of_memory();
	p = heap_malloc_fast(bytes);
	return LIKELY(p != NULL) ? zero_slot(p, bytes) : calloc_slow(bytes, count);
}

EXPORT void *realloc(void *p, size_t size)
{
	void *fresh;

	if (!p)
		return malloc(size);
	if (size == 0) { /* glibc: frees */
		heap_free(p);
		return NULL;
	}
	fresh = heap_realloc(p, size);
	if (UNLIKELY(!fresh))
		return out_of_memory();
	return fresh;
}

EXPORT void *reallocarray(void *p, size_t count, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(count, size, &bytes))
		return out_of_memory();
	mcache_note_argument(count);
	p = realloc(p, bytes);
	mcache_note_argument(0);
	return p;
}

/* align is rounded up to a power of two by glibc's memalign. */
EXPORT void *memalign(size_t align, size_t size)
{
	void *p;

	if (align > (size_t)PTRDIFF_MAX + 1) {
		errno = EINVAL;
		return NULL;
	}
	if (!is_pow2(align))
		align = align < 2 ? 1 : (size_t)1 << (64 - __builtin_clzl(align));
	p = heap_memalign(align, size);
	return p ? p : out_of_memory();
}

EXPORT int posix_memalign(void **out, size_t align, size_t size)
{
	void *p;

	if (!is_pow2(align) || align % sizeof(void *) != 0)
		return EINVAL;
	p = heap_memalign(align, size);
	if (!p) {
		/* Of itself it leaves errno alone, but in glibc's the system call that
		 * failed does not, and programs look there. */
		if (size <= PTRDIFF_MAX)
			errno = ENOMEM;
		return ENOMEM;
	}
	*out = p;
	return 0;
}

/* As newer C libraries do: no power of two is an error; size need be no multiple. */
EXPORT void *aligned_alloc(size_t align, size_t size)
{
	void *p;

	if (!is_pow2(align)) {
		errno = EINVAL;
		return NULL;
	}
	p = heap_memalign(align, size);
	return p ? p : out_of_memory();
}

EXPORT void *valloc(size_t size)
{
	return memalign(OS_PAGE, size);
}

EXPORT void *pvalloc(size_t size)
{
	size_t bytes;

	if (__builtin_add_overflow(size, OS_PAGE - 1, &bytes))
		return out_of_memory();
	return memalign(OS_PAGE, align_down(bytes, OS_PAGE));
}

EXPORT size_t malloc_usable_size(void *p)
{
	return heap_usable_size(p);
}

EXPORT void free_sized(void *p, size_t size)
{
	(void)size;
	heap_free(p);
}

EXPORT void free_aligned_sized(void *p, size_t align, size_t size)
{
	(void)align;
	(void)size;
	heap_free(p);
}

#define ALIAS(name)	   __attribute__((alias(#name), visibility("default"), copy(name)))
#define HIDDEN_ALIAS(name) __attribute__((alias(#name), visibility("hidden"), copy(name)))
/* clang 14 has no copy attribute; it does not need it either. */
#if defined(__clang__)
#undef ALIAS
#undef HIDDEN_ALIAS
#define ALIAS(name)	   __attribute__((alias(#name), visibility("default")))
#define HIDDEN_ALIAS(name) __attribute__((alias(#name), visibility("hidden")))
#endif

/* Ours under a name that no program can take. */
void *api_own_malloc(size_t size) HIDDEN_ALIAS(malloc);

void cfree(void *p) ALIAS(free);
void *__libc_malloc(size_t size) ALIAS(malloc);
void __libc_free(void *p) ALIAS(free);
void *__libc_calloc(size_t count, size_t size) ALIAS(calloc);
void *__libc_realloc(void *p, size_t size) ALIAS(realloc);
void *__libc_reallocarray(void *p, size_t count, size_t size) ALIAS(reallocarray);
void *__libc_memalign(size_t align, size_t size) ALIAS(memalign);
void *__libc_valloc(size_t size) ALIAS(valloc);
void *__libc_pvalloc(size_t size) ALIAS(pvalloc);
int __posix_memalign(void **out, size_t align, size_t size) ALIAS(posix_memalign);
