/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base: words that every file uses. The section tags (FAST, SLOW, STW, SIGNAL, INIT,
 * DUMP) that open many comments say what a function may do; they are defined in
 * preload/base/README.md.
 */
#ifndef PRELOAD_BASE_BASE_H
#define PRELOAD_BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIKELY(x)     __builtin_expect(!!(x), 1)
#define UNLIKELY(x)   __builtin_expect(!!(x), 0)
#define NOINLINE      __attribute__((noinline))
#define COLD	      __attribute__((noinline, cold))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define EXPORT	      __attribute__((visibility("default")))
#define HIDDEN	      __attribute__((visibility("hidden")))
/* The compiler must not know that i is what it was: else it forms the address of an
 * array's element apart, an instruction more, instead of using the addressing mode each
 * time. */
#define FORGET(i) __asm__("" : "+r"(i))
/* i is in a register or on the stack up to here. */
#define KEEP(i)	     __asm__ volatile("" : : "r"(i))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))
#define UNUSED	     __attribute__((unused))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

__extension__ typedef unsigned __int128 uint128;

#define KIB	   ((size_t)1 << 10)
#define MIB	   ((size_t)1 << 20)
#define GIB	   ((size_t)1 << 30)

#define OS_PAGE	   ((size_t)4096) /* the kernel's page on x86-64 */
#define CACHE_LINE 64

/* FAST. align is a power of two; the caller has excluded overflow. */
static inline uintptr_t align_up(uintptr_t value, uintptr_t align)
{
	return (value + align - 1) & ~(align - 1);
}

static inline uintptr_t align_down(uintptr_t value, uintptr_t align)
{
	return value & ~(align - 1);
}

static inline bool is_pow2(uintptr_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

#endif
