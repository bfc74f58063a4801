/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn: the lengths of x86-64 instructions, and where they lead: as much of a decoder as
 * it takes to follow a function's calls. What it does not know it says so of.
 */
#ifndef PROFILER_THREAD_INSN_H
#define PROFILER_THREAD_INSN_H

#include "preload/base/base.h"

enum insn_kind {
	INSN_PLAIN,	/* goes on behind it, or returns */
	INSN_BRANCH,	/* jump or call to target */
	INSN_THROUGH,	/* jump or call to what the word at target holds */
	INSN_NAMES,	/* target is an address that it computes or holds */
	INSN_ELSEWHERE, /* leads where cannot be known; a system call */
};

struct insn {
	enum insn_kind kind;
	uint32_t size; /* bytes */
	uintptr_t target;
};

/* SIGNAL. The instruction at p, which ends before end. False: not a known one. */
bool insn_decode(const uint8_t *p, const uint8_t *end, struct insn *out);

#endif
