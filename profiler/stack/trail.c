/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail: incremental capture, see trail.h.
 *
 * Structure: each thread has a trail for its own stack and a few for others, told apart
 * by the frame that is outermost. A capture (1) walks outwards from the caller and writes
 * what it finds to an array of its own, innermost first; at each frame it (2) drops
 * remembered frames that lie further in and looks whether the next one matches; then (3)
 * compares what lies beyond. Where that differs the walk goes on, and looks for a match
 * further out only. At the end (4) what was walked is put on top of what was retained.
 *
 * Concurrency: a thread's trails are its own. seep_tls.unwinding keeps out a signal
 * handler that allocates; a trail changes only in step 4.
 */
#include "profiler/stack/trail.h"

#include <string.h>

#include "preload/heap/tls.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail_int.h"

/* ---- step 3: comparing ---- */

/* The innermost of places[lo..hi) whose word has changed, plus one; lo: none has. */
NO_SANITIZE static uint32_t changed_place(const struct trail_place *places, uint32_t lo,
					  uint32_t hi)
{
	const struct trail_place *p = places + hi, *end = places + lo;

#define DIFF(p) (*(const volatile uintptr_t *)(p).slot ^ (p).pc)
	while (p > end) {
		if (LIKELY(p - end >= 4) && LIKELY((DIFF(p[-1]) | DIFF(p[-2]) |
						    DIFF(p[-3]) | DIFF(p[-4])) == 0)) {
			p -= 4;
			continue;
		}
		if (DIFF(p[-1]) != 0 &&
		    walk_true_return(*(const volatile uintptr_t *)p[-1].slot) != p[-1].pc)
			break;
		p--;
	}
#undef DIFF
	return (uint32_t)(p - places);
}

NO_SANITIZE static uint32_t changed_word(const struct trail_word *words, uint32_t lo,
					 uint32_t hi)
{
	while (hi > lo &&
	       *(const volatile uintptr_t *)words[hi - 1].addr == words[hi - 1].value)
		hi--;
	return hi;
}

/* The walk is at the place of remembered frame `at`, with this rbp. True: it matches, and
 * all that is further out is unchanged. Else s->at is where a match may be yet. */
static bool proves(struct scan *s, int at, uintptr_t bp)
{
	const struct trail *t = s->trail;
	const struct trail_frame *f = &t->frames[at];
	uint32_t base = f->base, words = base ? t->frames[base].nwords : 0;
	uint32_t place, word;

	s->at = at - 1;
	if ((f->flags & TRAIL_NEEDS_BP) && f->bp != bp)
		return false;
	if (UNLIKELY(t->rootless && base == 0) ||
	    (UNLIKELY(!s->w.known) && !walk_can_read_up_to(&s->w, t->top))) {
		s->at = -1;
		return false;
	}
	if (base == 0 && t->places[0].pc <= FRAME_PSEUDO_MAX)
		base = 1; /* nothing is at its slot */
	s->all->stats.compared += (uint32_t)at - base;
	place = changed_place(t->places, base, (uint32_t)at);
	word = changed_word(t->words, words, f->nwords);
	if (LIKELY(place == base && word == words)) {
		s->at = at;
		return true;
	}
	if (place > base)
		s->at = (int)place - 2;
	while (word > words && s->at >= 0 && t->frames[s->at].nwords >= word)
		s->at--;
	return false;
}

/* ---- step 1: walking ---- */

/* CFAs that are not rsp plus a constant. 0: none. */
static uintptr_t odd_cfa(struct walk *w, struct walked *f, struct cfi_row row)
{
	uintptr_t offset = (uintptr_t)(intptr_t)row.cfa_offset, cfa = 0;

	switch (row.kind) {
	case CFI_RSP:
		return w->sp + offset;
	case CFI_PLT:
		return w->sp + offset + (((f->pc - 1) & 15) >= 11 ? 8 : 0);
	case CFI_RBP:
		f->odd = TRAIL_USES_BP;
		return w->bp + offset;
	case CFI_RBP_DEREF:
		f->odd = (w->bp + offset) | TRAIL_USES_BP;
		return walk_read(w, w->bp + offset, &cfa) ? cfa : 0;
	default:
		return 0;
	}
}

/* No row and no frame pointer: code of a JIT compiler. */
static enum verdict step_nowhere(struct scan *s, struct walked *f)
{
	uintptr_t bp = s->w.bp, words[2];

	if (bp >= s->w.sp && bp - s->w.sp <= UNWIND_MAX_GAP &&
	    walk_read(&s->w, bp, &words[0]) && walk_read(&s->w, bp + 8, &words[1]))
		for (uintptr_t i = 0; i < 2; i++)
			s->tried[i] = (struct trail_word){ bp + i * 8, words[i] };
	f->odd = TRAIL_USES_BP;
	s->pseudo = module_is_code(f->pc) ? FRAME_TRUNCATED_PC : FRAME_JIT_PC;
	return ROOT;
}

/* A frame that has no row: frame pointers, or an end. */
static COLD enum verdict step_missing(struct scan *s, struct walked *f)
{
	uintptr_t bp = s->w.bp;
	enum step step = walk_step_missing(&s->w);

	if (step == STEP_END) {
		uint64_t row = row_for(atomic_load_acquire(&row_cache), f->pc);

		if (cfi_unpack(row).kind != CFI_MISSING)
			return ROOT; /* the code alone says so */
		f->odd = TRAIL_USES_BP;
		s->zero = bp + 8;
		return ROOT;
	}
	if (step == STEP_NO_CFI)
		return step_nowhere(s, f);
	if (step != STEP_OK || s->w.precise)
		return REFUSED;
	f->odd = TRAIL_USES_BP;
	f->save = bp;
	return MATCHED;
}

/* From w to its caller by any row; f is w's frame. MATCHED: go on. */
static NOINLINE enum verdict step_odd(struct scan *s, struct walked *f)
{
	struct walk *w = &s->w;
	struct cfi_row row =
		cfi_unpack(row_for(atomic_load_acquire(&row_cache), f->pc - 1));
	uintptr_t cfa, ra = 0, save;

	w->slot = f->slot;
	w->pc = f->pc;
	w->bp = f->bp;
	w->sp = w->lo = f->slot + 8;
	if (row.kind == CFI_END)
		return ROOT;
	if (row.kind == CFI_MISSING)
		return step_missing(s, f);
	cfa = odd_cfa(w, f, row);
	if (cfa <= w->sp || !walk_read(w, cfa - 8, &ra))
		return REFUSED;
	if (row.rbp != CFI_RBP_SAME) {
		save = cfa;
		if (row.rbp == CFI_RBP_AT_RBP) {
			save = w->bp;
			f->odd |= TRAIL_USES_BP;
		}
		save += (uintptr_t)(intptr_t)row.rbp_offset;
		if (save >= cfa || !walk_read(w, save, &w->bp))
			return REFUSED;
		f->save = save;
	}
	if (ra == 0) {
		s->zero = cfa - 8;
		return ROOT;
	}
	w->slot = cfa - 8;
	w->pc = walk_true_return(ra);
	return MATCHED;
}

/* What a row comes to, if it is one of the simple ones: they keep inside the frame. */
static NOINLINE void learn_row(struct known_row *r, struct row_entry *rows, uintptr_t pc)
{
	struct cfi_row row = cfi_unpack(row_for(rows, pc - 1));

	r->kind = ROW_ODD;
	r->pc = row.kind == CFI_MISSING ? 0 : pc; /* code may be loaded there later */
	if (row.kind != CFI_RSP || row.cfa_offset <= 0 || row.cfa_offset % 8 != 0)
		return;
	r->distance = row.cfa_offset;
	if (row.rbp == CFI_RBP_SAME) {
		r->kind = ROW_KEEPS;
	} else if (row.rbp == CFI_RBP_AT_CFA && row.rbp_offset % 8 == 0 &&
		   row.rbp_offset <= -16 && -row.rbp_offset <= row.cfa_offset) {
		r->save = (int16_t)(row.rbp_offset + 8);
		r->kind = ROW_SAVES;
	}
}

NO_SANITIZE static enum verdict walk(struct scan *s, struct row_entry *rows)
{
	struct trails *a = s->all;
	const struct trail_place *places = s->trail->places, *at = places + s->at;
	uintptr_t slot = s->w.slot, pc = s->w.pc, bp = s->w.bp;
	uint32_t n = 0;
	enum verdict v = MATCHED;

	for (;; n++) {
		struct walked *f;
		struct known_row *r;

		while (at->slot < slot)
			at--;
		if (at->slot == slot && at->pc == pc) {
			s->w.sp = s->w.lo = slot + 8;
			if (proves(s, (int)(at - places), bp))
				break;
			at = places + s->at;
		}
		if (UNLIKELY(n == a->capacity) && !trails_grow_walked(a)) {
			v = CUT;
			break;
		}
		f = &a->walked[n];
		f->slot = slot;
		f->pc = pc;
		f->bp = bp;
		f->save = 0;
		f->odd = 0;
		r = &a->rows[(pc ^ pc >> 10) % ROWS];
		if (UNLIKELY(r->pc != pc))
			learn_row(r, rows, pc);
		if (LIKELY(r->kind != ROW_ODD) &&
		    LIKELY(slot + (uintptr_t)(intptr_t)r->distance < s->w.hi)) {
			slot += (uintptr_t)(intptr_t)r->distance;
			pc = walk_true_return(*(const volatile uintptr_t *)slot);
			if (r->kind == ROW_SAVES) {
				f->save = slot + (uintptr_t)(intptr_t)r->save;
				bp = *(const volatile uintptr_t *)f->save;
			}
			if (LIKELY(pc != 0))
				continue;
			s->zero = slot;
			v = ROOT;
		} else {
			v = step_odd(s, f);
			slot = s->w.slot;
			pc = s->w.pc;
			bp = s->w.bp;
		}
		if (v != MATCHED) {
			n++;
			break;
		}
	}
	s->n = n;
	if (v == MATCHED)
		s->at = (int)(at - places);
	a->stats.walked += n;
	return v;
}

/* Is the stack of fp's caller the thread's last one, as in a loop? What walk_from() would
 * find then: a match at once, and nothing further out changed. */
ALWAYS_INLINE NO_SANITIZE bool is_repeat(struct trails *a, const uintptr_t *fp)
{
	const struct trail *t = &a->own;
	const struct trail_place *last = t->places + t->count - 1;
	const struct trail_frame *f = &t->frames[t->count - 1];
	uint32_t base;

	if (t->count == 0 || last->slot != (uintptr_t)(fp + 1) ||
	    last->pc != walk_true_return(fp[1]) || t->rootless || f->base > 0 ||
	    a->generation != unwind_generation() ||
	    ((f->flags & TRAIL_NEEDS_BP) && f->bp != fp[0]))
		return false;
	base = t->places[0].pc <= FRAME_PSEUDO_MAX;
	a->stats.compared += t->count - 1 - base;
	return changed_place(t->places, base, t->count - 1) == base &&
	       changed_word(t->words, 0, f->nwords) == 0;
}

/* Walks from the caller of fp's frame to what is remembered. */
NO_SANITIZE static enum verdict walk_from(struct scan *s, const uintptr_t *fp,
					  struct row_entry *rows)
{
	struct trails *a = s->all;
	uint32_t generation = unwind_generation();

	s->w.pc = walk_true_return(fp[1]);
	s->w.slot = (uintptr_t)(fp + 1);
	s->w.bp = fp[0];
	s->w.sp = s->w.lo = (uintptr_t)(fp + 2);
	s->w.precise = false;
	s->w.known = thread_stack_bounds(s->w.sp, &s->w.window, &s->w.hi);
	if (UNLIKELY(!s->w.known))
		s->w.window = s->w.hi = 0;
	s->w.fixed_lo = s->w.fixed_hi = 0;
	s->zero = s->pseudo = 0;
	s->tried[0].addr = 0;
	if (UNLIKELY(a->generation != generation)) {
		a->generation = generation;
		memset(a->rows, 0, sizeof(a->rows));
		trails_forget(a);
	}
	s->trail = s->w.known ? &a->own : trails_guess_other(a, s->w.sp);
	if (UNLIKELY(!s->trail->places) && !trail_grow(s->trail, FRAMES_FIRST))
		return REFUSED;
	s->at = (int)s->trail->count - 1;
	return walk(s, rows);
}

static bool keep_all(struct scan *s, enum verdict v)
{
	if (UNLIKELY(v == REFUSED) || !trail_keep(s, v)) {
		s->all->stats.refused++;
		return false;
	}
	s->trail->used = ++s->all->serial;
	s->trail->steps = s->all->steps;
	return true;
}

/* Only what is dead is taken off. */
static bool keep_retained(struct scan *s, enum verdict v)
{
	if (UNLIKELY(v != MATCHED))
		return keep_all(s, v);
	s->trail->count = (uint32_t)(s->at + 1);
	return true;
}

static NOINLINE struct trail *walk_all(struct trails *a, const uintptr_t *fp,
				       struct row_entry *rows)
{
	struct scan s;

	s.all = a;
	return keep_all(&s, walk_from(&s, fp, rows)) ? s.trail : NULL;
}

static NOINLINE struct trail *walk_retained(struct trails *a, const uintptr_t *fp,
					    struct row_entry *rows)
{
	struct scan s;

	s.all = a;
	return keep_retained(&s, walk_from(&s, fp, rows)) ? s.trail : NULL;
}

ALWAYS_INLINE struct trail *
capture(const uintptr_t *fp,
	struct trail *(*walk_and_keep)(struct trails *a, const uintptr_t *fp,
				       struct row_entry *rows))
{
	struct row_entry *rows = atomic_load_acquire(&row_cache);
	struct trails *a = seep_tls.trails;
	struct trail *t = NULL;

	if (seep_tls.unwinding || !rows)
		return NULL;
	seep_tls.unwinding = true;
	atomic_signal_barrier();
	if (UNLIKELY(!a))
		a = trails_make();
	if (LIKELY(a != NULL)) {
		fp = walk_last_own_frame(fp);
		t = is_repeat(a, fp) ? &a->own : walk_and_keep(a, fp, rows);
		if (UNLIKELY(++a->stats.captures >= STATS_INTERVAL))
			trails_add_stats(a);
	}
	atomic_signal_barrier();
	seep_tls.unwinding = false;
	return t;
}

struct trail *trail_capture(void)
{
	return capture(__builtin_frame_address(0), walk_all);
}

const struct trail *trail_retained(void)
{
	return capture(__builtin_frame_address(0), walk_retained);
}
