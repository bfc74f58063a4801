/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seep.h: for programs that want to talk to Seep when it is preloaded. Nothing need be
 * linked: the functions below do what they say with Seep, and nothing without it. For C
 * and C++.
 *
 *   seep_leak_disable();
 *   cache = make_cache();      // what is allocated here is never reported as lost
 *   seep_leak_enable();
 *
 *   if (seep_leak_check() == SEEP_LEAK)
 *           ...                // the report is on stderr
 */
#ifndef SEEP_H
#define SEEP_H

#include <stddef.h>

#define SEEP_CLEAN	0
#define SEEP_LEAK	1
#define SEEP_INCOMPLETE 2  /* the check could not be completed; stderr says why */
#define SEEP_ABSENT	-1 /* Seep is not loaded, or has no profiler */

#ifdef __cplusplus
extern "C" {
#endif

/* Of libseep.so; NULL without it. Use the functions below. */
__attribute__((weak)) int seep_api_leak_check(void);
__attribute__((weak)) int seep_api_leak_check_new(void);
__attribute__((weak)) void seep_api_leak_disable(void);
__attribute__((weak)) void seep_api_leak_enable(void);
__attribute__((weak)) void seep_api_leak_ignore(const void *p);
__attribute__((weak)) void seep_api_root_add(const void *p, size_t size);
__attribute__((weak)) void seep_api_root_remove(const void *p, size_t size);

/* Is Seep loaded? */
static inline int seep_is_loaded(void)
{
	return seep_api_leak_check != NULL;
}

/* Looks for leaks now, while the program runs, and reports on stderr. SEEP_CLEAN,
 * SEEP_LEAK, SEEP_INCOMPLETE or SEEP_ABSENT. */
static inline int seep_leak_check(void)
{
	return seep_api_leak_check ? seep_api_leak_check() : SEEP_ABSENT;
}

/* The same, but SEEP_LEAK only when something was lost since the last check. */
static inline int seep_leak_check_new(void)
{
	return seep_api_leak_check_new ? seep_api_leak_check_new() : SEEP_ABSENT;
}

/* What the calling thread allocates between the two is not reported. Nestable. */
static inline void seep_leak_disable(void)
{
	if (seep_api_leak_disable)
		seep_api_leak_disable();
}

static inline void seep_leak_enable(void)
{
	if (seep_api_leak_enable)
		seep_api_leak_enable();
}

/* Neither this object, nor what it alone holds, is reported. Returns p. */
static inline const void *seep_leak_ignore(const void *p)
{
	if (seep_api_leak_ignore)
		seep_api_leak_ignore(p);
	return p;
}

/* Pointers stand in [p, p + size), which a check would not look at by itself: memory
 * that is read-only, or a device's. It must stay readable until it is removed. */
static inline void seep_root_add(const void *p, size_t size)
{
	if (seep_api_root_add)
		seep_api_root_add(p, size);
}

static inline void seep_root_remove(const void *p, size_t size)
{
	if (seep_api_root_remove)
		seep_api_root_remove(p, size);
}

#ifdef __cplusplus
}
#endif

#endif
