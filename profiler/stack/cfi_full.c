/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cfi_full: see cfi_full.h. Two interpreters, of call frame programs and of the DWARF
 * expressions in them (DWARF 5, sections 6.4.2 and 2.5). Everything is on the stack, in
 * less than 2 KiB.
 */
#include "profiler/stack/cfi_full.h"

#include <string.h>

#define STATE_DEPTH 2
#define EXPR_DEPTH  8
#define EXPR_STEPS  200
#define CFA_RULE    CFI_NREGS /* rules[] of the CFA itself */

/* What a register's value in the caller is. */
enum how {
	HOW_SAME,
	HOW_UNDEFINED,
	HOW_AT_CFA,   /* saved at CFA + offset */
	HOW_VAL_CFA,  /* is CFA + offset */
	HOW_REG,      /* is another register + offset */
	HOW_AT_EXPR,  /* saved where the expression says */
	HOW_VAL_EXPR, /* is the expression's value */
};

struct rule {
	uint8_t how, reg;
	int32_t offset; /* of an expression: of its length and bytes, from machine.base */
};

struct rules {
	struct rule r[CFI_NREGS + 1];
};

struct machine {
	struct rules now, initial, stack[STATE_DEPTH];
	unsigned depth;
	const struct cfi_cie *cie;
	const uint8_t *base; /* of offsets: the FDE's program */
	uintptr_t loc, pc;
};

/* ---- expressions ---- */

struct expr {
	struct cfi_reader r;
	const uint8_t *start;
	const struct cfi_regs *regs;
	cfi_read_fn read;
	void *arg;
	uintptr_t stack[EXPR_DEPTH];
	unsigned n;
	bool bad;
};

static void push(struct expr *e, uintptr_t v)
{
	if (e->n == EXPR_DEPTH)
		e->bad = true;
	else
		e->stack[e->n++] = v;
}

static uintptr_t pop(struct expr *e)
{
	if (e->n == 0) {
		e->bad = true;
		return 0;
	}
	return e->stack[--e->n];
}

static void push_reg(struct expr *e, uint64_t reg, int64_t offset)
{
	if (reg >= CFI_NREGS || !(e->regs->known >> reg & 1))
		e->bad = true;
	else
		push(e, e->regs->value[reg] + (uintptr_t)offset);
}

static void pick(struct expr *e, unsigned depth)
{
	if (depth >= e->n)
		e->bad = true;
	else
		push(e, e->stack[e->n - 1 - depth]);
}

/* The top size bytes at an address; words lie in one aligned word, or fail. */
static void deref(struct expr *e, unsigned size)
{
	uintptr_t addr = pop(e), word = 0;
	unsigned shift = (addr & 7) * 8;

	if (size == 0 || size > 8 || (addr & 7) + size > 8 ||
	    !e->read(e->arg, addr & ~(uintptr_t)7, &word)) {
		e->bad = true;
		return;
	}
	word >>= shift;
	push(e, size == 8 ? word : word & (((uintptr_t)1 << size * 8) - 1));
}

static void jump(struct expr *e, bool taken)
{
	int16_t by = (int16_t)cfi_fixed(&e->r, 2);

	if (!taken)
		return;
	if (by < e->start - e->r.p || by > e->r.end - e->r.p)
		e->bad = true;
	else
		e->r.p += by;
}

static void arithmetic(struct expr *e, uint8_t op)
{
	uintptr_t b = pop(e), a = pop(e);
	intptr_t sa = (intptr_t)a, sb = (intptr_t)b;

	switch (op) {
	case 0x1a:
		push(e, a & b);
		break;
	case 0x1c:
		push(e, a - b);
		break;
	case 0x1e:
		push(e, a * b);
		break;
	case 0x21:
		push(e, a | b);
		break;
	case 0x22:
		push(e, a + b);
		break;
	case 0x24:
		push(e, b < 64 ? a << b : 0);
		break;
	case 0x25:
		push(e, b < 64 ? a >> b : 0);
		break;
	case 0x26:
		push(e, (uintptr_t)(sa >> (b < 64 ? b : 63)));
		break;
	case 0x27:
		push(e, a ^ b);
		break;
	case 0x29:
		push(e, sa == sb);
		break;
	case 0x2a:
		push(e, sa >= sb);
		break;
	case 0x2b:
		push(e, sa > sb);
		break;
	case 0x2c:
		push(e, sa <= sb);
		break;
	case 0x2d:
		push(e, sa < sb);
		break;
	case 0x2e:
		push(e, sa != sb);
		break;
	default: /* divisions: nobody finds a frame by them */
		e->bad = true;
		break;
	}
}

static void push_const(struct expr *e, uint8_t op)
{
	switch (op) {
	case 0x08:
		push(e, cfi_u8(&e->r));
		break;
	case 0x09:
		push(e, (uintptr_t)(intptr_t)(int8_t)cfi_u8(&e->r));
		break;
	case 0x0a:
		push(e, cfi_fixed(&e->r, 2));
		break;
	case 0x0b:
		push(e, (uintptr_t)(intptr_t)(int16_t)cfi_fixed(&e->r, 2));
		break;
	case 0x0c:
		push(e, cfi_fixed(&e->r, 4));
		break;
	case 0x0d:
		push(e, (uintptr_t)(intptr_t)(int32_t)cfi_fixed(&e->r, 4));
		break;
	case 0x10:
		push(e, cfi_uleb(&e->r));
		break;
	case 0x11:
		push(e, (uintptr_t)cfi_sleb(&e->r));
		break;
	default: /* addr, const8u, const8s */
		push(e, cfi_fixed(&e->r, 8));
		break;
	}
}

static void shuffle(struct expr *e, uint8_t op)
{
	uintptr_t a = pop(e), b = op == 0x13 ? 0 : pop(e), c = op == 0x17 ? pop(e) : 0;

	if (op == 0x13) /* drop */
		return;
	push(e, a);
	if (op == 0x17) /* rot */
		push(e, c);
	push(e, b);
}

static void run_expr_op(struct expr *e, uint8_t op)
{
	uint64_t reg;

	switch (op) {
	case 0x06:
		deref(e, 8);
		break;
	case 0x12:
		pick(e, 0);
		break;
	case 0x14:
		pick(e, 1);
		break;
	case 0x15:
		pick(e, cfi_u8(&e->r));
		break;
	case 0x13:
	case 0x16:
	case 0x17:
		shuffle(e, op);
		break;
	case 0x1f:
		push(e, -pop(e));
		break;
	case 0x20:
		push(e, ~pop(e));
		break;
	case 0x23:
		push(e, pop(e) + cfi_uleb(&e->r));
		break;
	case 0x28:
		jump(e, pop(e) != 0);
		break;
	case 0x2f:
		jump(e, true);
		break;
	case 0x92:
		reg = cfi_uleb(&e->r);
		push_reg(e, reg, cfi_sleb(&e->r));
		break;
	case 0x94:
		deref(e, cfi_u8(&e->r));
		break;
	case 0x96: /* nop */
		break;
	default:
		arithmetic(e, op);
		break;
	}
}

static bool evaluate(struct expr *e, uintptr_t *out)
{
	for (int steps = 0; e->r.p < e->r.end && !e->bad && !e->r.bad; steps++) {
		uint8_t op = cfi_u8(&e->r);

		if (steps == EXPR_STEPS)
			return false;
		if (op >= 0x30 && op <= 0x4f)
			push(e, op - 0x30u);
		else if (op >= 0x70 && op <= 0x8f)
			push_reg(e, op - 0x70u, cfi_sleb(&e->r));
		else if (op == 0x03 || (op >= 0x08 && op <= 0x11))
			push_const(e, op);
		else
			run_expr_op(e, op);
	}
	*out = pop(e);
	return !e->bad && !e->r.bad;
}

/* ---- call frame programs ---- */

static void set(struct machine *m, uint64_t reg, enum how how, int64_t offset)
{
	if (reg < CFI_NREGS)
		m->now.r[reg] =
			(struct rule){ .how = (uint8_t)how, .offset = (int32_t)offset };
}

static void set_other(struct machine *m, uint64_t reg, uint64_t from, int64_t offset)
{
	if (reg <= CFA_RULE)
		m->now.r[reg] = (struct rule){ .how = HOW_REG,
					       .reg = (uint8_t)from,
					       .offset = (int32_t)offset };
}

static void set_expr(struct machine *m, uint64_t reg, enum how how, struct cfi_reader *r)
{
	const uint8_t *at = r->p;

	cfi_block(r);
	if (reg <= CFA_RULE)
		m->now.r[reg] = (struct rule){ .how = (uint8_t)how,
					       .offset = (int32_t)(at - m->base) };
}

static void restore(struct machine *m, uint64_t reg)
{
	if (reg < CFI_NREGS)
		m->now.r[reg] = m->initial.r[reg];
}

static void run_cfa_op(struct machine *m, uint8_t op, struct cfi_reader *r)
{
	int64_t da = m->cie->data_align;
	struct rule *cfa = &m->now.r[CFA_RULE];
	uint64_t reg;

	switch (op) {
	case 0x0c: /* def_cfa */
		reg = cfi_uleb(r);
		set_other(m, CFA_RULE, reg, (int64_t)cfi_uleb(r));
		break;
	case 0x12: /* def_cfa_sf */
		reg = cfi_uleb(r);
		set_other(m, CFA_RULE, reg, cfi_sleb(r) * da);
		break;
	case 0x0d: /* def_cfa_register */
		set_other(m, CFA_RULE, cfi_uleb(r), cfa->offset);
		break;
	case 0x0e: /* def_cfa_offset */
		cfa->offset = (int32_t)cfi_uleb(r);
		break;
	case 0x13: /* def_cfa_offset_sf */
		cfa->offset = (int32_t)(cfi_sleb(r) * da);
		break;
	case 0x0f: /* def_cfa_expression */
		set_expr(m, CFA_RULE, HOW_VAL_EXPR, r);
		break;
	default:
		r->bad = true;
		break;
	}
}

static void run_register_op(struct machine *m, uint8_t op, struct cfi_reader *r)
{
	int64_t da = m->cie->data_align;
	uint64_t reg = cfi_uleb(r);

	switch (op) {
	case 0x05: /* offset_extended */
		set(m, reg, HOW_AT_CFA, (int64_t)cfi_uleb(r) * da);
		break;
	case 0x11: /* offset_extended_sf */
		set(m, reg, HOW_AT_CFA, cfi_sleb(r) * da);
		break;
	case 0x2f: /* GNU_negative_offset_extended */
		set(m, reg, HOW_AT_CFA, -((int64_t)cfi_uleb(r) * da));
		break;
	case 0x06:
		restore(m, reg);
		break;
	case 0x07:
		set(m, reg, HOW_UNDEFINED, 0);
		break;
	case 0x08:
		set(m, reg, HOW_SAME, 0);
		break;
	case 0x09: /* register */
		set_other(m, reg < CFI_NREGS ? reg : CFA_RULE + 1, cfi_uleb(r), 0);
		break;
	case 0x10:
		set_expr(m, reg < CFI_NREGS ? reg : CFA_RULE + 1, HOW_AT_EXPR, r);
		break;
	case 0x16:
		set_expr(m, reg < CFI_NREGS ? reg : CFA_RULE + 1, HOW_VAL_EXPR, r);
		break;
	case 0x14: /* val_offset */
		set(m, reg, HOW_VAL_CFA, (int64_t)cfi_uleb(r) * da);
		break;
	case 0x15: /* val_offset_sf */
		set(m, reg, HOW_VAL_CFA, cfi_sleb(r) * da);
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
	case 0x03:
	case 0x04: /* advance_loc 1, 2, 4 */
		m->loc += cfi_fixed(r, (size_t)1 << (op - 2)) * m->cie->code_align;
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
	case 0x2e: /* GNU_args_size */
		cfi_uleb(r);
		break;
	case 0x0c:
	case 0x0d:
	case 0x0e:
	case 0x0f:
	case 0x12:
	case 0x13:
		run_cfa_op(m, op, r);
		break;
	default:
		run_register_op(m, op, r);
		break;
	}
}

/* Runs a program while its location is not past pc. False: not understood. */
static bool run(struct machine *m, struct cfi_reader r)
{
	while (r.p < r.end && !r.bad && m->loc <= m->pc) {
		uint8_t op = cfi_u8(&r);

		if ((op & 0xc0) == 0x40) /* advance_loc */
			m->loc += (op & 0x3fu) * m->cie->code_align;
		else if ((op & 0xc0) == 0x80) /* offset */
			set(m, op & 0x3f, HOW_AT_CFA,
			    (int64_t)cfi_uleb(&r) * m->cie->data_align);
		else if ((op & 0xc0) == 0xc0)
			restore(m, op & 0x3f);
		else
			run_op(m, op, &r);
	}
	return !r.bad;
}

static bool find_rules(struct machine *m, const struct cfi_fde *f)
{
	m->cie = &f->cie;
	m->base = f->program.p;
	m->loc = 0;
	if (!run(m, f->cie.program))
		return false;
	m->initial = m->now;
	m->loc = f->start;
	return run(m, f->program);
}

/* ---- applying the rules ---- */

struct source {
	const struct cfi_regs *regs; /* of the callee */
	const uint8_t *base;
	cfi_read_fn read;
	void *arg;
	uintptr_t cfa;
};

/* Registers' expressions find the CFA on the stack. */
static bool expression(const struct source *s, struct rule rule, bool with_cfa,
		       uintptr_t *out)
{
	struct cfi_reader r = { .p = s->base + rule.offset };
	struct expr e = { .regs = s->regs, .read = s->read, .arg = s->arg };
	uint64_t size;

	r.end = r.p + 10; /* enough for the length; set_expr() has checked it */
	size = cfi_uleb(&r);
	e.r = (struct cfi_reader){ .p = r.p, .end = r.p + size };
	e.start = e.r.p;
	if (with_cfa)
		push(&e, s->cfa);
	return evaluate(&e, out);
}

/* The register's value in the caller; false: it has none. *out_slot: where it lay. */
static bool apply(const struct source *s, unsigned reg, struct rule rule, uintptr_t *out,
		  uintptr_t *out_slot)
{
	unsigned from = rule.how == HOW_REG ? rule.reg : reg;

	*out_slot = 0;
	switch (rule.how) {
	case HOW_SAME:
	case HOW_REG:
		if (from >= CFI_NREGS || !(s->regs->known >> from & 1))
			return false;
		*out = s->regs->value[from] + (uintptr_t)(intptr_t)rule.offset;
		return true;
	case HOW_AT_CFA:
		*out_slot = s->cfa + (uintptr_t)(intptr_t)rule.offset;
		break;
	case HOW_VAL_CFA:
		*out = s->cfa + (uintptr_t)(intptr_t)rule.offset;
		return true;
	case HOW_VAL_EXPR:
		return expression(s, rule, reg != CFA_RULE, out);
	case HOW_AT_EXPR:
		if (!expression(s, rule, true, out_slot))
			return false;
		break;
	default:
		return false;
	}
	return s->read(s->arg, *out_slot, out);
}

/* Registers that a call leaves as they were. */
static bool is_preserved(unsigned reg)
{
	return reg == CFI_REG_RBX || reg == CFI_REG_RBP ||
	       (reg >= CFI_REG_R12 && reg <= CFI_REG_R15);
}

static enum cfi_step apply_all(const struct source *s, const struct rules *rules,
			       bool signal, struct cfi_regs *out)
{
	*out = (struct cfi_regs){ .precise = signal };
	for (unsigned reg = 0; reg < CFI_NREGS; reg++) {
		struct rule rule = rules->r[reg];
		uintptr_t slot;

		if (reg == CFI_REG_RSP && rule.how == HOW_SAME)
			rule.how = HOW_VAL_CFA;
		else if (rule.how == HOW_SAME && !is_preserved(reg))
			continue;
		if (!apply(s, reg, rule, &out->value[reg], &slot))
			continue;
		out->known |= 1u << reg;
		if (reg == CFI_REG_RA)
			out->slot = slot;
	}
	if (!(out->known >> CFI_REG_RA & 1) || !(out->known >> CFI_REG_RSP & 1))
		return CFI_STEP_BAD;
	return out->value[CFI_REG_RA] ? CFI_STEP_OK : CFI_STEP_END;
}

enum cfi_step cfi_full_step(struct cfi_regs *r, cfi_read_fn read, void *arg)
{
	struct source s = { .regs = r, .read = read, .arg = arg };
	struct machine m;
	struct cfi_regs caller;
	struct cfi_fde f;
	enum cfi_step step;
	uintptr_t slot;

	memset(&m, 0, sizeof(m));
	m.pc = r->value[CFI_REG_RA] - (r->precise ? 0 : 1);
	if (!cfi_find_fde(m.pc, &f))
		return CFI_STEP_MISSING;
	if (!find_rules(&m, &f))
		return CFI_STEP_BAD;
	if (m.now.r[CFI_REG_RA].how == HOW_UNDEFINED)
		return CFI_STEP_END;
	s.base = m.base;
	if (m.now.r[CFA_RULE].how == HOW_SAME ||
	    !apply(&s, CFA_RULE, m.now.r[CFA_RULE], &s.cfa, &slot))
		return CFI_STEP_BAD;
	step = apply_all(&s, &m.now, f.cie.signal, &caller);
	if (step == CFI_STEP_OK)
		*r = caller;
	return step;
}
