/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unwind_full: past a frame whose row the walk cannot use, because the CFA lies in, or is
 * computed from, a register that the walk does not follow. All registers are recovered
 * from the innermost frame, or from those of a stopped thread, up to that frame.
 */
#include "profiler/stack/cfi_full.h"
#include "profiler/stack/unwind_int.h"

#define MAX_STEPS 65536 /* deeper stacks are not walked twice */
#define BIT(reg)  ((uint32_t)1 << (reg))

/* The registers here, as far as a call preserves them. */
ALWAYS_INLINE void read_regs(struct cfi_regs *r)
{
	uintptr_t *v = r->value;

	__asm__ volatile("mov %%rbx, 24(%0)\n\tmov %%rbp, 48(%0)\n\t"
			 "mov %%rsp, 56(%0)\n\tmov %%r12, 96(%0)\n\t"
			 "mov %%r13, 104(%0)\n\tmov %%r14, 112(%0)\n\t"
			 "mov %%r15, 120(%0)\n\tlea 0f(%%rip), %%rax\n"
			 "0:\tmov %%rax, 128(%0)"
			 :
			 : "r"(v)
			 : "rax", "memory");
}

static void set_known(struct cfi_regs *r)
{
	r->known = BIT(CFI_REG_RBX) | BIT(CFI_REG_RBP) | BIT(CFI_REG_RSP) |
		   BIT(CFI_REG_RA) | (uint32_t)0xf << CFI_REG_R12;
	r->precise = true;
}

static void regs_of(const struct unwind_regs *from, struct cfi_regs *r)
{
	r->value[CFI_REG_RBX] = from->bx;
	r->value[CFI_REG_RBP] = from->bp;
	r->value[CFI_REG_RSP] = from->sp;
	r->value[CFI_REG_RA] = from->ip;
	r->value[CFI_REG_R12] = from->r12;
	r->value[CFI_REG_R12 + 1] = from->r13;
	r->value[CFI_REG_R12 + 2] = from->r14;
	r->value[CFI_REG_R15] = from->r15;
}

static bool read_word(void *arg, uintptr_t addr, uintptr_t *out)
{
	return walk_read(arg, addr, out);
}

static void to_walk(const struct cfi_regs *r, struct walk *w)
{
	w->pc = r->value[CFI_REG_RA];
	w->bp = r->known & BIT(CFI_REG_RBP) ? r->value[CFI_REG_RBP] : 0;
	w->slot = r->slot;
	w->precise = r->precise;
}

/* Code without a description: what the walk knows goes on. */
static enum step step_missing(struct walk *v, struct cfi_regs *r)
{
	enum step step = walk_step_missing(v);

	if (step != STEP_OK)
		return step;
	*r = (struct cfi_regs){ .slot = v->slot, .precise = v->precise };
	r->value[CFI_REG_RA] = v->pc;
	r->value[CFI_REG_RBP] = v->bp;
	r->value[CFI_REG_RSP] = v->sp;
	r->known = BIT(CFI_REG_RA) | BIT(CFI_REG_RBP) | BIT(CFI_REG_RSP);
	return STEP_OK;
}

static enum step step(struct walk *v, struct cfi_regs *r)
{
	uintptr_t sp;

	switch (cfi_full_step(r, read_word, v)) {
	case CFI_STEP_OK:
		break;
	case CFI_STEP_END:
		return STEP_END;
	case CFI_STEP_MISSING:
		return step_missing(v, r);
	default:
		return STEP_BAD;
	}
	sp = r->value[CFI_REG_RSP];
	r->value[CFI_REG_RA] = walk_true_return(r->value[CFI_REG_RA]);
	if (r->precise)
		walk_enter_stack(v, sp); /* a signal's handler may have its own */
	else if (sp <= v->sp)
		return STEP_BAD;
	else
		v->sp = v->lo = sp;
	to_walk(r, v);
	return STEP_OK;
}

enum step unwind_full_step(struct walk *w)
{
	struct walk v = { .fixed_lo = w->fixed_lo, .fixed_hi = w->fixed_hi };
	struct cfi_regs r = { .slot = 0 };

	v.regs = w->regs;
	if (w->regs)
		regs_of(w->regs, &r);
	else
		read_regs(&r);
	set_known(&r);
	to_walk(&r, &v);
	walk_enter_stack(&v, r.value[CFI_REG_RSP]);
	for (int i = 0; i < MAX_STEPS; i++) {
		bool here = v.pc == w->pc && v.slot == w->slot && v.sp == w->sp;
		enum step result = step(&v, &r);

		if (result != STEP_OK)
			return result;
		if (here) {
			*w = v;
			return STEP_OK;
		}
	}
	return STEP_BAD;
}
