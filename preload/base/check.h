/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: assertions in three levels and the one way to die. CHECK is always on and cheap,
 * ASSERT is for debug builds, ASSERT_SLOW walks data structures.
 */
#ifndef PRELOAD_BASE_CHECK_H
#define PRELOAD_BASE_CHECK_H

#include <stdarg.h>

#include "preload/base/base.h"

#ifndef CONFIG_ASSERTIONS
#define CONFIG_ASSERTIONS 0 /* 0 off, 1 debug, 2 slow; set by the build option */
#endif

/* Prints one line "seep: TEXT" to stderr and aborts. SIGNAL. For faults of the caller
 * (double free and the like) and for broken invariants of ours. */
void fatal(const char *format, ...) __attribute__((noreturn, cold)) PRINTF(1, 2);
/* The line alone. SIGNAL. */
void fatal_line(const char *format, va_list ap) __attribute__((cold)) PRINTF(1, 0);

#define CHECK(cond)                                                                      \
	do {                                                                             \
		if (UNLIKELY(!(cond)))                                                   \
			fatal("internal error: %s at %s:%d", #cond, __FILE__, __LINE__); \
	} while (0)
#define ASSERT(cond)                        \
	do {                                \
		if (CONFIG_ASSERTIONS >= 1) \
			CHECK(cond);        \
	} while (0)
#define ASSERT_SLOW(cond)                   \
	do {                                \
		if (CONFIG_ASSERTIONS >= 2) \
			CHECK(cond);        \
	} while (0)

#endif
