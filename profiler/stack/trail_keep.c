/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail_keep: what is remembered of stacks: the arrays of trails, which trail a stack
 * has, and how a capture is put on one. See trail.c for the whole.
 */
#include <string.h>

#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/heap/tls.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail_int.h"

#define SPARES 4 /* threads come and go mostly one by one */

static struct {
	struct trail_stats stats; /* atomic */
	/* Of threads that have ended, for the next ones: to map and unmap arrays for each
	 * would interrupt all others. Atomic: taken and given by exchange. */
	struct trails *spares[SPARES];
} totals;

/* ---- memory ---- */

static size_t frames_bytes(uint32_t capacity)
{
	return capacity * sizeof(struct trail_frame);
}

static size_t nodes_bytes(uint32_t capacity)
{
	return capacity * sizeof(struct trail_node);
}

static size_t places_bytes(uint32_t capacity)
{
	return (capacity + 1) * sizeof(struct trail_place);
}

static size_t words_bytes(uint32_t capacity)
{
	return (size_t)capacity * WORDS_A_FRAME * sizeof(struct trail_word);
}

/* Of one mapping: places, frames, words, nodes. */
static size_t arrays_bytes(uint32_t capacity)
{
	return places_bytes(capacity) + frames_bytes(capacity) + words_bytes(capacity) +
	       nodes_bytes(capacity);
}

static size_t walked_bytes(uint32_t capacity)
{
	return capacity * sizeof(struct walked);
}

static struct trails *take_spare(void)
{
	struct trails *a = NULL;

	for (int i = 0; i < SPARES && !a; i++)
		if (atomic_load_relaxed(&totals.spares[i]))
			a = atomic_exchange_acquire(&totals.spares[i],
						    (struct trails *)NULL);
	return a;
}

static bool keep_spare(struct trails *a)
{
	for (int i = 0; i < SPARES; i++) {
		struct trails *none = NULL;

		if (!atomic_load_relaxed(&totals.spares[i]) &&
		    atomic_cas_acq_rel(&totals.spares[i], &none, a))
			return true;
	}
	return false;
}

struct trails *trails_make(void)
{
	struct trails *a;

	if (seep_tls.state == TLS_DYING) /* nobody would give them back */
		return NULL;
	a = take_spare();
	if (a) {
		seep_tls.trails = a;
		return a;
	}
	a = meta_map(sizeof(*a), META_STACK);
	if (!a)
		return NULL;
	a->walked = meta_map(walked_bytes(FRAMES_FIRST), META_STACK);
	if (!a->walked) {
		meta_unmap(a, sizeof(*a), META_STACK);
		return NULL;
	}
	a->capacity = FRAMES_FIRST;
	a->max = (uint32_t)opt_get()->stack + 1;
	a->generation = unwind_generation();
	a->row_mask = ROWS_FIRST - 1;
	a->memo_mask = MEMO_MASK(MEMOS_FIRST);
	a->steps.mask = TRAIL_STEPS_FIRST - 1;
	a->plain_lo = UINTPTR_MAX;
	a->stub_row.distance = ROW_FAR;
	a->own.steps = &a->steps;
	for (int i = 0; i < OTHERS; i++)
		a->others[i].steps = &a->steps;
	seep_tls.trails = a;
	return a;
}

static void unmap_arrays(struct trail *t)
{
	if (t->places)
		meta_unmap(t->places - 1, arrays_bytes(t->capacity), META_STACK);
}

void trails_add_stats(struct trails *a)
{
	atomic_add_relaxed(&totals.stats.captures, a->stats.captures);
	atomic_add_relaxed(&totals.stats.walks, a->stats.walks);
	atomic_add_relaxed(&totals.stats.full, a->stats.full);
	atomic_add_relaxed(&totals.stats.walked, a->stats.walked);
	atomic_add_relaxed(&totals.stats.compared, a->stats.compared);
	atomic_add_relaxed(&totals.stats.refused, a->stats.refused);
	memset(&a->stats, 0, sizeof(a->stats));
}

/* Are all arrays as short as they begin? */
static bool is_small(const struct trails *a)
{
	bool small = a->capacity == FRAMES_FIRST && a->own.capacity <= FRAMES_FIRST;

	for (int i = 0; i < OTHERS && small; i++)
		small = a->others[i].capacity == 0;
	return small;
}

void trail_thread_end(void)
{
	struct trails *a = seep_tls.trails;

	seep_tls.trails = NULL;
	if (!a)
		return;
	trails_add_stats(a);
	trails_forget(a);
	if (is_small(a) && keep_spare(a))
		return;
	unmap_arrays(&a->own);
	for (int i = 0; i < OTHERS; i++)
		unmap_arrays(&a->others[i]);
	meta_unmap(a->walked, walked_bytes(a->capacity), META_STACK);
	meta_unmap(a, sizeof(*a), META_STACK);
}

bool trails_grow_walked(struct trails *a)
{
	struct walked *more;

	if (a->capacity >= FRAMES_MAX / 2)
		return false;
	a->moves = true;
	atomic_signal_barrier();
	more = meta_remap(a->walked, walked_bytes(a->capacity),
			  walked_bytes(a->capacity * 2), META_STACK);
	if (more) {
		a->walked = more;
		a->capacity *= 2;
	}
	atomic_signal_barrier();
	a->moves = false;
	return more != NULL;
}

/* Room for count frames in t. */
bool trail_grow(struct trail *t, uint32_t count)
{
	struct trails *a = seep_tls.trails;
	struct trail fresh = *t;
	struct trail_place *places;

	fresh.capacity = count <= FRAMES_FEW ? FRAMES_FEW : FRAMES_FIRST;
	while (fresh.capacity < count)
		fresh.capacity *= 2;
	places = meta_map(arrays_bytes(fresh.capacity), META_STACK);
	if (!places)
		return false;
	fresh.places = places + 1;
	fresh.frames = (struct trail_frame *)(fresh.places + fresh.capacity);
	fresh.words = (struct trail_word *)(fresh.frames + fresh.capacity);
	fresh.nodes = (struct trail_node *)(fresh.words + fresh.capacity * WORDS_A_FRAME);
	places[0].slot = UINTPTR_MAX;
	if (t->count > 0) {
		memcpy(fresh.frames, t->frames, frames_bytes(t->count));
		memcpy(fresh.nodes, t->nodes, nodes_bytes(t->count));
		memcpy(fresh.places, t->places, t->count * sizeof(*places));
		memcpy(fresh.words, t->words,
		       t->frames[t->count - 1].nwords * sizeof(*t->words));
	}
	a->moves = true;
	atomic_signal_barrier();
	unmap_arrays(t);
	*t = fresh;
	atomic_signal_barrier();
	a->moves = false;
	return true;
}

/* ---- which trail ---- */

static void forget(struct trails *a, struct trail *t)
{
	t->count = t->nset = 0;
	a->plain_lo = UINTPTR_MAX;
	t->born = a->serial;
	t->rootless = false;
}

/* Of another thread, or of code that may be gone. */
static void forget_memos(struct trails *a)
{
	for (uint32_t i = 0; i <= a->memo_mask >> LG_MEMO_SIZE; i++)
		a->memos[i].slot = 0;
	a->memo = a->fresh = NULL;
}

void trails_forget(struct trails *a)
{
	forget_memos(a);
	forget(a, &a->own);
	for (int i = 0; i < OTHERS; i++)
		forget(a, &a->others[i]);
}

static uintptr_t root_of(const struct trail *t)
{
	return t->count ? t->root : 0;
}

/* The trail of another stack whose outermost frame is the next above sp. It may be the
 * neighbour's: then nothing matches, and the place for the result is chosen anew. */
struct trail *trails_guess_other(struct trails *a, uintptr_t sp)
{
	struct trail *best = &a->others[0];

	for (int i = 1; i < OTHERS; i++) {
		uintptr_t root = root_of(&a->others[i]);

		if (root > sp && (root_of(best) <= sp || root < root_of(best)))
			best = &a->others[i];
	}
	return best;
}

/* Where a stack with this outermost frame is to be kept: in its own trail, or the one
 * that was not used for the longest time. */
static struct trail *place_other(struct trails *a, uintptr_t root)
{
	struct trail *oldest = &a->others[0];

	for (int i = 0; i < OTHERS; i++) {
		struct trail *t = &a->others[i];

		if (root_of(t) == root)
			return t;
		if (t->used < oldest->used)
			oldest = t;
	}
	forget(a, oldest);
	return oldest;
}

/* ---- step 4: keeping ---- */

/* Drops the outermost n frames. Frames whose site began there match no more. */
static void drop_outer(struct trails *a, struct trail *t, uint32_t n)
{
	uint32_t words = t->frames[n - 1].nwords;

	memmove(t->words, t->words + words,
		(t->frames[t->count - 1].nwords - words) * sizeof(*t->words));
	t->count -= n;
	memmove(t->frames, t->frames + n, frames_bytes(t->count));
	memmove(t->nodes, t->nodes + n, nodes_bytes(t->count));
	memmove(t->places, t->places + n, t->count * sizeof(*t->places));
	for (uint32_t i = 0; i < t->count; i++) {
		struct trail_frame *f = &t->frames[i];

		f->nwords -= words;
		f->base = f->base > n ? f->base - n : 0;
	}
	t->rootless = true;
	t->born = a->serial;
}

/* Makes room for n frames more. False: what was retained is gone (or there is no
 * memory). */
static COLD bool make_room(struct trails *a, struct trail *t, uint32_t n)
{
	uint32_t all = t->count + n;

	if (all > FRAMES_MAX) {
		uint32_t drop = all - FRAMES_MAX / 2;

		if (t->count < drop + 2 * a->max) {
			forget(a, t);
			return false;
		}
		drop_outer(a, t, drop);
		all -= drop;
	}
	return all <= t->capacity || trail_grow(t, all);
}

static void note_word(struct trail *t, struct trail_frame *f, uintptr_t addr,
		      uintptr_t value)
{
	t->words[f->nwords++] = (struct trail_word){ addr, value };
	if (t->top < addr + 8)
		t->top = addr + 8;
}

static uintptr_t slot_of(const struct walked *w)
{
	return w->slot & ~(uintptr_t)WALKED_FLAGS;
}

/* Frame i, on top of i - 1: what the step between the two depended on. */
static NOINLINE void note_dependence(struct trail *t, uint32_t i, const struct walked *w)
{
	struct trail_frame *f = &t->frames[i];
	bool needed = f[-1].flags & TRAIL_NEEDS_BP;

	if (w->save != &w->bp && needed)
		note_word(t, f, (uintptr_t)w->save, f[-1].bp);
	if (w->slot & WALKED_BY_WORD)
		note_word(t, f, w->word, t->places[i - 1].slot + 8);
	if ((w->slot & WALKED_USES_BP) || (w->save == &w->bp && needed))
		f->flags = TRAIL_NEEDS_BP;
}

/* The outermost frame, or the one next to a pseudo frame. */
static COLD void put_outermost(struct scan *s, struct trail *t, uint32_t i,
			       const struct walked *w)
{
	struct trail_frame *f = &t->frames[i];

	f->nwords = 0;
	t->top = slot_of(w) + 8;
	if (s->zero) {
		note_word(t, f, s->zero, 0);
		if (w->slot & WALKED_BY_WORD)
			note_word(t, f, w->word, s->zero + 8);
	}
	for (int k = 0; k < 2 && s->tried[k].addr; k++)
		note_word(t, f, s->tried[k].addr, s->tried[k].value);
	f->flags = w->slot & WALKED_USES_BP ? TRAIL_NEEDS_BP : 0;
}

static void put_pseudo_root(struct scan *s, struct trail *t, uintptr_t pc)
{
	t->places[0] = (struct trail_place){ UINTPTR_MAX - 7, pc };
	t->frames[0] = (struct trail_frame){ .serial = ++s->all->serial };
	t->nodes[0] = (struct trail_node){ 0, 0 };
	t->count = 1;
}

/* Puts the frames from w inwards on top of the trail's first i, which are not none. */
static void put_further(struct scan *s, struct trail *t, uint32_t i,
			const struct walked *w)
{
	struct trails *a = s->all;
	struct trail_place *p = &t->places[i];
	struct trail_frame *f = &t->frames[i];
	uint32_t base = f[-1].base, nwords = f[-1].nwords, flags = f[-1].flags;
	uint32_t limit =
		base + a->max - (base > 0); /* frames that the site has room for */
	uint32_t node = t->nodes[i - 1].node, sum = t->nodes[i - 1].sum;

	for (; w >= a->walked; w--, i++, p++, f++) {
		p->slot = slot_of(w);
		p->pc = w->pc;
		sum = trail_sum(sum, w->pc);
		if (UNLIKELY(i >= limit)) {
			base = i + 1 - a->max / 2;
			limit = base + a->max - 1;
			node = 0;
		} else if (LIKELY(node != 0)) {
			node = trail_known_step(&a->steps, node, w->pc, sum);
		}
		*f = (struct trail_frame){
			.bp = w->bp, .serial = ++a->serial, .base = base, .nwords = nwords
		};
		t->nodes[i] = (struct trail_node){ node, sum };
		if (flags != 0 || (w->slot & WALKED_FLAGS)) {
			note_dependence(t, i, w);
			nwords = f->nwords;
			flags = f->flags;
		}
	}
	t->count = i;
}

static void put_frames(struct scan *s, struct trail *t)
{
	struct trails *a = s->all;
	const struct walked *w = &a->walked[s->n - 1];
	uint32_t i = t->count;

	if (UNLIKELY(i == 0 || t->places[i - 1].pc <= FRAME_PSEUDO_MAX)) {
		t->places[i] = (struct trail_place){ slot_of(w), w->pc };
		t->frames[i] = (struct trail_frame){ .bp = w->bp, .serial = ++a->serial };
		t->nodes[i].sum = (uint32_t)w->pc;
		t->nodes[i].node =
			i == 0 ? trail_known_step(&a->steps, 0, w->pc, (uint32_t)w->pc)
			       : 0;
		put_outermost(s, t, i, w);
		i++, w--;
	}
	put_further(s, t, i, w);
}

bool trail_keep(struct scan *s, enum verdict v)
{
	struct trail *t = s->trail;

	if (UNLIKELY(v != MATCHED)) {
		s->all->stats.full++;
		if (t != &s->all->own)
			t = place_other(s->all, slot_of(&s->all->walked[s->n - 1]));
		s->at = -1;
		forget(s->all, t);
		t->root = slot_of(&s->all->walked[s->n - 1]);
	}
	t->count = t->nset = (uint32_t)(s->at + 1);
	if (s->n == 0)
		return true;
	if (UNLIKELY(t->count + s->n + 1 > t->capacity) &&
	    !make_room(s->all, t, s->n + 1)) {
		if (t->count > 0 || s->n + 1 > FRAMES_MAX ||
		    !(s->n + 1 <= t->capacity || trail_grow(t, s->n + 1)))
			return false;
		v = CUT; /* what was retained had to go */
	}
	if (UNLIKELY(v == CUT)) {
		put_pseudo_root(s, t, FRAME_TRUNCATED_PC);
		t->rootless = true;
	} else if (UNLIKELY(s->pseudo && t->count == 0)) {
		put_pseudo_root(s, t, s->pseudo);
	}
	put_frames(s, t);
	t->nset = t->count;
	s->trail = t;
	return true;
}

void trails_set_plain(struct trails *a)
{
	const struct thread_info *thread = seep_tls.thread;
	const struct trail *t = &a->own;

	a->plain_lo = UINTPTR_MAX;
	if (thread && t->count > 0 && !t->rootless &&
	    t->places[0].pc > FRAME_PSEUDO_MAX) {
		a->plain_lo = thread->stack_lo;
		if (UNLIKELY(t->root - a->plain_lo >= ROW_FAR))
			a->plain_lo = t->root - ROW_FAR + 1;
	}
	a->simple_from = UINT32_MAX;
	a->plain_max = t->capacity < a->max ? t->capacity : a->max - 1;
}

void trail_set_frames(const struct trail *t)
{
	struct trails *a = seep_tls.trails;
	struct trail_frame *f;

	if (t->nset == t->count || t != &a->own) /* others are always set */
		return;
	f = &t->frames[t->nset];
	for (uint32_t i = t->nset; i < t->count; i++, f++)
		*f = (struct trail_frame){ .serial = ++a->serial,
					   .nwords = f[-1].nwords };
	a->own.nset = t->count;
}

void trail_mark(struct trail_mark *m, const struct trail *t)
{
	trail_set_frames(t);
	m->root = t->root;
	m->serial = t->frames[t->count - 1].serial;
	m->count = t->count;
}

bool trail_gone(const struct trail_mark *m, const struct trail *t, uint32_t max,
		uint32_t *out_gone)
{
	uint32_t alive = m->count - 1, gone = 0;

	trail_set_frames(t);
	if (t->root != m->root) { /* none of this stack's */
		*out_gone = alive < max ? alive : max;
		return true;
	}
	if (t->born >= m->serial)
		return false;
	while (alive > 0 && gone < max &&
	       (alive > t->count || t->frames[alive - 1].serial > m->serial)) {
		alive--;
		gone++;
	}
	*out_gone = gone;
	return true;
}

void trail_get_stats(struct trail_stats *out)
{
	if (seep_tls.trails)
		trails_add_stats(seep_tls.trails);
	out->captures = atomic_load_relaxed(&totals.stats.captures);
	out->walks = atomic_load_relaxed(&totals.stats.walks);
	out->full = atomic_load_relaxed(&totals.stats.full);
	out->walked = atomic_load_relaxed(&totals.stats.walked);
	out->compared = atomic_load_relaxed(&totals.stats.compared);
	out->refused = atomic_load_relaxed(&totals.stats.refused);
}
