/* SPDX-License-Identifier: Apache-2.0 */
/*
 * retuse: is the value in rax after a call used? A function that returns nothing leaves
 * there what it had last, often the very pointer; so "returned" is claimed only where the
 * caller reads the register. The few instructions that compilers put behind a call are
 * decoded; at an unknown one, nothing is claimed. A return hands rax to the next caller,
 * where the question is asked again.
 */
#include "profiler/escape/where.h"
#include "profiler/stack/module.h"

#define MAX_STEPS   16
#define MAX_FORKS   3
#define MAX_BYTES   16
#define NO_REGISTER 16u

struct insn {
	const uint8_t *next; /* behind what was decoded so far */
	uint8_t rex, op;
	bool two; /* 0f op */
	bool operand16;
	uint8_t mod, reg, rm; /* of the ModRM byte, extended by rex */
	uint8_t base, index;  /* of a memory operand, or NO_REGISTER */
};

/* Which flow a decoded instruction has. */
enum flow { FLOW_NEXT, FLOW_READ, FLOW_LOST, FLOW_JUMP, FLOW_BRANCH, FLOW_UNKNOWN };

static int32_t read32(const uint8_t *p)
{
	return (int32_t)(p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
			 (uint32_t)p[3] << 24);
}

static void decode_start(struct insn *i, const uint8_t *p)
{
	*i = (struct insn){ .base = NO_REGISTER, .index = NO_REGISTER };
	for (; *p == 0x66 || *p == 0xf2 || *p == 0xf3; p++)
		i->operand16 |= *p == 0x66;
	if ((*p & 0xf0) == 0x40)
		i->rex = *p++;
	if (*p == 0x0f) {
		i->two = true;
		p++;
	}
	i->op = *p++;
	i->next = p;
}

static void decode_modrm(struct insn *i)
{
	const uint8_t *p = i->next;
	uint8_t low = *p & 7;

	i->mod = *p >> 6;
	i->reg = (uint8_t)((*p >> 3 & 7) | (i->rex & 4) << 1);
	i->rm = (uint8_t)(low | (i->rex & 1) << 3);
	p++;
	if (i->mod != 3) {
		bool no_base = i->mod == 0 && low == 5;

		i->base = i->rm;
		if (low == 4) {
			uint8_t sib = *p++;

			i->base = (uint8_t)((sib & 7) | (i->rex & 1) << 3);
			i->index = (uint8_t)((sib >> 3 & 7) | (i->rex & 2) << 2);
			no_base = i->mod == 0 && (sib & 7) == 5;
		}
		if (no_base)
			i->base = NO_REGISTER;
		p += i->mod == 1 ? 1 : i->mod == 2 || no_base ? 4 : 0;
	}
	i->next = p;
}

/* rax (0) in the address of the memory operand? */
static bool address_reads(const struct insn *i)
{
	return i->mod != 3 && (i->base == 0 || i->index == 0);
}

/* to: the register operand that is only written; from: that is read. */
static enum flow moves(const struct insn *i, uint8_t to, uint8_t from)
{
	if (address_reads(i) || from == 0)
		return FLOW_READ;
	return to == 0 ? FLOW_LOST : FLOW_NEXT;
}

/* r/m as an operand in a register, NO_REGISTER when it is memory. */
static uint8_t rm_register(const struct insn *i)
{
	return i->mod == 3 ? i->rm : NO_REGISTER;
}

/* Arithmetic of two operands: both are read. */
static enum flow arithmetic(struct insn *i)
{
	uint8_t kind = i->op & 0xf8;

	decode_modrm(i);
	if ((kind == 0x30 || kind == 0x28) && i->mod == 3 && i->reg == 0 && i->rm == 0)
		return FLOW_LOST; /* xor eax, eax */
	return moves(i, NO_REGISTER, i->reg) == FLOW_READ || rm_register(i) == 0
		       ? FLOW_READ
		       : FLOW_NEXT;
}

/* One operand and an immediate of n bytes. */
static enum flow immediate(struct insn *i, unsigned n, bool only_writes)
{
	enum flow f;

	decode_modrm(i);
	i->next += n;
	f = only_writes ? moves(i, rm_register(i), NO_REGISTER)
			: moves(i, NO_REGISTER, rm_register(i));
	return f;
}

static enum flow step_two(struct insn *i)
{
	if (i->op == 0x1e || i->op == 0x1f) { /* endbr64, nop */
		decode_modrm(i);
		return FLOW_NEXT;
	}
	if ((i->op & 0xf0) == 0x80) {
		i->next += 4;
		return FLOW_BRANCH;
	}
	switch (i->op) {
	case 0xb6: /* movzx, movsx */
	case 0xb7:
	case 0xbe:
	case 0xbf:
		decode_modrm(i);
		return moves(i, i->reg, rm_register(i));
	case 0xaf: /* imul */
		return arithmetic(i);
	case 0x6e: /* movd, movq to xmm */
		decode_modrm(i);
		return moves(i, NO_REGISTER, rm_register(i));
	case 0x10: /* moves of vectors */
	case 0x11:
	case 0x28:
	case 0x29:
	case 0x6f:
	case 0x7f:
	case 0xd6:
	case 0xef:
	case 0x57:
		decode_modrm(i);
		return moves(i, NO_REGISTER, NO_REGISTER);
	default:
		return FLOW_UNKNOWN;
	}
}

/* call, jmp and push through ff. */
static enum flow step_ff(struct insn *i)
{
	uint8_t what = i->next[0] >> 3 & 7;

	decode_modrm(i);
	if (address_reads(i) || rm_register(i) == 0)
		return FLOW_READ;
	if (what == 2)
		return FLOW_LOST; /* the callee overwrites it */
	return what == 4 ? FLOW_UNKNOWN : FLOW_NEXT;
}

static enum flow step_short(struct insn *i)
{
	uint8_t reg = (uint8_t)((i->op & 7) | (i->rex & 1) << 3);

	switch (i->op & 0xf8) {
	case 0x50: /* push */
		return reg == 0 ? FLOW_READ : FLOW_NEXT;
	case 0x58: /* pop */
		return reg == 0 ? FLOW_LOST : FLOW_NEXT;
	case 0xb8: /* mov r, imm */
		i->next += i->rex & 8 ? 8 : i->operand16 ? 2 : 4;
		return reg == 0 ? FLOW_LOST : FLOW_NEXT;
	case 0x70: /* jcc rel8 */
	case 0x78:
		i->next += 1;
		return FLOW_BRANCH;
	default:
		return FLOW_UNKNOWN;
	}
}

static enum flow step(struct insn *i)
{
	unsigned imm = i->operand16 ? 2 : 4;

	if (i->two)
		return step_two(i);
	if (i->op < 0x40 && (i->op & 7) < 4)
		return arithmetic(i);
	switch (i->op) {
	case 0x3d: /* cmp rax, imm; test; cdqe */
	case 0x05:
	case 0x2d:
	case 0xa8:
	case 0xa9:
	case 0x98:
	case 0x99:
		return FLOW_READ;
	case 0x84:
	case 0x85:
		return arithmetic(i);
	case 0x88:
	case 0x89:
		decode_modrm(i);
		return moves(i, rm_register(i), i->reg);
	case 0x8a:
	case 0x8b:
	case 0x63:
		decode_modrm(i);
		return moves(i, i->reg, rm_register(i));
	case 0x8d: /* lea */
		decode_modrm(i);
		return moves(i, i->reg, NO_REGISTER);
	case 0x80:
	case 0x83:
	case 0xc0:
	case 0xc1:
		return immediate(i, 1, false);
	case 0x81:
		return immediate(i, imm, false);
	case 0xc6:
		return immediate(i, 1, true);
	case 0xc7:
		return immediate(i, imm, true);
	case 0xd1:
	case 0xd3:
		return immediate(i, 0, false);
	case 0xe8: /* call */
	case 0xc3: /* ret: asked again one frame further out */
		return FLOW_LOST;
	case 0xe9:
		i->next += 4;
		return FLOW_JUMP;
	case 0xeb:
		i->next += 1;
		return FLOW_JUMP;
	case 0xff:
		return step_ff(i);
	case 0x90:
	case 0xc9: /* leave */
		return FLOW_NEXT;
	default:
		return step_short(i);
	}
}

/* Where a jump or branch that ends at next leads. */
static const uint8_t *target_of(const struct insn *i)
{
	bool near = i->two || i->op == 0xe9;

	return i->next + (near ? read32(i->next - 4) : (int8_t)i->next[-1]);
}

static enum retuse follow(const uint8_t *p, unsigned forks)
{
	for (unsigned n = 0; n < MAX_STEPS; n++) {
		struct insn i;
		enum retuse taken;

		if (!module_find_code((uintptr_t)p) ||
		    !module_find_code((uintptr_t)p + MAX_BYTES))
			return RETUSE_MAYBE;
		decode_start(&i, p);
		switch (step(&i)) {
		case FLOW_READ:
			return RETUSE_READ;
		case FLOW_LOST:
			return RETUSE_LOST;
		case FLOW_JUMP:
			p = target_of(&i);
			break;
		case FLOW_BRANCH:
			taken = forks < MAX_FORKS ? follow(target_of(&i), forks + 1)
						  : RETUSE_MAYBE;
			if (taken != RETUSE_LOST)
				return taken;
			p = i.next;
			break;
		case FLOW_UNKNOWN:
			return RETUSE_MAYBE;
		default:
			p = i.next;
			break;
		}
	}
	return RETUSE_MAYBE;
}

enum retuse retuse_of(uintptr_t ret)
{
	return follow((const uint8_t *)ret, 0);
}
