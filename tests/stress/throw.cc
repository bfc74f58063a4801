// SPDX-License-Identifier: Apache-2.0
// Frames that catch and throw, with a destructor that captures on the way.
extern "C" {
#include "tests/stress/shapes.h"
}

namespace
{
struct guard {
	struct walker *w;
	~guard()
	{
		int before = w->throwing - 1;

		w->jump = nullptr; // it may be of a frame that is gone
		w->throwing = 0;   // nothing may be thrown here
		w->next(w, 0);
		w->throwing = before;
	}
};

__attribute__((noinline)) void guarded(struct walker *w, int depth)
{
	guard g = { w };

	w->throwing++;
	w->next(w, depth - 1);
}
} // namespace

extern "C" void shape_catch(struct walker *w, int depth)
{
	int before = w->throwing;
	jmp_buf *jump = w->jump;

	w->jump = nullptr; // no longjmp over a destructor
	try {
		guarded(w, depth);
	} catch (int) {
		w->throwing = before;
		w->jump = nullptr;
		w->next(w, depth - 2);
	}
	w->jump = jump;
}

extern "C" void shape_throw(void)
{
	throw 1;
}
