/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn: see insn.h. Maps of opcodes, as bits: which have a ModRM byte, and which an
 * immediate of one byte, or of four (two with the prefix 66).
 */
#include "profiler/thread/insn.h"

#include <string.h>

#define LONGEST 15 /* bytes of an instruction */

/* Of 16 opcodes each, the lowest bit is that of x0. */
static const uint16_t modrm_one[16] = { 0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0, 0,
					0x0a08, 0,	0xfffb, 0,	0, 0,
					0x00c3, 0xff0f, 0,	0xc0c0 };
static const uint16_t byte_one[16] = { 0x1010, 0x1010, 0x1010, 0x1010, 0,      0,
				       0x0c00, 0xffff, 0x0009, 0,      0x0100, 0x00ff,
				       0x0043, 0,      0x08ff, 0 };
static const uint16_t four_one[16] = { 0x2020, 0x2020, 0x2020, 0x2020, 0,      0,
				       0x0300, 0,      0x0002, 0,      0x0200, 0,
				       0x0080, 0,      0x0300, 0 };
static const uint16_t unknown_one[16] = { 0xc0c0, 0xc0c0, 0x8080, 0x8080, 0, 0,
					  0x0003, 0,	  0x0004, 0x0400, 0, 0,
					  0x4000, 0x0070, 0x0400, 0 };
static const uint16_t modrm_two[16] = { 0x200f, 0xffff, 0xffff, 0x0000, 0xffff, 0xffff,
					0xffff, 0xff7f, 0x0000, 0xffff, 0xf8f8, 0xffff,
					0x00ff, 0xffff, 0xffff, 0xffff };
static const uint16_t byte_two[16] = { 0, 0, 0,	     0,	     0,	     0, 0, 0x000f,
				       0, 0, 0x1010, 0x0400, 0x0074, 0, 0, 0 };
static const uint16_t unknown_two[16] = { 0x9410, 0, 0x00f0, 0xff00, 0, 0, 0, 0,
					  0,	  0, 0,	     0,	     0, 0, 0, 0 };

struct reader {
	const uint8_t *p, *end;
	bool bad;
	bool narrow, wide;  /* prefix 66; REX.W */
	bool short_address; /* prefix 67 */
	bool relative;	    /* to the instruction's end, by displacement */
	int32_t displacement;
	uint8_t modrm;
};

static bool in(const uint16_t map[16], uint8_t op)
{
	return map[op >> 4] >> (op & 15) & 1;
}

static uint8_t next(struct reader *r)
{
	if (r->p < r->end)
		return *r->p++;
	r->bad = true;
	return 0;
}

static int64_t number(struct reader *r, size_t size)
{
	int32_t four = 0;
	int64_t eight = 0;

	if ((size_t)(r->end - r->p) < size) {
		r->bad = true;
		return 0;
	}
	if (size == 8)
		memcpy(&eight, r->p, size);
	else if (size == 1)
		eight = (int8_t)*r->p;
	else if (size == 4) {
		memcpy(&four, r->p, size);
		eight = four;
	}
	r->p += size;
	return eight;
}

static void read_modrm(struct reader *r)
{
	uint8_t mod, rm, base;

	r->modrm = next(r);
	mod = r->modrm >> 6;
	rm = r->modrm & 7;
	if (mod == 3)
		return;
	base = rm == 4 ? next(r) & 7 : rm;
	r->relative = mod == 0 && rm == 5 && !r->short_address;
	if (mod == 1)
		number(r, 1);
	else if (mod == 2 || (mod == 0 && base == 5))
		r->displacement = (int32_t)number(r, 4);
}

/* Maps 1 to 3 are those of 0f, 0f 38 and 0f 3a. */
static void read_vector(struct reader *r, unsigned map)
{
	uint8_t op = next(r);

	if (map < 1 || map > 3) {
		r->bad = true;
		return;
	}
	if (map == 1 && op == 0x77)
		return;
	read_modrm(r);
	if (map == 3 || (map == 1 && in(byte_two, op)))
		number(r, 1);
}

static bool is_vector(struct reader *r, uint8_t op)
{
	uint8_t first;

	if (op != 0xc4 && op != 0xc5 && op != 0x62)
		return false;
	first = next(r);
	if (op == 0xc5) {
		read_vector(r, 1);
		return true;
	}
	next(r);
	if (op == 0x62)
		next(r);
	read_vector(r, op == 0x62 ? first & 7 : first & 31);
	return true;
}

static void branch(struct reader *r, struct insn *out, size_t size)
{
	intptr_t by = number(r, size);

	out->kind = INSN_BRANCH;
	out->target = (uintptr_t)r->p + (uintptr_t)by;
	r->bad |= r->narrow; /* processors do not agree */
}

static void read_two(struct reader *r, struct insn *out)
{
	uint8_t op = next(r);

	if (op == 0x38 || op == 0x3a) {
		next(r);
		read_modrm(r);
		if (op == 0x3a)
			number(r, 1);
		return;
	}
	r->bad |= in(unknown_two, op);
	if (op >> 4 == 8)
		branch(r, out, 4);
	if (op == 0x05 || op == 0x07 || op == 0x34 || op == 0x35)
		out->kind = INSN_ELSEWHERE;
	if (in(modrm_two, op))
		read_modrm(r);
	if (in(byte_two, op))
		number(r, 1);
}

static void see_group(struct reader *r, struct insn *out, uint8_t op)
{
	const unsigned which = r->modrm >> 3 & 7;

	if (op == 0xf6 && which < 2)
		number(r, 1);
	if (op == 0xf7 && which < 2)
		number(r, r->narrow ? 2 : 4);
	if (op == 0x8f && which != 0)
		r->bad = true;
	if (op == 0xff && which >= 2 && which <= 5)
		out->kind = r->relative && which % 2 == 0 ? INSN_THROUGH : INSN_ELSEWHERE;
	if (op == 0xff && which == 7)
		r->bad = true;
}

static void read_immediate(struct reader *r, struct insn *out, uint8_t op)
{
	const size_t word = r->narrow ? 2 : 4;
	int64_t value = 0;

	if (op >> 3 == 0xb8 >> 3)
		value = number(r, r->wide ? 8 : word);
	else if (op >= 0xa0 && op <= 0xa3)
		number(r, r->short_address ? 4 : 8);
	else if (op == 0xc2 || op == 0xca)
		number(r, 2);
	else if (op == 0xc8)
		number(r, 3);
	else if (in(byte_one, op))
		number(r, 1);
	else if (in(four_one, op))
		value = number(r, word);
	if (value && out->kind == INSN_PLAIN) {
		out->kind = INSN_NAMES;
		out->target = (uintptr_t)value;
	}
}

static void read_one(struct reader *r, struct insn *out, uint8_t op)
{
	r->bad |= in(unknown_one, op);
	if (op == 0xe8 || op == 0xe9) {
		branch(r, out, 4);
		return;
	}
	if (op >> 4 == 7 || op == 0xeb || (op >= 0xe0 && op <= 0xe3)) {
		branch(r, out, 1);
		return;
	}
	/* far returns, int, iret */
	if (op == 0xca || op == 0xcb || op == 0xcd || op == 0xcf)
		out->kind = INSN_ELSEWHERE;
	if (in(modrm_one, op)) {
		read_modrm(r);
		see_group(r, out, op);
	}
	read_immediate(r, out, op);
}

static uint8_t read_prefixes(struct reader *r)
{
	uint8_t op = next(r);

	for (; !r->bad; op = next(r)) {
		if (op == 0x66)
			r->narrow = true;
		else if (op == 0x67)
			r->short_address = true;
		else if (op != 0xf0 && op != 0xf2 && op != 0xf3 && op != 0x2e &&
			 op != 0x36 && op != 0x3e && op != 0x26 && op != 0x64 &&
			 op != 0x65)
			break;
	}
	if (op >> 4 != 4)
		return op;
	r->wide = op & 8;
	return next(r);
}

bool insn_decode(const uint8_t *p, const uint8_t *end, struct insn *out)
{
	struct reader r = { .p = p, .end = end - p > LONGEST ? p + LONGEST : end };
	uint8_t op = read_prefixes(&r);

	*out = (struct insn){ INSN_PLAIN, 0, 0 };
	if (op == 0x0f)
		read_two(&r, out);
	else if (!is_vector(&r, op))
		read_one(&r, out, op);
	out->size = (uint32_t)(r.p - p);
	if (r.relative) {
		out->target = (uintptr_t)r.p + (uintptr_t)(intptr_t)r.displacement;
		if (out->kind == INSN_PLAIN)
			out->kind = INSN_NAMES;
	}
	return !r.bad;
}
