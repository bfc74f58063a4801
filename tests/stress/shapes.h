/* SPDX-License-Identifier: Apache-2.0 */
/* What the capture test and its shapes share. */
#ifndef TESTS_STRESS_SHAPES_H
#define TESTS_STRESS_SHAPES_H

#include <setjmp.h>
#include <stdint.h>

struct walker;
typedef void shape_fn(struct walker *w, int depth);

struct walker {
	shape_fn *next;	  /* goes on with some shape, or captures */
	uint32_t random;  /* drawn anew by next */
	int levels;	  /* of recursion that are left */
	jmp_buf *jump;	  /* where a longjmp may go; NULL: nowhere */
	int throwing;	  /* handlers of C++ exceptions around us */
	int on_signal;	  /* in a signal handler */
	void *routine;	  /* the coroutine we run in */
	shape_fn *plugin; /* a function of the loaded plugin */
	int plain;	  /* only frames of constant size, without frame pointers */
	uint32_t noise;	  /* changes random now and then */
};

/* throw.cc */
void shape_catch(struct walker *w, int depth);
void shape_throw(void) __attribute__((noreturn));

#endif
