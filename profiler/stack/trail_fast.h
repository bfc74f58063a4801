/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail_fast: the plain case of a capture where nothing is to be walked, see
 * trail_plain.c: inline, for who captures at every allocation.
 */
#ifndef PROFILER_STACK_TRAIL_FAST_H
#define PROFILER_STACK_TRAIL_FAST_H

#include "preload/heap/tls.h"
#include "profiler/stack/trail_int.h"

/* ---- trail_plain.c ---- */

/* Is none of [lo, hi], which are less than four, changed? */
bool trail_few_are_unchanged(const struct trail_place *lo, const struct trail_place *hi);
/* The captured stack is the trail's up to the frame that m met, and m's. */
void trail_memo_note_ended(struct trail *t, const struct trail_memo *m);
/* Nothing that is remembered holds; m is where the walk is to be. Node 0: it is not a
 * plain case. */
struct trail_found trail_capture_by_walk(struct trails *a, const uintptr_t *fp,
					 struct trail_memo *m);
/* A memo with this hash does not hold, because of that word. */
struct trail_found trail_capture_further(struct trails *a, const uintptr_t *fp,
					 uint32_t hash, uintptr_t word);
/* Not the stack that is remembered. Node 0: it is not a plain case. */
struct trail_found trail_capture_other(struct trails *a, const uintptr_t *fp);

/* ---- comparing ---- */

/* Is none of [lo, hi] changed? There may be stubs: then it is not known. */
ALWAYS_INLINE NO_SANITIZE bool is_unchanged(const struct trail_place *lo,
					    const struct trail_place *hi)
{
	const struct trail_place *four = lo + 3;

	if (UNLIKELY(hi < four))
		return trail_few_are_unchanged(lo, hi);
	for (; hi > four; hi -= 4)
		if (!four_are_same(hi))
			return false;
	return four_are_same(four); /* some of these for the second time */
}

/* Does the trail's frame i depend on nothing but return addresses, and on words that are
 * unchanged? False: it is not known. */
ALWAYS_INLINE bool is_simple(const struct trails *a, uint32_t i)
{
	return LIKELY(i >= a->simple_from) &&
	       (LIKELY(a->simple_words == 0) ||
		LIKELY(changed_word(a->own.words, 0, a->simple_words) == 0));
}

/* ---- memos ---- */

/* FAST. Where a walk with this hash may be. */
ALWAYS_INLINE struct trail_memo *memo_at(struct trails *a, uint32_t hash)
{
	const uint32_t lg = 16 - LG_MEMO_SIZE; /* one shift and a mask of bytes */

	return (void *)((uintptr_t)a->memos + (hash >> lg & a->memo_mask));
}

/* FAST. The other one of a pair. */
ALWAYS_INLINE struct trail_memo *memo_beside(const struct trail_memo *m)
{
	return (void *)((uintptr_t)m ^ sizeof(*m));
}

ALWAYS_INLINE bool memo_is_of(const struct trail_memo *m, uintptr_t slot, uintptr_t pc)
{
	return LIKELY(m->slot == slot) && LIKELY(m->frames[0].pc == pc);
}

/* FAST. The first of m's frames whose word is not as it was, or the one that was met. */
ALWAYS_INLINE NO_SANITIZE const struct memo_frame *
memo_compare(const struct trail_memo *m)
{
	const struct memo_frame *f = m->frames + 1, *met = m->frames + m->count;

	while (LIKELY(*(const volatile uintptr_t *)(m->slot + f->offset) == f->pc) &&
	       f != met)
		f++;
	return f;
}

ALWAYS_INLINE uint32_t memo_hash(uintptr_t slot, uintptr_t pc)
{
	return ((uint32_t)pc ^ (uint32_t)slot << 8) * 0x9e3779b1u;
}

/* FAST. The one of a pair with that beginning, or NULL. */
ALWAYS_INLINE struct trail_memo *memo_pick(struct trail_memo *m, uintptr_t slot,
					   uintptr_t pc)
{
	if (LIKELY(memo_is_of(m, slot, pc)))
		return m;
	m = memo_beside(m);
	return memo_is_of(m, slot, pc) ? m : NULL;
}

enum memo_verdict { MEMO_HOLDS, MEMO_IS_STALE, MEMO_IS_ANOTHER };

/* FAST. Are the words of the walk that m is as they were, and all those beyond, which the
 * trail has? Walks that part from another one are told apart by the first word that
 * differs, or by the node of what they met: MEMO_IS_ANOTHER, by *out_word. */
ALWAYS_INLINE NO_SANITIZE enum memo_verdict
memo_judge(struct trails *a, const struct trail_memo *m, uintptr_t *out_word)
{
	const struct trail *t = &a->own;
	const struct memo_frame *f = memo_compare(m);
	const struct trail_place *p;

	*out_word = *(const volatile uintptr_t *)(m->slot + f->offset);
	if (UNLIKELY(*out_word != f->pc))
		return MEMO_IS_ANOTHER;
	p = &t->places[m->index];
	if (UNLIKELY(m->index >= t->count) || UNLIKELY(p->slot != m->slot + f->offset))
		return MEMO_IS_STALE;
	*out_word = t->nodes[m->index].node;
	if (UNLIKELY(*out_word != f->node))
		return MEMO_IS_ANOTHER;
	return is_simple(a, m->index) && LIKELY(is_unchanged(t->places, p - 1))
		       ? MEMO_HOLDS
		       : MEMO_IS_STALE;
}

/* FAST. The stack whose inner part m, which holds, is, is the captured one. The trail is
 * left as it is: what is further in than m's last frame may hold again. */
ALWAYS_INLINE struct trail_found memo_take(struct trails *a, struct trail_memo *m)
{
	a->stats.captures++;
	a->memo = m;
	if (UNLIKELY(a->own.nset > m->index + 1u))
		trail_memo_note_ended(&a->own, m);
	return (struct trail_found){ m->frames[0].node, m->number };
}

/* ---- captures ---- */

ALWAYS_INLINE bool is_plain(const struct trails *a, const uintptr_t *fp)
{
	return LIKELY((uintptr_t)(fp + 1) >= a->plain_lo) &&
	       LIKELY(a->generation == unwind_generation());
}

/* FAST. Is the trail's innermost frame the one at fp, with all beyond as it was? Then
 * this was a capture. */
ALWAYS_INLINE NO_SANITIZE bool repeat(struct trails *a, const uintptr_t *fp)
{
	const struct trail *t = &a->own;
	const uint32_t count = t->count;
	const struct trail_place *last = t->places + count - 1;

	if (last->slot != (uintptr_t)(fp + 1) || last->pc != fp[1] ||
	    UNLIKELY(!is_simple(a, count - 1)) ||
	    UNLIKELY(!is_unchanged(t->places, last - 1)))
		return false;
	a->stats.captures++;
	a->stats.compared += count - 1;
	a->memo = NULL;
	return true;
}

/* FAST. By the memos; slot and pc are where it begins. */
ALWAYS_INLINE struct trail_found capture_by_memo(struct trails *a, const uintptr_t *fp)
{
	const uintptr_t slot = (uintptr_t)(fp + 1), pc = fp[1];
	const uint32_t hash = memo_hash(slot, pc);
	struct trail_memo *m = memo_pick(memo_at(a, hash), slot, pc);
	uintptr_t word;

	if (UNLIKELY(!m))
		return trail_capture_by_walk(a, fp, memo_at(a, hash));
	switch (memo_judge(a, m, &word)) {
	case MEMO_HOLDS:
		return memo_take(a, m);
	case MEMO_IS_STALE:
		return trail_capture_by_walk(a, fp, m);
	default:
		return trail_capture_further(a, fp, hash, word);
	}
}

/* FAST. The caller of fp's frame is our own outermost. Node 0: it is not a plain case. */
ALWAYS_INLINE struct trail_found capture_plain(struct trails *a, const uintptr_t *fp)
{
	if (UNLIKELY(!is_plain(a, fp)))
		return trail_capture_other(a, fp);
	if (repeat(a, fp))
		return (struct trail_found){ (uint32_t)a->latest,
					     (uint32_t)(a->latest >> 32) };
	return capture_by_memo(a, fp);
}

/*
 * trail_capture_from() for who wants no more than the node of the whole stack, where
 * nothing is out of the ordinary; else 0. TRAIL_UNKNOWN: it is captured, as
 * trail_latest(), but its node is not known. fp is the frame of one of our functions,
 * whose caller is ours, too. FAST.
 */
ALWAYS_INLINE struct trail_found trail_capture_node(const uintptr_t *fp)
{
	struct trails *a = seep_tls.trails;
	struct trail_found found;

	fp = walk_last_own_frame((const uintptr_t *)fp[0]);
	if (UNLIKELY(!a) || UNLIKELY(seep_tls.unwinding))
		return (struct trail_found){ 0, 0 };
	seep_tls.unwinding = true;
	atomic_signal_barrier();
	found = capture_plain(a, fp);
	atomic_signal_barrier();
	seep_tls.unwinding = false;
	return found;
}

#endif
