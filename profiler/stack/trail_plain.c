/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail_plain: the plain case of a capture, see trail.c for the whole.
 *
 * Nearly every capture is of the thread's own stack, meets what is remembered, and on the
 * way only frames that are left by a constant distance. Where nobody further out needs
 * rbp it is not followed; nor are frames set, which only that would be for.
 *
 * Programs allocate at the same places again and again, so a walk is remembered by where
 * it began (struct trail_memo). When all words that it read are as they were, it would
 * find the same: what is compared are the same words as by walking, but at addresses that
 * are known before, and in one or two cache lines of ours instead of two a frame. The
 * trail is left as it is then: what was captured is the trail up to the frame that was
 * met, and the memo's frames. They are put on it only when somebody asks for the trail.
 *
 * A stub is no return address that a row is known of: it is looked through where a step
 * fails, so that nobody pays for it where there are none.
 */
#include "preload/heap/tls.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail_fast.h"

NOINLINE NO_SANITIZE bool trail_few_are_unchanged(const struct trail_place *lo,
						  const struct trail_place *hi)
{
	while (hi >= lo && place_is_same(hi))
		hi--;
	return hi < lo;
}

/* The trail's frame i is met. What is further out has not changed, or else *at is where a
 * match may be yet; NULL: it is not a plain case. */
ALWAYS_INLINE NO_SANITIZE bool is_proved(const struct trails *a,
					 const struct trail_place **at)
{
	const struct trail *t = &a->own;
	const struct trail_place *places = t->places, *changed;
	uint32_t i = (uint32_t)(*at - places), set = t->nset - 1;
	const struct trail_frame *f = &t->frames[i < set ? i : set];

	if (UNLIKELY((f->flags | f->base) != 0) ||
	    UNLIKELY(changed_word(t->words, 0, f->nwords) != 0)) {
		*at = NULL;
		return false;
	}
	if (LIKELY(is_unchanged(places, *at - 1)))
		return true;
	changed = changed_place(places - 1, *at - 1);
	if (changed < places)
		return true;
	*at = changed - 1;
	return false;
}

static void find_simple(struct trails *a)
{
	const struct trail_frame *frames = a->own.frames;
	uint32_t i = a->own.nset;

	a->simple_words = frames[i - 1].nwords;
	while (i > 0 && (frames[i - 1].flags | frames[i - 1].base) == 0 &&
	       frames[i - 1].nwords == a->simple_words)
		i--;
	a->simple_from = i;
}

/* The first count frames are kept, and n more will be on top of them. */
ALWAYS_INLINE void note_capture(struct trails *a, uint32_t count, uint32_t n)
{
	struct trail *t = &a->own;

	a->stats.captures++;
	a->stats.walked += n;
	a->stats.compared += count - 1;
	if (t->nset > count) {
		t->nset = count;
		if (UNLIKELY(count <= a->simple_from))
			a->simple_from = UINT32_MAX;
	}
	t->count = count + n;
}

/* ---- memos ---- */

/* Of the frames that are set, those that the captured stack still has keep their serials:
 * the others have ended, even if they are called again before the trail is touched. */
NOINLINE void trail_memo_note_ended(struct trail *t, const struct trail_memo *m)
{
	uint32_t count = m->index + 1u;
	const struct memo_frame *f = &m->frames[m->count];

	while (f-- > m->frames && count < t->nset && t->places[count].pc == f->pc &&
	       t->places[count].slot == m->slot + f->offset)
		count++;
	t->nset = count;
}

/* m has been found often, each time after another one: it comes first now. That one is
 * walked anew, since where it belongs depends on this one. */
static NOINLINE struct trail_memo *memo_promote(struct trails *a, struct trail_memo *m)
{
	struct trail_memo *first = memo_at(a, memo_hash(m->slot, m->frames[0].pc));

	if (!memo_is_of(first, m->slot, m->frames[0].pc))
		first = memo_beside(first);
	m->late = 0;
	if (first == m)
		return m;
	*first = *m;
	m->slot = 0;
	return first;
}

/* Puts what was captured on the trail, if it is not there. */
static NOINLINE void memo_settle(struct trails *a)
{
	const struct trail_memo *m = a->memo;
	struct trail *t = &a->own;
	uint32_t i, sum;

	if (!m)
		return;
	i = m->index + 1u;
	sum = t->nodes[m->index].sum;
	for (const struct memo_frame *f = &m->frames[m->count]; f-- > m->frames; i++) {
		t->places[i] = (struct trail_place){ m->slot + f->offset, f->pc };
		sum = trail_sum(sum, f->pc);
		t->nodes[i] = (struct trail_node){ f->node, sum };
	}
	t->count = i;
	a->latest = found_word(m->frames[0].node, m->number);
	a->memo = NULL;
	a->fresh = NULL;
}

/* The latest walk, all of whose nodes are known now, is remembered where it was looked
 * for. */
static NOINLINE void memo_keep(struct trails *a, uint32_t number)
{
	const struct trail *t = &a->own;
	struct trail_memo *m = a->fresh;
	const uint32_t n = a->nfresh, top = t->count - 1, met = top - n;
	const uintptr_t slot = t->places[top].slot;

	a->fresh = NULL;
	if (UNLIKELY(t->places[met].slot - slot > UINT32_MAX) ||
	    UNLIKELY(met > UINT16_MAX) || UNLIKELY(t->nodes[met].node == 0))
		return;
	if (UNLIKELY(++a->nmemos << LG_MEMO_SIZE > a->memo_mask) &&
	    a->memo_mask < MEMO_MASK(MEMOS_MAX)) {
		a->memo_mask = a->memo_mask * 2 + sizeof(*m);
		a->nmemos = 0;
	}
	if (m->slot && !memo_is_of(m, slot, t->places[top].pc))
		*memo_beside(m) = *m;
	m->slot = slot;
	m->count = (uint8_t)n;
	m->late = 0;
	m->index = (uint16_t)met;
	m->number = number;
	for (uint32_t i = 0; i <= n; i++) {
		const struct trail_place *p = &t->places[top - i];

		m->frames[i].pc = p->pc;
		m->frames[i].offset = (uint32_t)(p->slot - slot);
		m->frames[i].node = t->nodes[top - i].node;
	}
}

/* ---- walking ---- */

/* Puts the n frames that were walked on top of the trail's; the innermost node. */
ALWAYS_INLINE uint32_t put_walked(struct trails *a, uint32_t count, uint32_t n)
{
	struct trail *t = &a->own;
	struct trail_place *p = &t->places[count];
	struct trail_node *nodes = &t->nodes[count];
	uint32_t node = nodes[-1].node, sum = nodes[-1].sum;
	const struct trail_place *from = a->plain + n;

	for (; from-- > a->plain; p++, nodes++) {
		const uintptr_t pc = from->pc;

		p->slot = from->slot; /* a wide load would wait for both stores */
		p->pc = pc;
		sum = trail_sum(sum, pc);
		if (LIKELY(node != 0))
			node = trail_known_step(&a->steps, node, pc, sum);
		*nodes = (struct trail_node){ node, sum };
	}
	return node;
}

/* From slot to what is remembered; the frame of the trail that was met, or NULL: it is no
 * plain case. What lies before is in a->plain. No slot is beyond last. Where nothing is
 * remembered, to the stack's end; the frame is then the one before the outermost. */
ALWAYS_INLINE NO_SANITIZE const struct trail_place *
walk_plain(struct trails *a, uintptr_t slot, uintptr_t pc, uintptr_t last,
	   uint32_t *out_n)
{
	const struct trail *t = &a->own;
	const struct trail_place *at = t->places + t->count - 1;
	struct trail_place *f = a->plain;
	uintptr_t next;

	for (;;) {
		const struct known_row *r;

		while (at->slot < slot)
			at--;
		if (at->slot == slot && at->pc == pc) {
			if (LIKELY(is_proved(a, &at)))
				break;
			if (!at)
				return NULL;
		}
		if (UNLIKELY(f == a->plain + PLAIN_MAX))
			return NULL;
		f->slot = slot;
		f->pc = pc;
		r = &a->rows[pc & a->row_mask]; /* the slowest chain is through here */
		if (UNLIKELY(a->row_pcs[pc & a->row_mask] != pc))
			r = trail_learn_row(a, pc);
		next = slot + r->distance;
		if (UNLIKELY(next > last)) {
			if (r->kind == ROW_END && t->count == 0) {
				f++;
				break;
			}
			if (walk_true_return(pc) == pc)
				return NULL;
			pc = walk_true_return(pc);
			continue;
		}
		slot = next;
		pc = *(const volatile uintptr_t *)slot;
		f++;
	}
	*out_n = (uint32_t)(f - a->plain);
	return at;
}

NOINLINE NO_SANITIZE struct trail_found
trail_capture_by_walk(struct trails *a, const uintptr_t *fp, struct trail_memo *m)
{
	struct trail_found found = { 0, 0 };
	uint32_t n, count;
	const struct trail_place *at =
		walk_plain(a, (uintptr_t)(fp + 1), fp[1], a->own.root, &n);

	if (UNLIKELY(!at))
		return found;
	count = (uint32_t)(at - a->own.places) + 1;
	if (UNLIKELY(count + n > a->plain_max))
		return found; /* it has to grow, or to be cut */
	note_capture(a, count, n);
	a->stats.walks++;
	if (UNLIKELY(a->simple_from == UINT32_MAX))
		find_simple(a);
	found.node = put_walked(a, count, n);
	if (UNLIKELY(found.node == 0))
		found.node = TRAIL_UNKNOWN;
	a->memo = NULL;
	a->fresh = n > 0 && n <= MEMO_FRAMES ? m : NULL;
	a->nfresh = n;
	a->latest = found_word(found.node, 0);
	return found;
}

/* The same where nothing is remembered, on the thread's own stack: a->fresh and memos are
 * for what a trail has. */
static NOINLINE NO_SANITIZE struct trail_found capture_to_end(struct trails *a,
							      const uintptr_t *fp)
{
	struct trail_found found = { 0, 0 };
	const uintptr_t slot = (uintptr_t)(fp + 1);
	struct trail *t = &a->own;
	const struct trail_place *root;
	uintptr_t lo, hi;
	uint32_t n;

	if (!t->places || a->generation != unwind_generation() ||
	    !thread_stack_bounds(slot, &lo, &hi) || hi - slot >= ROW_FAR)
		return found;
	if (!walk_plain(a, slot, fp[1], hi - 8, &n) || n > t->capacity || n >= a->max)
		return found;
	root = &a->plain[n - 1];
	t->places[0] = *root;
	t->frames[0] = (struct trail_frame){ .serial = ++a->serial };
	t->nodes[0] = (struct trail_node){ trail_known_step(&a->steps, 0, root->pc,
							    (uint32_t)root->pc),
					   (uint32_t)root->pc };
	t->root = root->slot;
	t->top = root->slot + 8;
	t->rootless = false;
	t->born = a->serial - 1;
	t->nset = 1;
	t->count = n;
	trails_set_plain(a);
	a->simple_from = a->simple_words = 0;
	a->stats.captures++;
	a->stats.walks++;
	a->stats.full++;
	a->stats.walked += n;
	found.node = put_walked(a, 1, n - 1);
	if (UNLIKELY(found.node == 0))
		found.node = TRAIL_UNKNOWN;
	a->memo = a->fresh = NULL;
	a->latest = found_word(found.node, 0);
	return found;
}

/* ---- captures ---- */

NOINLINE struct trail_found trail_capture_further(struct trails *a, const uintptr_t *fp,
						  uint32_t hash, uintptr_t word)
{
	const uintptr_t slot = (uintptr_t)(fp + 1), pc = fp[1];

	for (uint32_t way = 2;; way++) {
		struct trail_memo *m;
		enum memo_verdict v;

		hash = (hash ^ (uint32_t)word) * 0x9e3779b1u;
		m = memo_pick(memo_at(a, hash), slot, pc);
		if (!m)
			return trail_capture_by_walk(a, fp, memo_at(a, hash));
		v = memo_judge(a, m, &word);
		if (LIKELY(v == MEMO_HOLDS)) {
			if (UNLIKELY(++m->late == MEMO_LATE))
				m = memo_promote(a, m);
			return memo_take(a, m);
		}
		if (v == MEMO_IS_STALE || way == MEMO_WAYS)
			return trail_capture_by_walk(a, fp, m);
	}
}

struct trail_found trail_capture_other(struct trails *a, const uintptr_t *fp)
{
	if (a->own.count == 0)
		return capture_to_end(a, fp);
	return (struct trail_found){ 0, 0 };
}

void trail_set_latest(struct trail_found found)
{
	struct trails *a = seep_tls.trails;

	if (a->memo) {
		a->memo->number = found.number;
		return;
	}
	a->latest = found_word(found.node, found.number);
	if (a->fresh)
		memo_keep(a, found.number);
}

const struct trail *trail_latest(void)
{
	struct trails *a = seep_tls.trails;

	memo_settle(a);
	return &a->own;
}

struct trail *trail_capture_from(const uintptr_t *fp)
{
	struct trails *a = seep_tls.trails;

	fp = walk_last_own_frame(fp);
	if (LIKELY(a != NULL) && LIKELY(!seep_tls.unwinding)) {
		struct trail_found found;

		seep_tls.unwinding = true;
		atomic_signal_barrier();
		found = capture_plain(a, fp);
		if (LIKELY(found.node != 0))
			memo_settle(a);
		if (a->fresh && found.node - 1 < TRAIL_UNKNOWN - 1)
			memo_keep(a, 0);
		atomic_signal_barrier();
		seep_tls.unwinding = false;
		if (LIKELY(found.node != 0))
			return &a->own;
	}
	return trail_capture_any(a, fp);
}

struct trail *trail_capture(void)
{
	return trail_capture_from(__builtin_frame_address(0));
}
