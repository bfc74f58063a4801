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

/* The walk is at the place of remembered frame `at`, with this rbp. True: it matches, and
 * all that is further out is unchanged. Else s->at is where a match may be yet. */
static NOINLINE bool proves_with_words(struct scan *s, int at, uintptr_t bp)
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
	place = (uint32_t)(changed_place(t->places + base - 1, t->places + at - 1) -
			   t->places + 1);
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

/* The same. Mostly the words are one: the 0 that ends the stack. */
ALWAYS_INLINE bool proves(struct scan *s, const struct trail_place *at, uintptr_t slot,
			  uintptr_t bp)
{
	const struct trail_place *places = s->trail->places, *changed;
	const struct trail_frame *f = &s->trail->frames[at - places];

	if ((f->flags & TRAIL_NEEDS_BP) && f->bp != bp) {
		s->at = (int)(at - places) - 1;
		return false;
	}
	if (UNLIKELY(!s->whole) || UNLIKELY(f->base != 0) ||
	    UNLIKELY(changed_word(s->trail->words, 0, f->nwords) != 0)) {
		s->w.sp = s->w.lo = slot + 8;
		return proves_with_words(s, (int)(at - places), bp);
	}
	s->all->stats.compared += (uint64_t)(at - places);
	changed = changed_place(places - 1, at - 1);
	if (LIKELY(changed < places))
		return true;
	s->at = (int)(changed - places) - 1;
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
		f->slot |= WALKED_USES_BP;
		return w->bp + offset;
	case CFI_RBP_DEREF:
		f->slot |= WALKED_USES_BP | WALKED_BY_WORD;
		f->word = w->bp + offset;
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
	f->slot |= WALKED_USES_BP;
	s->pseudo = walk_end_mark(&s->w);
	return ROOT;
}

/* A frame that has no row: frame pointers, or an end. */
static COLD enum verdict step_missing(struct scan *s, struct walked *f)
{
	uintptr_t bp = s->w.bp;
	enum step step = walk_step_missing(&s->w);

	if (step == STEP_END) {
		uint64_t row = row_for(row_table(), f->pc);

		if (cfi_unpack(row).kind != CFI_MISSING)
			return ROOT; /* the code alone says so */
		f->slot |= WALKED_USES_BP;
		s->zero = bp ? bp + 8 : 0;
		return ROOT;
	}
	if (step == STEP_NO_CFI)
		return step_nowhere(s, f);
	if (step != STEP_OK || s->w.precise)
		return REFUSED;
	f->slot |= WALKED_USES_BP;
	f->save = (const uintptr_t *)bp;
	return MATCHED;
}

/* From w to its caller by any row; f is w's frame. MATCHED: go on. */
static NOINLINE enum verdict step_odd(struct scan *s, struct walked *f)
{
	struct walk *w = &s->w;
	struct cfi_row row = cfi_unpack(row_for(row_table(), f->pc - 1));
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
			f->slot |= WALKED_USES_BP;
		}
		save += (uintptr_t)(intptr_t)row.rbp_offset;
		if (save >= cfa || !walk_read(w, save, &w->bp))
			return REFUSED;
		f->save = (const uintptr_t *)save;
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
static void simplify_row(struct known_row *r, struct cfi_row row)
{
	*r = (struct known_row){ .distance = ROW_FAR, .kind = ROW_ODD };
	if (row.kind == CFI_END)
		r->kind = ROW_END;
	if (row.cfa_offset <= 0 || row.cfa_offset % 8 != 0)
		return;
	if (row.kind == CFI_RBP) {
		if (row.cfa_offset != 16 || row.rbp != CFI_RBP_AT_CFA ||
		    row.rbp_offset != -16)
			return;
		r->save = -8;
		r->kind = ROW_FRAME;
		return;
	}
	if (row.kind != CFI_RSP)
		return;
	if (row.rbp == CFI_RBP_SAME) {
		r->kind = ROW_KEEPS;
	} else if (row.rbp == CFI_RBP_AT_CFA && row.rbp_offset % 8 == 0 &&
		   row.rbp_offset <= -16 && -row.rbp_offset <= row.cfa_offset) {
		r->save = (int16_t)(row.rbp_offset + 8);
		r->kind = ROW_SAVES;
	} else {
		return;
	}
	r->distance = (uint32_t)row.cfa_offset;
}

NOINLINE const struct known_row *trail_learn_row(struct trails *a, uintptr_t pc)
{
	struct cfi_row row;
	uint32_t i;

	if (UNLIKELY(walk_true_return(pc) != pc))
		return &a->stub_row;
	if (UNLIKELY(++a->nlearned > a->row_mask) && a->row_mask < ROWS_MAX - 1) {
		a->row_mask = a->row_mask * 2 + 1;
		a->nlearned = 0;
	}
	row = cfi_unpack(row_for(row_table(), pc - 1));
	i = (uint32_t)pc & a->row_mask;
	simplify_row(&a->rows[i], row);
	/* Where none is, code may be loaded later. */
	a->row_pcs[i] = row.kind == CFI_MISSING ? 0 : pc;
	return &a->rows[i];
}

/* Any step that is not simple, by s->w. A pc of 0 ends the stack. */
static NOINLINE enum verdict step_slowly(struct scan *s, struct walked *f)
{
	if (f->pc == 0) {
		s->zero = f->slot;
		return ENDED;
	}
	f->save = &f->bp;
	return step_odd(s, f);
}

/* Room for more than the f frames there are. NULL: there is none. */
static COLD struct walked *grow(struct trails *a, struct walked *f)
{
	const struct walked *old = a->walked;
	ptrdiff_t n = f - old;

	if (!trails_grow_walked(a))
		return NULL;
	for (f = a->walked; f < a->walked + n; f++)
		if (f->save == &old[f - a->walked].bp)
			f->save = &f->bp;
	return f;
}

/* The next slot by a frame pointer; none: one past every stack. */
static inline uintptr_t slot_by_frame(uintptr_t slot, uintptr_t bp)
{
	return bp > slot + 8 && bp % 8 == 0 ? bp + 8 : UINTPTR_MAX;
}

NO_SANITIZE static enum verdict walk(struct scan *s)
{
	struct trails *a = s->all;
	const struct trail_place *places = s->trail->places, *at = places + s->at;
	const struct return_stubs stubs = return_stubs;
	uintptr_t hi = s->w.hi; /* of a stack that is not known it grows */
	uintptr_t slot = s->w.slot, pc = s->w.pc, bp = s->w.bp;
	struct walked *f = a->walked, *end = f + a->capacity;
	enum verdict v = MATCHED;

	for (;; f++) {
		const struct known_row *r;
		uintptr_t next;

		while (at->slot < slot)
			at--;
		if (at->slot == slot && at->pc == pc) {
			if (proves(s, at, slot, bp)) {
				s->at = (int)(at - places);
				break;
			}
			at = places + s->at;
		}
		if (UNLIKELY(f == end)) {
			struct walked *more = grow(a, f);

			if (!more) {
				v = CUT;
				break;
			}
			f = more;
			end = a->walked + a->capacity;
		}
		f->slot = slot;
		f->pc = pc;
		f->bp = bp;
		r = &a->rows[pc & a->row_mask]; /* the slowest chain is through here */
		if (UNLIKELY(a->row_pcs[pc & a->row_mask] != pc))
			r = trail_learn_row(a, pc);
		next = slot + r->distance;
		if (r->kind == ROW_FRAME) { /* not a sum of either: it is on the chain */
			next = slot_by_frame(slot, bp);
			f->slot |= WALKED_USES_BP;
		}
		if (UNLIKELY(r->kind <= ROW_END) || UNLIKELY(next >= hi)) {
			f->slot = slot;
			v = step_slowly(s, f);
			slot = s->w.slot;
			pc = s->w.pc;
			bp = s->w.bp;
			hi = s->w.hi;
			if (v == MATCHED)
				continue;
			f += v != ENDED;
			break;
		}
		/* No branch, since saved and kept registers alternate at random. */
		f->save = r->kind == ROW_KEEPS
				  ? &f->bp
				  : (const uintptr_t *)(next +
							(uintptr_t)(intptr_t)r->save);
		bp = *(const volatile uintptr_t *)f->save;
		slot = next;
		pc = *(const volatile uintptr_t *)slot;
		if (UNLIKELY(pc - stubs.start < stubs.size))
			pc = walk_true_return(pc);
	}
	s->n = (uint32_t)(f - a->walked);
	a->stats.walked += s->n;
	return v == ENDED ? ROOT : v;
}

static COLD void enter_generation(struct trails *a, uint32_t generation)
{
	a->generation = generation;
	memset(a->rows, 0, (a->row_mask + 1) * sizeof(a->rows[0]));
	memset(a->row_pcs, 0, (a->row_mask + 1) * sizeof(a->row_pcs[0]));
	trails_forget(a); /* memos, too */
}

void trail_thread_forget(void)
{
	struct trails *a = seep_tls.trails;

	if (!a)
		return;
	if (a->moves) { /* its arrays may be gone */
		seep_tls.trails = NULL;
		return;
	}
	enter_generation(a, a->generation);
	memset(a->steps.list, 0, (a->steps.mask + 1) * sizeof(a->steps.list[0]));
}

/* Walks from the caller of fp's frame, which is our outermost, to what is remembered.
 */
ALWAYS_INLINE NO_SANITIZE enum verdict walk_from(struct scan *s, const uintptr_t *fp)
{
	struct trails *a = s->all;
	struct trail *t;
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
	if (UNLIKELY(a->generation != generation))
		enter_generation(a, generation);
	t = LIKELY(s->w.known) ? &a->own : trails_guess_other(a, s->w.sp);
	s->trail = t;
	if (UNLIKELY(!t->places) && !trail_grow(t, FRAMES_FEW))
		return REFUSED;
	trail_set_frames(t);
	s->whole = s->w.known && !t->rootless && t->places[0].pc > FRAME_PSEUDO_MAX;
	s->at = (int)t->count - 1;
	return walk(s);
}

static bool keep(struct scan *s, enum verdict v)
{
	if (LIKELY(v == MATCHED) && s->n == 0) {
		s->trail->count = s->trail->nset = (uint32_t)(s->at + 1);
	} else if (UNLIKELY(v == REFUSED) || !trail_keep(s, v)) {
		s->all->stats.refused++;
		return false;
	}
	s->trail->used = ++s->all->serial;
	return true;
}

NOINLINE struct trail *trail_capture_any(struct trails *a, const uintptr_t *fp)
{
	struct trail *t = NULL;

	if (seep_tls.unwinding || !row_table())
		return NULL;
	seep_tls.unwinding = true;
	atomic_signal_barrier();
	if (UNLIKELY(!a))
		a = trails_make();
	if (LIKELY(a != NULL)) {
		struct scan s;

		s.all = a;
		a->stats.walks++;
		a->memo = a->fresh = NULL;
		a->latest = found_word(TRAIL_UNKNOWN, 0);
		if (keep(&s, walk_from(&s, fp)))
			t = s.trail;
		trails_set_plain(a);
		if (UNLIKELY(++a->stats.captures >= STATS_INTERVAL))
			trails_add_stats(a);
	}
	atomic_signal_barrier();
	seep_tls.unwinding = false;
	return t;
}
