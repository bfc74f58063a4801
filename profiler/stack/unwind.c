/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unwind: walking a stack by CFI rows, see unwind.h.
 *
 * A frame is described by the pc in it, the stack pointer after its callee returned, and
 * rbp. Its row gives the CFA; the return address lies just below the CFA. Rows are cached
 * in one table for all threads, keyed by pc; an entry is two words, the row and the pc
 * XORed with it, so a torn entry does not match and no lock is needed.
 *
 * Concurrency: the cache is shared and lock-free. unwind_here() refuses to nest in one
 * thread (a signal handler that allocates), by seep_tls.unwinding.
 */
#include "profiler/stack/unwind.h"

#include <errno.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/tls.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/tables.h"
#include "profiler/stack/unwind_int.h"

struct row_table *row_table_made;
struct own_text own_text;
struct return_stubs return_stubs;

uint32_t unwind_changes;

/* About 300 KiB each, of which little is touched. Where there are more, nobody will come
 * back to them. */
#define ASIDES_MAX 64
static int32_t asides; /* atomic: set aside and not taken back */

/* ---- rows ---- */

static size_t table_bytes(void)
{
	return sizeof(struct row_table) + (sizeof(struct row_entry) << ROW_TABLE_LG);
}

static void remember_row(struct row_table *t, uintptr_t pc, uint64_t row)
{
	struct row_entry *e = row_entry_at(t, pc);

	atomic_store_relaxed(&e->row, row);
	atomic_store_relaxed(&e->key, pc ^ row);
}

/* More of the table is used from now on. What is known moves, as far as nothing is in the
 * way: entries may be lost, but never wrong. */
static COLD void widen(struct row_table *t, unsigned lg)
{
	if (!atomic_cas_relaxed(&t->lg, &lg, lg + 1))
		return;
	atomic_store_relaxed(&t->nfound, 0u);
	for (size_t i = (size_t)1 << lg; i-- > 0;) {
		uint64_t row = atomic_load_relaxed(&t->entries[i].row);

		if (row)
			remember_row(t, atomic_load_relaxed(&t->entries[i].key) ^ row,
				     row);
	}
}

uint64_t row_find(struct row_table *t, uintptr_t pc)
{
	uint32_t generation = unwind_generation();
	struct cfi_row found = cfi_find_row(pc);
	uint64_t row = cfi_pack(found) | (uint64_t)(uint16_t)generation << 48;
	unsigned lg = atomic_load_relaxed(&t->lg);

	tables_note_row(pc);
	if (found.kind == CFI_MISSING && !module_is_code(pc))
		return row; /* something may be loaded there later */
	if (UNLIKELY(atomic_add_relaxed(&t->nfound, 1u) >> (lg - 1)) && lg < ROW_TABLE_LG)
		widen(t, lg);
	remember_row(t, pc, row);
	return row;
}

static struct cfi_row unpacked_row(uintptr_t pc)
{
	struct row_table *t = row_table();

	return t ? cfi_unpack(row_for(t, pc)) : cfi_find_row(pc);
}

bool unwind_is_described(uintptr_t pc)
{
	return unpacked_row(pc).kind != CFI_MISSING;
}

/* Rows of 65536 generations ago would look new. */
static COLD void forget_rows(struct row_table *t)
{
	for (size_t i = 0; i < (size_t)1 << ROW_TABLE_LG; i++)
		atomic_store_relaxed(&t->entries[i].row, 0u);
}

void unwind_modules_changed(void)
{
	if ((uint16_t)atomic_add_relaxed(&unwind_changes, 1u) == 0 && row_table())
		forget_rows(row_table());
}

/* ---- reading the stack ---- */

/* Can the page at addr be read? Asks the kernel through a call that only copies the word
 * in and then fails: SIGNAL, and allowed by every seccomp filter that lets libc live. */
static bool page_is_readable(uintptr_t addr)
{
	return addr >= OS_PAGE &&
	       os_call(SYS_rt_sigprocmask, -1, (long)(addr & ~(uintptr_t)7), 0, 8, 0,
		       0) != -EFAULT;
}

NO_SANITIZE bool walk_read(struct walk *w, uintptr_t addr, uintptr_t *out)
{
	if (addr % 8 != 0 || addr < w->lo)
		return false;
	if (w->known ? addr > w->hi - 8 : addr - w->window >= w->hi - w->window) {
		uintptr_t page = align_down(addr, OS_PAGE);

		/* A stack that we do not know (coroutine, alternate): page by page; the
		 * window is the run of pages that were found readable last. */
		if (w->known || !page_is_readable(addr))
			return false;
		if (page != w->hi)
			w->window = page;
		w->hi = page + OS_PAGE;
	}
	*out = *(const volatile uintptr_t *)addr;
	return true;
}

bool walk_can_read_up_to(struct walk *w, uintptr_t end)
{
	uintptr_t word;

	if (w->known)
		return end <= w->hi;
	if (w->window == w->hi && !walk_read(w, w->sp, &word))
		return false;
	while (w->hi < end)
		if (!walk_read(w, w->hi, &word))
			return false;
	return true;
}

/* ---- one step ---- */

static bool cfa_of(struct walk *w, struct cfi_row row, uintptr_t pc, uintptr_t *out)
{
	intptr_t offset = row.cfa_offset;

	switch (row.kind) {
	case CFI_RSP:
		*out = w->sp + (uintptr_t)offset;
		return true;
	case CFI_PLT:
		*out = w->sp + (uintptr_t)offset + ((pc & 15) >= 11 ? 8 : 0);
		return true;
	case CFI_RBP:
		*out = w->bp + (uintptr_t)offset;
		return true;
	case CFI_RBP_DEREF:
		return walk_read(w, w->bp + (uintptr_t)offset, out);
	default:
		return false;
	}
}

static bool restore_rbp(struct walk *w, struct cfi_row row, uintptr_t cfa)
{
	uintptr_t offset = (uintptr_t)(intptr_t)row.rbp_offset;

	if (row.rbp == CFI_RBP_AT_CFA)
		return walk_read(w, cfa + offset, &w->bp);
	if (row.rbp == CFI_RBP_AT_RBP)
		return walk_read(w, w->bp + offset, &w->bp);
	return true;
}

static enum step step_by_row(struct walk *w, struct cfi_row row, uintptr_t pc)
{
	uintptr_t cfa = 0, ra = 0;

	if (!cfa_of(w, row, pc, &cfa) || cfa <= w->sp || !walk_read(w, cfa - 8, &ra) ||
	    !restore_rbp(w, row, cfa))
		return STEP_BAD;
	if (ra == 0)
		return STEP_END;
	w->slot = cfa - 8;
	w->sp = cfa;
	w->pc = walk_true_return(ra);
	w->precise = false;
	w->lo = cfa;
	return STEP_OK;
}

/* The trampoline that a signal handler returns to: the interrupted registers are in the
 * kernel's frame at sp (struct rt_sigframe after its return address; offsets of
 * uc_mcontext from <asm/sigcontext.h>: rbp 120, rsp 160, rip 168). */
static enum step step_by_signal(struct walk *w)
{
	uintptr_t bp, sp, ip, slot = w->sp + 168;

	if (!walk_read(w, w->sp + 120, &bp) || !walk_read(w, w->sp + 160, &sp) ||
	    !walk_read(w, slot, &ip))
		return STEP_BAD;
	if (ip == 0)
		return STEP_END;
	w->slot = slot;
	w->pc = ip;
	w->bp = bp;
	w->precise = true;
	walk_enter_stack(w, sp); /* the handler may have run on another stack */
	return STEP_OK;
}

/* Is there a call instruction before ra, in known code? */
NO_SANITIZE static bool follows_call(uintptr_t ra)
{
	const volatile uint8_t *p = (const volatile uint8_t *)ra;

	if (!module_is_code(ra - 1) || !module_is_code(ra - 7))
		return false;
	return p[-5] == 0xe8 || p[-2] == 0xff || p[-3] == 0xff || p[-6] == 0xff ||
	       p[-7] == 0xff || (p[-3] == 0x41 && p[-2] == 0xff) || p[-4] == 0xff;
}

/* The process's first code, the loader's _dl_start_user, has no CFI: it calls the
 * constructors of libraries, with rbp 0 as the ABI marks the outermost frame. */
static bool is_first_code(const struct walk *w)
{
	const struct module *m;

	if (w->bp != 0 || w->precise)
		return false;
	m = module_find_code(w->pc - 1);
	return m && m->is_loader;
}

/* Code without CFI: rbp, if it is a frame pointer. */
static enum step step_by_rbp(struct walk *w)
{
	uintptr_t bp = w->bp, saved = 0, ra = 0;

	if (is_first_code(w))
		return STEP_END;
	if (bp < w->sp || bp - w->sp > UNWIND_MAX_GAP || !walk_read(w, bp, &saved) ||
	    !walk_read(w, bp + 8, &ra))
		return STEP_NO_CFI;
	if (ra == 0)
		return STEP_END;
	ra = walk_true_return(ra);
	if (!follows_call(ra))
		return STEP_NO_CFI;
	w->slot = bp + 8;
	w->sp = bp + 16;
	w->lo = w->sp;
	w->bp = saved;
	w->pc = ra;
	w->precise = false;
	return STEP_OK;
}

/* A language's builtins have no CFI, either, but frame pointers, by which the code that
 * called them is found to be in no module. */
uintptr_t walk_end_mark(struct walk *w)
{
	uintptr_t saved = 0, ra = 0;

	if (!module_is_code(w->pc))
		return FRAME_JIT_PC;
	if (w->bp < w->sp || w->bp - w->sp > UNWIND_MAX_GAP ||
	    !walk_read(w, w->bp, &saved) || !walk_read(w, w->bp + 8, &ra))
		return FRAME_TRUNCATED_PC;
	return saved > w->bp && saved - w->bp <= UNWIND_MAX_GAP && ra >= OS_PAGE &&
			       !module_is_code(ra)
		       ? FRAME_JIT_PC
		       : FRAME_TRUNCATED_PC;
}

/* A return address that nobody called from: a signal trampoline, or where makecontext()
 * lets a coroutine end. pc - 1 is in no function then. Else frame pointers. */
enum step walk_step_missing(struct walk *w)
{
	struct cfi_row row = { .kind = CFI_MISSING };

	if (!w->precise)
		row = unpacked_row(w->pc);
	if (row.kind == CFI_SIGNAL)
		return step_by_signal(w);
	/* Any other function's first byte: the end of a coroutine. */
	return row.kind != CFI_MISSING ? STEP_END : step_by_rbp(w);
}

static enum step step(struct walk *w)
{
	uintptr_t pc = w->precise ? w->pc : w->pc - 1;
	struct cfi_row row = unpacked_row(pc);

	switch (row.kind) {
	case CFI_END:
		return STEP_END;
	case CFI_SIGNAL:
		return step_by_signal(w);
	case CFI_MISSING:
		return walk_step_missing(w);
	case CFI_UNSUPPORTED:
		return STEP_UNSUPPORTED;
	default:
		return step_by_row(w, row, pc);
	}
}

/* ---- walks ---- */

void walk_enter_stack(struct walk *w, uintptr_t sp)
{
	w->sp = sp;
	w->lo = sp > UNWIND_RED_ZONE ? sp - UNWIND_RED_ZONE : 0;
	w->known = w->fixed_hi != 0 && sp < w->fixed_hi && sp >= w->fixed_lo;
	if (w->known)
		w->hi = w->fixed_hi;
	else if (thread_stack_bounds(sp, &w->window, &w->hi))
		w->known = true;
	else
		w->window = w->hi = 0;
}

static int finish(struct frame *frames, int n, int max, uintptr_t pc, enum unwind_end end,
		  enum unwind_end *out_end)
{
	if (n == max)
		n--;
	frames[n++] = (struct frame){ .pc = pc };
	*out_end = end;
	return n;
}

int walk_run(struct walk *w, struct frame *frames, int n, int max,
	     enum unwind_end *out_end)
{
	enum step result;

	for (;;) {
		if (n == max)
			return finish(frames, n, max, FRAME_TRUNCATED_PC,
				      UNWIND_TRUNCATED, out_end);
		frames[n++] = (struct frame){ .pc = w->pc, .slot = w->slot };
		result = step(w);
		if (UNLIKELY(result == STEP_UNSUPPORTED))
			result = unwind_full_step(w);
		switch (result) {
		case STEP_OK:
			break;
		case STEP_END:
			*out_end = UNWIND_COMPLETE;
			return n;
		case STEP_NO_CFI:
			return finish(frames, n, max, walk_end_mark(w), UNWIND_NO_CFI,
				      out_end);
		default:
			return finish(frames, n, max, FRAME_TRUNCATED_PC,
				      UNWIND_BAD_STACK, out_end);
		}
	}
}

NO_SANITIZE static void start_at(struct walk *w, const uintptr_t *fp)
{
	fp = walk_last_own_frame(fp);
	w->pc = walk_true_return(fp[1]);
	w->slot = (uintptr_t)(fp + 1);
	w->bp = fp[0];
	walk_enter_stack(w, (uintptr_t)(fp + 2));
}

int unwind_here(struct frame *frames, int max, enum unwind_end *out_end)
{
	struct walk w = { 0 };
	int n;

	*out_end = UNWIND_BAD_STACK;
	if (seep_tls.unwinding || max < 2)
		return 0;
	seep_tls.unwinding = true;
	atomic_signal_barrier();
	start_at(&w, __builtin_frame_address(0));
	n = walk_run(&w, frames, 0, max, out_end);
	atomic_signal_barrier();
	seep_tls.unwinding = false;
	return n;
}

int unwind_regs(const struct unwind_regs *regs, uintptr_t lo, uintptr_t hi,
		struct frame *frames, int max, enum unwind_end *out_end)
{
	struct walk w = { .pc = regs->ip, .bp = regs->bp, .precise = true, .regs = regs };

	w.fixed_lo = lo;
	w.fixed_hi = hi;
	walk_enter_stack(&w, regs->sp);
	*out_end = UNWIND_BAD_STACK;
	if (max < 2)
		return 0;
	return walk_run(&w, frames, 0, max, out_end);
}

struct frame *unwind_scratch(int *out_max)
{
	int max = (int)opt_get()->stack + 1;

	if (!seep_tls.unwind)
		seep_tls.unwind =
			meta_map((size_t)max * sizeof(struct frame), META_STACK);
	*out_max = max;
	return seep_tls.unwind;
}

void unwind_set_own_text(uintptr_t start, uintptr_t end)
{
	own_text.start = start;
	own_text.size = end - start;
}

void unwind_set_stubs(uintptr_t start, size_t size, uintptr_t table)
{
	return_stubs = (struct return_stubs){ start, size, table };
}

void unwind_init(void)
{
	if (!row_table()) {
		struct row_table *t = meta_map(table_bytes(), META_STACK);

		if (t)
			t->lg = ROW_TABLE_LG_FIRST;
		atomic_store_release(&row_table_made, t);
	}
}

NO_SANITIZE uintptr_t unwind_caller(void)
{
	return walk_true_return(walk_last_own_frame(__builtin_frame_address(0))[1]);
}

void unwind_set_aside(struct unwind_aside *a)
{
	if (atomic_load_relaxed(&asides) < ASIDES_MAX) {
		atomic_add_relaxed(&asides, 1);
		*a = (struct unwind_aside){ seep_tls.trails, seep_tls.unwind,
					    seep_tls.unwinding, true };
		seep_tls.trails = NULL;
		seep_tls.unwind = NULL;
	} else {
		trail_thread_forget();
	}
	seep_tls.unwinding = false;
}

void unwind_take_back(const struct unwind_aside *a)
{
	if (!a->is_set)
		return;
	atomic_add_relaxed(&asides, -1);
	unwind_thread_end();
	seep_tls.trails = a->trails;
	seep_tls.unwind = a->scratch;
	seep_tls.unwinding = a->unwinding;
}

void unwind_fork_child(void)
{
	seep_tls.unwinding = false;
}

void unwind_thread_end(void)
{
	void *scratch = seep_tls.unwind;

	trail_thread_end();
	seep_tls.unwind = NULL;
	meta_unmap(scratch, (opt_get()->stack + 1) * sizeof(struct frame), META_STACK);
}
