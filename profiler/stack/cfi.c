/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cfi: from a pc to its row, see cfi.h.
 *
 * .eh_frame_hdr holds a sorted table of (function start, FDE); the FDE names its CIE.
 * Both carry programs that build the row: the CIE's sets the rules at the function's
 * start, the FDE's are run up to the pc. Only the rules of the CFA, rbp and the return
 * address matter.
 */
#include "profiler/stack/cfi.h"

#include <string.h>

#include "profiler/stack/cfi_int.h"
#include "profiler/stack/module.h"

/* Pointer encodings (LSB core, exception frames). */
#define PE_OMIT	    0xff
#define PE_PCREL    0x10
#define PE_DATAREL  0x30
#define PE_SDATA4   0x0b
#define STATE_DEPTH 6 /* nested remember_state; gcc and clang use one */

enum rule { RULE_SAME, RULE_OFFSET, RULE_RBP_OFFSET, RULE_UNDEFINED, RULE_OTHER };

struct state {
	uint8_t cfa_kind; /* enum cfi_kind */
	uint8_t cfa_reg;
	uint8_t rbp_rule, ra_rule; /* enum rule */
	int32_t cfa_offset, rbp_offset, ra_offset;
};

uint8_t cfi_u8(struct cfi_reader *r)
{
	if (r->p >= r->end) {
		r->bad = true;
		return 0;
	}
	return *r->p++;
}

uint64_t cfi_fixed(struct cfi_reader *r, size_t size)
{
	uint64_t v = 0;

	if ((size_t)(r->end - r->p) < size) {
		r->bad = true;
		return 0;
	}
	memcpy(&v, r->p, size);
	r->p += size;
	return v;
}

uint64_t cfi_uleb(struct cfi_reader *r)
{
	uint64_t v = 0;
	unsigned shift = 0;
	uint8_t b;

	do {
		b = cfi_u8(r);
		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		shift += 7;
	} while ((b & 0x80) && !r->bad);
	return v;
}

int64_t cfi_sleb(struct cfi_reader *r)
{
	uint64_t v = 0;
	unsigned shift = 0;
	uint8_t b;

	do {
		b = cfi_u8(r);
		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		shift += 7;
	} while ((b & 0x80) && !r->bad);
	if ((b & 0x40) && shift < 64)
		v |= ~(uint64_t)0 << shift;
	return (int64_t)v;
}

uintptr_t cfi_encoded(struct cfi_reader *r, uint8_t enc, uintptr_t data_base)
{
	uintptr_t at = (uintptr_t)r->p;
	uintptr_t v;

	switch (enc & 0x0f) {
	case 0x00:
	case 0x04:
	case 0x0c:
		v = cfi_fixed(r, 8);
		break;
	case 0x02:
		v = cfi_fixed(r, 2);
		break;
	case 0x03:
		v = cfi_fixed(r, 4);
		break;
	case 0x0a:
		v = (uintptr_t)(int64_t)(int16_t)cfi_fixed(r, 2);
		break;
	case 0x0b:
		v = (uintptr_t)(int64_t)(int32_t)cfi_fixed(r, 4);
		break;
	case 0x01:
		v = cfi_uleb(r);
		break;
	case 0x09:
		v = (uintptr_t)cfi_sleb(r);
		break;
	default:
		r->bad = true;
		return 0;
	}
	if ((enc & 0x70) == PE_PCREL)
		v += at;
	else if ((enc & 0x70) == PE_DATAREL)
		v += data_base;
	return v;
}

/* ---- CIE and FDE ---- */

/* The entry at p as a reader over its body; false at the end of the section. */
static bool open_entry(const uint8_t *p, struct cfi_reader *out)
{
	uint32_t length;

	memcpy(&length, p, 4);
	if (length == 0 || length == 0xffffffff) /* end; 64-bit DWARF is not used here */
		return false;
	*out = (struct cfi_reader){ .p = p + 4, .end = p + 4 + length };
	return true;
}

static void read_augmentation(struct cfi_cie *c, const char *aug, struct cfi_reader *r)
{
	for (; *aug; aug++) {
		switch (*aug) {
		case 'R':
			c->fde_encoding = cfi_u8(r);
			break;
		case 'P':
			cfi_encoded(r, cfi_u8(r) & 0x7f, 0);
			break;
		case 'L':
			cfi_u8(r);
			break;
		case 'S':
			c->signal = true;
			break;
		default:
			return;
		}
	}
}

static bool read_cie(const uint8_t *p, struct cfi_cie *c)
{
	struct cfi_reader r;
	const char *aug;
	uint8_t version;

	memset(c, 0, sizeof(*c));
	if (!open_entry(p, &r))
		return false;
	cfi_fixed(&r, 4); /* CIE id */
	version = cfi_u8(&r);
	aug = (const char *)r.p;
	while (cfi_u8(&r) != 0 && !r.bad)
		;
	c->code_align = cfi_uleb(&r);
	c->data_align = cfi_sleb(&r);
	if (version == 1)
		cfi_u8(&r);
	else
		cfi_uleb(&r);
	if (aug[0] == 'z') {
		uint64_t size = cfi_uleb(&r);
		const uint8_t *rest = r.p + size;

		if (size > (uint64_t)(r.end - r.p))
			return false;
		c->augmented = true;
		read_augmentation(c, aug + 1, &r);
		r.p = rest;
	} else if (aug[0] != '\0') {
		return false;
	}
	c->program = r;
	return !r.bad && (version == 1 || version == 3);
}

static bool read_fde(const uint8_t *p, struct cfi_fde *f)
{
	struct cfi_reader r;
	const uint8_t *id_at;
	uint64_t id;

	if (!open_entry(p, &r))
		return false;
	id_at = r.p;
	id = cfi_fixed(&r, 4);
	if (id == 0 || !read_cie(id_at - id, &f->cie))
		return false;
	f->start = cfi_encoded(&r, f->cie.fde_encoding, 0);
	f->end = f->start + cfi_encoded(&r, f->cie.fde_encoding & 0x0f, 0);
	if (f->cie.augmented) {
		uint64_t size = cfi_uleb(&r);

		if (size > (uint64_t)(r.end - r.p))
			return false;
		r.p += size;
	}
	f->program = r;
	return !r.bad;
}

/* Binary search in the table of .eh_frame_hdr; NULL: none, or not in the usual form. */
static const uint8_t *find_fde(uintptr_t hdr, uintptr_t pc)
{
	struct cfi_reader r = { .p = (const uint8_t *)hdr,
				.end = (const uint8_t *)hdr + 64 };
	uint8_t version = cfi_u8(&r), frame_enc = cfi_u8(&r), count_enc = cfi_u8(&r),
		table_enc = cfi_u8(&r);
	uint64_t lo = 0, hi;
	const uint8_t *table;

	if (version != 1 || count_enc == PE_OMIT || table_enc != (PE_DATAREL | PE_SDATA4))
		return NULL;
	cfi_encoded(&r, frame_enc, hdr);
	hi = cfi_encoded(&r, count_enc, hdr);
	table = r.p;
	if (hi == 0)
		return NULL;
	while (hi - lo > 1) {
		uint64_t mid = (lo + hi) / 2;
		int32_t start;

		memcpy(&start, table + mid * 8, 4);
		if (pc < hdr + (uintptr_t)(intptr_t)start)
			hi = mid;
		else
			lo = mid;
	}
	{
		int32_t where;

		memcpy(&where, table + lo * 8 + 4, 4);
		return (const uint8_t *)(hdr + (uintptr_t)(intptr_t)where);
	}
}

/* ---- programs ---- */

struct machine {
	struct state now, initial, stack[STATE_DEPTH];
	unsigned depth;
	const struct cfi_cie *cie;
	uintptr_t loc, pc;
};

/* DW_OP_breg6 N, DW_OP_deref; or gcc's PLT expression. */
static void cfa_expression(struct state *s, struct cfi_reader e)
{
	static const uint8_t plt_tail[] = { 0x80, 0x00, 0x3f, 0x1a };
	uint8_t op = cfi_u8(&e);
	int64_t offset = cfi_sleb(&e);

	s->cfa_kind = CFI_UNSUPPORTED;
	s->cfa_offset = (int32_t)offset;
	if (op == 0x70 + CFI_REG_RBP && e.end - e.p == 1 && *e.p == 0x06)
		s->cfa_kind = CFI_RBP_DEREF;
	else if (op == 0x70 + CFI_REG_RSP && e.end - e.p > (ptrdiff_t)sizeof(plt_tail) &&
		 memcmp(e.p, plt_tail, sizeof(plt_tail)) == 0)
		s->cfa_kind = CFI_PLT;
}

static void set_rule(struct state *s, uint64_t reg, enum rule rule, int64_t offset)
{
	if (reg == CFI_REG_RBP) {
		s->rbp_rule = (uint8_t)rule;
		s->rbp_offset = (int32_t)offset;
	} else if (reg == CFI_REG_RA) {
		s->ra_rule = (uint8_t)rule;
		s->ra_offset = (int32_t)offset;
	}
}

static void reg_expression(struct state *s, uint64_t reg, struct cfi_reader e)
{
	uint8_t op = cfi_u8(&e);
	int64_t offset = cfi_sleb(&e);

	if (reg == CFI_REG_RBP && op == 0x70 + CFI_REG_RBP && e.p == e.end)
		set_rule(s, reg, RULE_RBP_OFFSET, offset);
	else
		set_rule(s, reg, RULE_OTHER, 0);
}

struct cfi_reader cfi_block(struct cfi_reader *r)
{
	uint64_t size = cfi_uleb(r);
	struct cfi_reader block = { .p = r->p, .end = r->p };

	if (size > (uint64_t)(r->end - r->p)) {
		r->bad = true;
		return block;
	}
	block.end = r->p + size;
	r->p += size;
	return block;
}

static void set_cfa(struct state *s, uint64_t reg, int64_t offset)
{
	s->cfa_reg = (uint8_t)reg;
	s->cfa_offset = (int32_t)offset;
	s->cfa_kind = reg == CFI_REG_RSP   ? CFI_RSP
		      : reg == CFI_REG_RBP ? CFI_RBP
					   : CFI_UNSUPPORTED;
}

static void restore(struct machine *m, uint64_t reg)
{
	if (reg == CFI_REG_RBP) {
		m->now.rbp_rule = m->initial.rbp_rule;
		m->now.rbp_offset = m->initial.rbp_offset;
	} else if (reg == CFI_REG_RA) {
		m->now.ra_rule = m->initial.ra_rule;
		m->now.ra_offset = m->initial.ra_offset;
	}
}

/* Register rules: DW_CFA_* with their operands. */
static void run_register_op(struct machine *m, uint8_t op, struct cfi_reader *r)
{
	int64_t da = m->cie->data_align;
	uint64_t reg = op == 0x2e ? 0 : cfi_uleb(r);

	switch (op) {
	case 0x05: /* offset_extended */
		set_rule(&m->now, reg, RULE_OFFSET, (int64_t)cfi_uleb(r) * da);
		break;
	case 0x11: /* offset_extended_sf */
		set_rule(&m->now, reg, RULE_OFFSET, cfi_sleb(r) * da);
		break;
	case 0x2f: /* GNU_negative_offset_extended */
		set_rule(&m->now, reg, RULE_OFFSET, -((int64_t)cfi_uleb(r) * da));
		break;
	case 0x06:
		restore(m, reg);
		break;
	case 0x07:
		set_rule(&m->now, reg, RULE_UNDEFINED, 0);
		break;
	case 0x08:
		set_rule(&m->now, reg, RULE_SAME, 0);
		break;
	case 0x09: /* register */
		cfi_uleb(r);
		set_rule(&m->now, reg, RULE_OTHER, 0);
		break;
	case 0x0c: /* def_cfa */
		set_cfa(&m->now, reg, (int64_t)cfi_uleb(r));
		break;
	case 0x12: /* def_cfa_sf */
		set_cfa(&m->now, reg, cfi_sleb(r) * da);
		break;
	case 0x0d: /* def_cfa_register */
		set_cfa(&m->now, reg, m->now.cfa_offset);
		break;
	case 0x0e: /* def_cfa_offset: the operand is the offset */
		m->now.cfa_offset = (int32_t)reg;
		break;
	case 0x10: /* expression */
		reg_expression(&m->now, reg, cfi_block(r));
		break;
	case 0x14: /* val_offset */
		cfi_uleb(r);
		set_rule(&m->now, reg, RULE_OTHER, 0);
		break;
	case 0x15:
		cfi_sleb(r);
		set_rule(&m->now, reg, RULE_OTHER, 0);
		break;
	case 0x16: /* val_expression */
		cfi_block(r);
		set_rule(&m->now, reg, RULE_OTHER, 0);
		break;
	default:
		r->bad = true;
		break;
	}
}

static void run_op(struct machine *m, uint8_t op, struct cfi_reader *r)
{
	switch (op) {
	case 0x00: /* nop */
		break;
	case 0x01: /* set_loc */
		m->loc = cfi_encoded(r, m->cie->fde_encoding, 0);
		break;
	case 0x02:
		m->loc += cfi_fixed(r, 1) * m->cie->code_align;
		break;
	case 0x03:
		m->loc += cfi_fixed(r, 2) * m->cie->code_align;
		break;
	case 0x04:
		m->loc += cfi_fixed(r, 4) * m->cie->code_align;
		break;
	case 0x0a: /* remember_state */
		if (m->depth == STATE_DEPTH)
			r->bad = true;
		else
			m->stack[m->depth++] = m->now;
		break;
	case 0x0b: /* restore_state */
		if (m->depth == 0)
			r->bad = true;
		else
			m->now = m->stack[--m->depth];
		break;
	case 0x0f:
		cfa_expression(&m->now, cfi_block(r));
		break;
	case 0x13: /* def_cfa_offset_sf */
		m->now.cfa_offset = (int32_t)(cfi_sleb(r) * m->cie->data_align);
		break;
	case 0x2e: /* GNU_args_size */
		cfi_uleb(r);
		break;
	default:
		run_register_op(m, op, r);
		break;
	}
}

/* Runs a program while its location is not past pc. False: not understood. */
static bool run(struct machine *m, struct cfi_reader r)
{
	while (r.p < r.end && !r.bad) {
		uint8_t op = cfi_u8(&r);

		switch (op & 0xc0) {
		case 0x40: /* advance_loc */
			m->loc += (op & 0x3fu) * m->cie->code_align;
			break;
		case 0x80: /* offset */
			set_rule(&m->now, op & 0x3f, RULE_OFFSET,
				 (int64_t)cfi_uleb(&r) * m->cie->data_align);
			break;
		case 0xc0:
			restore(m, op & 0x3f);
			break;
		default:
			run_op(m, op, &r);
			break;
		}
		if (m->loc > m->pc)
			break;
	}
	return !r.bad;
}

static struct cfi_row row_of_state(const struct state *s)
{
	struct cfi_row row = { .kind = s->cfa_kind, .cfa_offset = s->cfa_offset };

	if (s->ra_rule == RULE_UNDEFINED)
		return (struct cfi_row){ .kind = CFI_END };
	if (s->ra_rule != RULE_OFFSET || s->ra_offset != -8 || s->cfa_kind == CFI_NONE)
		return (struct cfi_row){ .kind = CFI_UNSUPPORTED };
	if (s->cfa_offset > 0x3fffff || s->cfa_offset < -0x3fffff ||
	    s->rbp_offset > INT16_MAX || s->rbp_offset < INT16_MIN)
		return (struct cfi_row){ .kind = CFI_UNSUPPORTED };
	row.rbp_offset = (int16_t)s->rbp_offset;
	if (s->rbp_rule == RULE_OFFSET)
		row.rbp = CFI_RBP_AT_CFA;
	else if (s->rbp_rule == RULE_RBP_OFFSET)
		row.rbp = CFI_RBP_AT_RBP;
	return row;
}

bool cfi_find_fde(uintptr_t pc, struct cfi_fde *out)
{
	uintptr_t hdr = module_eh_frame_hdr(pc);
	const uint8_t *p = hdr ? find_fde(hdr, pc) : NULL;

	return p && read_fde(p, out) && pc >= out->start && pc < out->end;
}

struct cfi_row cfi_find_row(uintptr_t pc)
{
	const struct cfi_row missing = { .kind = CFI_MISSING };
	struct machine m = { .pc = pc };
	struct cfi_fde f;

	if (!cfi_find_fde(pc, &f))
		return missing;
	if (f.cie.signal)
		return (struct cfi_row){ .kind = CFI_SIGNAL };
	m.cie = &f.cie;
	m.loc = 0;
	if (!run(&m, f.cie.program))
		return (struct cfi_row){ .kind = CFI_UNSUPPORTED };
	m.initial = m.now;
	m.loc = f.start;
	if (!run(&m, f.program))
		return (struct cfi_row){ .kind = CFI_UNSUPPORTED };
	return row_of_state(&m.now);
}

uint64_t cfi_pack(struct cfi_row row)
{
	return (uint64_t)row.kind | (uint64_t)row.rbp << 4 |
	       (uint64_t)((uint32_t)row.cfa_offset & 0xffffff) << 8 |
	       (uint64_t)(uint16_t)row.rbp_offset << 32;
}
