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

#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/heap/tls.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind_int.h"

#define OTHERS	       8 /* stacks besides the thread's own */
#define FRAMES_FIRST   512
#define FRAMES_MAX     65536u /* beyond, the outer half is dropped */
#define WORDS_A_FRAME  2      /* at most: saved rbp, CFA */
#define STATS_INTERVAL 1024   /* captures between additions to the totals */
#define ROWS	       1024   /* 16 KiB: should stay in the first cache */

/* The thread's own cache of rows, in front of the large one of all threads. */
enum row_kind {
	ROW_KEEPS, /* the caller's frame is at a constant distance */
	ROW_SAVES, /* the same, and rbp is restored from the stack */
	ROW_ODD,   /* look it up */
};

struct known_row {
	uintptr_t pc;
	int32_t distance; /* from the slot of this frame to its caller's */
	int16_t save;	  /* ROW_SAVES: from there to where rbp was saved */
	uint16_t kind;	  /* enum row_kind */
};

/* A frame that the walk has met. */
struct walked {
	uintptr_t slot, pc, bp;
	uintptr_t save; /* where the caller's rbp was restored from; 0: unchanged */
	uintptr_t odd;	/* TRAIL_USES_BP, and where the CFA was read from, if it was */
};

struct trails {
	uint32_t generation;   /* of the modules */
	uint32_t max;	       /* frames of one site */
	uint32_t capacity;     /* of walked */
	uint64_t serial;       /* last one given out */
	struct walked *walked; /* by one capture, innermost first */
	struct trail own, others[OTHERS];
	struct trail_stats stats;
	struct trail_step steps[1 << TRAIL_LG_STEPS];
	struct known_row rows[ROWS];
};

static struct {
	struct trail_stats stats; /* atomic */
} totals;

enum verdict { MATCHED, ROOT, CUT, REFUSED };

/* One capture. */
struct scan {
	struct walk w;
	struct trails *all;
	struct trail *trail;
	uint32_t n;	/* frames walked */
	int at;		/* innermost remembered frame that may match */
	uintptr_t zero; /* where the outermost frame's return address, 0, was read */
	/* Beyond the outermost frame: FRAME_JIT_PC and its like, and the two words at rbp
	 * that led to it; their address 0: none were read. */
	uintptr_t pseudo;
	struct trail_word tried[2];
};

/* ---- memory ---- */

static size_t frames_bytes(uint32_t capacity)
{
	return capacity * sizeof(struct trail_frame);
}

static size_t places_bytes(uint32_t capacity)
{
	return (capacity + 1) * sizeof(struct trail_place);
}

static size_t words_bytes(uint32_t capacity)
{
	return (size_t)capacity * WORDS_A_FRAME * sizeof(struct trail_word);
}

static size_t walked_bytes(uint32_t capacity)
{
	return capacity * sizeof(struct walked);
}

static struct trails *make_trails(void)
{
	struct trails *a;

	if (seep_tls.state == TLS_DYING) /* nobody would give them back */
		return NULL;
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
	seep_tls.trails = a;
	return a;
}

static void unmap_arrays(struct trail *t)
{
	if (t->frames)
		meta_unmap(t->frames, frames_bytes(t->capacity), META_STACK);
	if (t->words)
		meta_unmap(t->words, words_bytes(t->capacity), META_STACK);
	if (t->places)
		meta_unmap(t->places - 1, places_bytes(t->capacity), META_STACK);
}

static void add_stats(struct trails *a)
{
	atomic_add_relaxed(&totals.stats.captures, a->stats.captures);
	atomic_add_relaxed(&totals.stats.full, a->stats.full);
	atomic_add_relaxed(&totals.stats.walked, a->stats.walked);
	atomic_add_relaxed(&totals.stats.compared, a->stats.compared);
	atomic_add_relaxed(&totals.stats.refused, a->stats.refused);
	memset(&a->stats, 0, sizeof(a->stats));
}

void trail_thread_end(void)
{
	struct trails *a = seep_tls.trails;

	seep_tls.trails = NULL;
	if (!a)
		return;
	add_stats(a);
	unmap_arrays(&a->own);
	for (int i = 0; i < OTHERS; i++)
		unmap_arrays(&a->others[i]);
	meta_unmap(a->walked, walked_bytes(a->capacity), META_STACK);
	meta_unmap(a, sizeof(*a), META_STACK);
}

static COLD bool grow_walked(struct trails *a)
{
	struct walked *more;

	if (a->capacity >= FRAMES_MAX / 2)
		return false;
	more = meta_remap(a->walked, walked_bytes(a->capacity),
			  walked_bytes(a->capacity * 2), META_STACK);
	if (!more)
		return false;
	a->walked = more;
	a->capacity *= 2;
	return true;
}

/* Room for count frames in t. */
static COLD bool grow_trail(struct trail *t, uint32_t count)
{
	struct trail fresh = *t;
	struct trail_place *places;

	fresh.capacity = t->capacity ? t->capacity : FRAMES_FIRST;
	while (fresh.capacity < count)
		fresh.capacity *= 2;
	fresh.frames = meta_map(frames_bytes(fresh.capacity), META_STACK);
	fresh.words = meta_map(words_bytes(fresh.capacity), META_STACK);
	places = meta_map(places_bytes(fresh.capacity), META_STACK);
	fresh.places = places ? places + 1 : NULL;
	if (!fresh.frames || !fresh.words || !places) {
		unmap_arrays(&fresh);
		return false;
	}
	places[0].slot = UINTPTR_MAX;
	if (t->count > 0) {
		memcpy(fresh.frames, t->frames, frames_bytes(t->count));
		memcpy(fresh.places, t->places, t->count * sizeof(*places));
		memcpy(fresh.words, t->words,
		       t->frames[t->count - 1].nwords * sizeof(*t->words));
	}
	unmap_arrays(t);
	*t = fresh;
	return true;
}

/* ---- which trail ---- */

static void forget(struct trails *a, struct trail *t)
{
	t->count = 0;
	t->born = a->serial;
	t->rootless = false;
}

static COLD void forget_all(struct trails *a)
{
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
static struct trail *guess_other(struct trails *a, uintptr_t sp)
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
		if (UNLIKELY(n == a->capacity) && !grow_walked(a)) {
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

/* ---- step 4: keeping ---- */

/* Drops the outermost n frames. Frames whose site began there match no more. */
static void drop_outer(struct trails *a, struct trail *t, uint32_t n)
{
	uint32_t words = t->frames[n - 1].nwords;

	memmove(t->words, t->words + words,
		(t->frames[t->count - 1].nwords - words) * sizeof(*t->words));
	t->count -= n;
	memmove(t->frames, t->frames + n, frames_bytes(t->count));
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
	return all <= t->capacity || grow_trail(t, all);
}

static void note_word(struct trail *t, struct trail_frame *f, uintptr_t addr,
		      uintptr_t value)
{
	t->words[f->nwords++] = (struct trail_word){ addr, value };
	if (t->top < addr + 8)
		t->top = addr + 8;
}

static uintptr_t deref_of(const struct walked *w)
{
	return w->odd & ~(uintptr_t)TRAIL_USES_BP;
}

/* Frame i, on top of i - 1: what the step between the two depended on. */
static NOINLINE void note_dependence(struct trail *t, uint32_t i, const struct walked *w)
{
	struct trail_frame *f = &t->frames[i];
	bool needed = f[-1].flags & TRAIL_NEEDS_BP;

	if (w->save && needed)
		note_word(t, f, w->save, f[-1].bp);
	if (deref_of(w))
		note_word(t, f, deref_of(w), t->places[i - 1].slot + 8);
	if ((w->odd & TRAIL_USES_BP) || (!w->save && needed))
		f->flags = TRAIL_NEEDS_BP;
}

/* The outermost frame, or the one next to a pseudo frame. */
static COLD void put_outermost(struct scan *s, struct trail *t, uint32_t i,
			       const struct walked *w)
{
	struct trail_frame *f = &t->frames[i];

	f->nwords = 0;
	t->top = w->slot + 8;
	if (s->zero) {
		note_word(t, f, s->zero, 0);
		if (deref_of(w))
			note_word(t, f, deref_of(w), s->zero + 8);
	}
	for (int k = 0; k < 2 && s->tried[k].addr; k++)
		note_word(t, f, s->tried[k].addr, s->tried[k].value);
	f->flags = w->odd & TRAIL_USES_BP ? TRAIL_NEEDS_BP : 0;
}

static void put_pseudo_root(struct scan *s, struct trail *t, uintptr_t pc)
{
	t->places[0] = (struct trail_place){ UINTPTR_MAX - 7, pc };
	t->frames[0] = (struct trail_frame){ .serial = ++s->all->serial };
	t->count = 1;
}

/* The site one step further in, if the thread has taken that step lately. */
ALWAYS_INLINE uint32_t known_step(const struct trails *a, uint32_t parent, uintptr_t pc)
{
	const struct trail_step *s = &a->steps[trail_step_index(parent, pc)];

	return s->pc == pc && s->parent == parent ? s->node : 0;
}

static void put_frames(struct scan *s, struct trail *t)
{
	struct trails *a = s->all;
	const struct walked *w = &a->walked[s->n];
	struct trail_place *p = &t->places[t->count];
	struct trail_frame *f = &t->frames[t->count];
	uint32_t i = t->count, limit, base, nwords, flags, node;
	uint64_t serial = a->serial;

	if (UNLIKELY(i == 0 || p[-1].pc <= FRAME_PSEUDO_MAX)) {
		w--;
		p->slot = w->slot;
		p->pc = w->pc;
		*f = (struct trail_frame){ .bp = w->bp, .serial = ++serial };
		put_outermost(s, t, i, w);
		i++, p++, f++;
	}
	base = f[-1].base;
	limit = base + a->max - (base > 0); /* frames that the site has room for */
	nwords = f[-1].nwords;
	flags = f[-1].flags;
	node = f[-1].node;
	for (; w > a->walked; i++, p++, f++) {
		w--;
		p->slot = w->slot;
		p->pc = w->pc;
		if (UNLIKELY(i >= limit)) {
			base = i + 1 - a->max / 2;
			limit = base + a->max - 1;
			node = 0;
		} else if (LIKELY(node != 0)) {
			node = known_step(a, node, w->pc);
		}
		f->bp = w->bp;
		f->serial = ++serial;
		f->node = node;
		f->base = base;
		f->nwords = nwords;
		f->flags = 0;
		if (UNLIKELY((flags | w->odd) != 0)) {
			note_dependence(t, i, w);
			nwords = f->nwords;
			flags = f->flags;
		}
	}
	t->count = i;
	a->serial = serial;
}

static NOINLINE bool keep(struct scan *s, enum verdict v)
{
	struct trail *t = s->trail;

	if (UNLIKELY(v != MATCHED)) {
		s->all->stats.full++;
		if (t != &s->all->own)
			t = place_other(s->all, s->all->walked[s->n - 1].slot);
		s->at = -1;
		forget(s->all, t);
		t->root = s->all->walked[s->n - 1].slot;
	}
	t->count = (uint32_t)(s->at + 1);
	if (s->n == 0)
		return true;
	if (UNLIKELY(t->count + s->n + 1 > t->capacity) &&
	    !make_room(s->all, t, s->n + 1)) {
		if (t->count > 0 || s->n + 1 > FRAMES_MAX ||
		    !(s->n + 1 <= t->capacity || grow_trail(t, s->n + 1)))
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
	s->trail = t;
	return true;
}

/* Walks from the caller of fp's frame to what is remembered. */
NO_SANITIZE static enum verdict walk_from(struct scan *s, const uintptr_t *fp,
					  struct row_entry *rows)
{
	struct trails *a = s->all;
	uint32_t generation = unwind_generation();

	fp = walk_last_own_frame(fp);
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
		forget_all(a);
	}
	s->trail = s->w.known ? &a->own : guess_other(a, s->w.sp);
	if (UNLIKELY(!s->trail->places) && !grow_trail(s->trail, FRAMES_FIRST))
		return REFUSED;
	s->at = (int)s->trail->count - 1;
	return walk(s, rows);
}

static bool keep_all(struct scan *s, enum verdict v)
{
	if (UNLIKELY(v == REFUSED) || !keep(s, v)) {
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

ALWAYS_INLINE struct trail *capture(const uintptr_t *fp,
				    bool (*keep_fn)(struct scan *s, enum verdict v))
{
	struct row_entry *rows = atomic_load_acquire(&row_cache);
	struct trails *a = seep_tls.trails;
	struct trail *t = NULL;

	if (seep_tls.unwinding || !rows)
		return NULL;
	seep_tls.unwinding = true;
	atomic_signal_barrier();
	if (UNLIKELY(!a))
		a = make_trails();
	if (LIKELY(a != NULL)) {
		struct scan s;

		s.all = a;
		if (keep_fn(&s, walk_from(&s, fp, rows)))
			t = s.trail;
		if (UNLIKELY(++a->stats.captures >= STATS_INTERVAL))
			add_stats(a);
	}
	atomic_signal_barrier();
	seep_tls.unwinding = false;
	return t;
}

struct trail *trail_capture(void)
{
	return capture(__builtin_frame_address(0), keep_all);
}

const struct trail *trail_retained(void)
{
	return capture(__builtin_frame_address(0), keep_retained);
}

void trail_mark(struct trail_mark *m, const struct trail *t)
{
	m->root = t->root;
	m->serial = t->frames[t->count - 1].serial;
	m->count = t->count;
}

bool trail_gone(const struct trail_mark *m, const struct trail *t, uint32_t max,
		uint32_t *out_gone)
{
	uint32_t alive = m->count - 1, gone = 0;

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

void trail_forget(void)
{
	if (seep_tls.trails)
		forget_all(seep_tls.trails);
}

void trail_get_stats(struct trail_stats *out)
{
	if (seep_tls.trails)
		add_stats(seep_tls.trails);
	out->captures = atomic_load_relaxed(&totals.stats.captures);
	out->full = atomic_load_relaxed(&totals.stats.full);
	out->walked = atomic_load_relaxed(&totals.stats.walked);
	out->compared = atomic_load_relaxed(&totals.stats.compared);
	out->refused = atomic_load_relaxed(&totals.stats.refused);
}
