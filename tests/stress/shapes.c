/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of many shapes for the capture test. Built several times with different options,
 * each with a PREFIX of its own: frame pointers or none, no optimization, as a plugin
 * with other frame sizes. Each function makes one frame and goes on with shape_next().
 */
#include "tests/stress/shapes.h"

#include <alloca.h>
#include <setjmp.h>
#include <string.h>

#ifndef FRAME
#define FRAME 48
#endif
#define GLUE2(a, b) a##b
#define GLUE(a, b)  GLUE2(a, b)
#define NAME(name)  GLUE(PREFIX, name)
#define SHAPE(name) \
	static __attribute__((noinline)) void NAME(name)(struct walker * w, int depth)

static volatile int sink;

SHAPE(plain)
{
	w->next(w, depth - 1);
	sink++;
}

SHAPE(locals)
{
	volatile char block[FRAME];

	block[depth % FRAME] = 1;
	w->next(w, depth - 1);
	sink += block[0];
}

/* The bytes are left as they are: old return addresses live on in them. */
SHAPE(stale)
{
	volatile char *p = alloca(16 + (size_t)(w->random >> 8) % 40 * 8);

	p[0] = 1;
	w->next(w, depth - 1);
	sink += p[0];
}

SHAPE(realigned)
{
	volatile char block[64] __attribute__((aligned(64)));
	volatile char *p = alloca(16 + (size_t)(w->random >> 8) % 4 * 16);

	block[3] = p[0] = 2;
	w->next(w, depth - 1);
	sink += block[3] + p[0];
}

static __attribute__((noinline)) int NAME(sum)(struct walker *w, int depth, long a,
					       long b, long c, long d, long e, long f,
					       long g)
{
	w->next(w, depth - 1);
	return (int)(a + b + c + d + e + f + g) + sink;
}

SHAPE(arguments)
{
	sink += NAME(sum)(w, depth, 1, 2, 3, 4, 5, 6, depth);
}

SHAPE(loop)
{
	for (int i = (int)(w->random >> 9) % 3; i >= 0; i--) {
		w->next(w, depth - 1);
		sink++;
	}
}

/* Two calls with the same frame: only the place of the call differs. */
SHAPE(twice)
{
	w->next(w, depth - 2);
	sink++;
	w->next(w, depth - 2);
	sink++;
}

SHAPE(jumped)
{
	jmp_buf *outer = w->jump;
	jmp_buf here;

	if (setjmp(here) == 0) {
		w->jump = &here;
		w->next(w, depth - 1);
		sink++;
	}
	w->jump = outer;
}

SHAPE(recursion)
{
	if (w->levels > 0) {
		w->levels--;
		NAME(recursion)(w, depth);
	} else {
		w->next(w, depth - 1);
	}
	sink++;
}

static shape_fn *const shapes[] = { NAME(plain),     NAME(locals),    NAME(stale),
				    NAME(realigned), NAME(arguments), NAME(loop),
				    NAME(twice),     NAME(jumped),    NAME(recursion) };

shape_fn *NAME(shape)(unsigned i);
shape_fn *NAME(shape)(unsigned i)
{
	return shapes[i % (sizeof(shapes) / sizeof(shapes[0]))];
}
