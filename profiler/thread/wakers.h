/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wakers: what the program has by which a wait could end other than by its word: signal
 * handlers, and the functions that cancel threads.
 */
#ifndef PROFILER_THREAD_WAKERS_H
#define PROFILER_THREAD_WAKERS_H

#include "preload/base/base.h"

enum wakers_handlers {
	WAKERS_NO_HANDLER,
	WAKERS_INTERRUPT, /* ends what is not made again by itself */
	WAKERS_LEAVE	  /* may jump out of any wait, or end the thread */
};

/* Filled once in preload/api/init.c; may be empty. */
struct wakers_hooks {
	/* The program's handler, where the kernel has this one; NULL: it is of Seep's own
	 * and ends no wait of the program's. */
	const void *(*program_handler)(int sig, const void *handler);
};
extern struct wakers_hooks wakers_hooks;

/* In the program, or a copy of it. The worst of the handlers. */
enum wakers_handlers wakers_handlers(void);
/* Does any module name this function of libc's, be it to link to it or for dlsym()?
 * libc: an address in it. */
bool wakers_names(const char *function, uintptr_t libc);

#endif
