/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trail: incremental capture, see trail.h.
 *
 * Structure: each thread has a trail for its own stack and a few for others, told apart
 * by the frame that is outermost. A capture (1) walks outwards from the caller and writes
 * what it finds to an array of its own, innermost first; at each frame it (2) drops
 * remembered frames that lie further in and looks whether the next one matches; then (3)
 * compares the words beyond. Where one differs the walk goes on from the frame that read
 * it. At the end (4) what was walked is put on top of what was retained.
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
#define WORDS_A_FRAME  3      /* at most: return address, saved rbp, CFA */
#define STATS_INTERVAL 1024   /* captures between additions to the totals */
#define ROWS	       1024   /* 16 KiB: should stay in the first cache */

/* The thread's own cache of rows, in front of the large one of all threads. */
struct known_row {
	uintptr_t pc;
	uint64_t row;
};

struct trails {
	uint32_t generation;	    /* of the modules */
	uint32_t max;		    /* frames of one site */
	uint32_t capacity;	    /* of walked */
	uint64_t serial;	    /* last one given out */
	struct trail_frame *walked; /* by one capture, innermost first */
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
	int at;		/* innermost remembered frame that is not further in than w */
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

static size_t words_bytes(uint32_t capacity)
{
	return (size_t)capacity * WORDS_A_FRAME * sizeof(struct trail_word);
}

static struct trails *make_trails(void)
{
	struct trails *a;

	if (seep_tls.state == TLS_DYING) /* nobody would give them back */
		return NULL;
	a = meta_map(sizeof(*a), META_STACK);
	if (!a)
		return NULL;
	a->walked = meta_map(frames_bytes(FRAMES_FIRST), META_STACK);
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

static void unmake_trail(struct trail *t)
{
	if (t->frames)
		meta_unmap(t->frames, frames_bytes(t->capacity), META_STACK);
	if (t->words)
		meta_unmap(t->words, words_bytes(t->capacity), META_STACK);
	memset(t, 0, sizeof(*t));
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
	unmake_trail(&a->own);
	for (int i = 0; i < OTHERS; i++)
		unmake_trail(&a->others[i]);
	meta_unmap(a->walked, frames_bytes(a->capacity), META_STACK);
	meta_unmap(a, sizeof(*a), META_STACK);
}

static COLD bool grow_walked(struct trails *a)
{
	struct trail_frame *more;

	if (a->capacity >= FRAMES_MAX / 2)
		return false;
	more = meta_remap(a->walked, frames_bytes(a->capacity),
			  frames_bytes(a->capacity * 2), META_STACK);
	if (!more)
		return false;
	a->walked = more;
	a->capacity *= 2;
	return true;
}

/* Room for count frames in t. */
static COLD bool grow_trail(struct trail *t, uint32_t count)
{
	uint32_t capacity = t->capacity ? t->capacity : FRAMES_FIRST;
	struct trail_frame *frames;
	struct trail_word *words;

	while (capacity < count)
		capacity *= 2;
	frames = meta_map(frames_bytes(capacity), META_STACK);
	words = meta_map(words_bytes(capacity), META_STACK);
	if (!frames || !words) {
		if (frames)
			meta_unmap(frames, frames_bytes(capacity), META_STACK);
		if (words)
			meta_unmap(words, words_bytes(capacity), META_STACK);
		return false;
	}
	if (t->count > 0) {
		memcpy(frames, t->frames, frames_bytes(t->count));
		memcpy(words, t->words, t->frames[t->count - 1].words * sizeof(*words));
	}
	if (t->frames)
		meta_unmap(t->frames, frames_bytes(t->capacity), META_STACK);
	if (t->words)
		meta_unmap(t->words, words_bytes(t->capacity), META_STACK);
	t->frames = frames;
	t->words = words;
	t->capacity = capacity;
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

/* The innermost of words[lo..hi) that has changed, plus one; lo: none has. */
NO_SANITIZE static uint32_t changed(const struct trail_word *words, uint32_t lo,
				    uint32_t hi)
{
	const struct trail_word *w = words + hi, *end = words + lo;

#define DIFF(w) (*(const volatile uintptr_t *)(w).addr ^ (w).value)
	for (; w - end >= 4; w -= 4)
		if (UNLIKELY((DIFF(w[-1]) | DIFF(w[-2]) | DIFF(w[-3]) | DIFF(w[-4])) !=
			     0))
			break;
	while (w > end && DIFF(w[-1]) == 0)
		w--;
#undef DIFF
	return (uint32_t)(w - words);
}

/* Frame j, further out than the match, read a word that has changed. Frames from the
 * match to j are where they were, but are to be put on anew; the walk goes on from j. */
NO_SANITIZE static bool resume_at(struct scan *s, int match, int j)
{
	const struct trail_frame *f = s->trail->frames;
	uintptr_t bp = s->w.bp;

	for (int i = match; i > j; i--) {
		struct trail_frame *out;

		if (s->n == s->all->capacity && !grow_walked(s->all))
			return false;
		out = &s->all->walked[s->n++];
		*out = f[i];
		out->bp = bp;
		if (f[i].save)
			bp = *(const volatile uintptr_t *)f[i].save;
	}
	s->w.bp = bp;
	s->w.slot = f[j].slot;
	s->w.pc = f[j].pc;
	s->w.sp = s->w.lo = f[j].slot + 8;
	s->at = j - 1;
	return true;
}

/* w is at remembered frame s->at. True: all that is further out is unchanged. */
static bool proves(struct scan *s)
{
	const struct trail_frame *f = &s->trail->frames[s->at];
	uint32_t lo = 0, end;
	int j = s->at;

	if (UNLIKELY(s->trail->rootless && f->base == 0) ||
	    (!s->w.known && !walk_can_read_up_to(&s->w, s->trail->top))) {
		s->at = -1;
		return false;
	}
	if (UNLIKELY(f->base > 0))
		lo = s->trail->frames[f->base].words;
	end = changed(s->trail->words, lo, f->words);
	s->all->stats.compared += f->words - lo;
	if (LIKELY(end == lo))
		return true;
	while (j > 0 && s->trail->frames[j - 1].words >= end)
		j--;
	if (!resume_at(s, s->at, j))
		s->at = -1;
	return false;
}

/* ---- step 1: walking ---- */

ALWAYS_INLINE NO_SANITIZE bool read_fast(struct walk *w, uintptr_t addr, uintptr_t *out)
{
	if (LIKELY(addr < w->hi && addr >= w->window && addr >= w->lo && addr % 8 == 0)) {
		*out = *(const volatile uintptr_t *)addr;
		return true;
	}
	return walk_read(w, addr, out);
}

/* CFAs that are not rsp plus a constant. 0: none. */
static uintptr_t odd_cfa(struct walk *w, struct trail_frame *f, struct cfi_row row)
{
	uintptr_t offset = (uintptr_t)(intptr_t)row.cfa_offset, cfa = 0;

	switch (row.kind) {
	case CFI_PLT:
		return w->sp + offset + (((f->pc - 1) & 15) >= 11 ? 8 : 0);
	case CFI_RBP:
		f->flags = TRAIL_USES_BP;
		return w->bp + offset;
	case CFI_RBP_DEREF:
		f->flags = TRAIL_USES_BP;
		f->deref = w->bp + offset;
		return walk_read(w, f->deref, &cfa) ? cfa : 0;
	default:
		return 0;
	}
}

/* No row and no frame pointer: code of a JIT compiler. */
static enum verdict step_nowhere(struct scan *s, struct trail_frame *f)
{
	uintptr_t bp = s->w.bp, words[2];

	if (bp >= s->w.sp && bp - s->w.sp <= UNWIND_MAX_GAP &&
	    walk_read(&s->w, bp, &words[0]) && walk_read(&s->w, bp + 8, &words[1]))
		for (uintptr_t i = 0; i < 2; i++)
			s->tried[i] = (struct trail_word){ bp + i * 8, words[i] };
	f->flags = TRAIL_USES_BP;
	s->pseudo = module_is_code(f->pc) ? FRAME_TRUNCATED_PC : FRAME_JIT_PC;
	return ROOT;
}

/* A frame that has no row: frame pointers, or an end. */
static COLD enum verdict step_missing(struct scan *s, struct trail_frame *f)
{
	uintptr_t bp = s->w.bp;
	enum step step = walk_step_missing(&s->w);

	if (step == STEP_END) {
		uint64_t row = row_for(atomic_load_acquire(&row_cache), f->pc);

		if (cfi_unpack(row).kind != CFI_MISSING)
			return ROOT; /* the code alone says so */
		f->flags = TRAIL_USES_BP;
		s->zero = bp + 8;
		return ROOT;
	}
	if (step == STEP_NO_CFI)
		return step_nowhere(s, f);
	if (step != STEP_OK || s->w.precise)
		return REFUSED;
	f->flags = TRAIL_USES_BP;
	f->save = bp;
	return MATCHED;
}

/* From w to its caller; f is w's frame. MATCHED: go on. */
ALWAYS_INLINE NO_SANITIZE enum verdict step_row(struct scan *s, struct trail_frame *f,
						uint64_t word)
{
	struct walk *w = &s->w;
	struct cfi_row row = cfi_unpack(word);
	uintptr_t cfa, ra = 0, save;

	if (LIKELY(row.kind == CFI_RSP))
		cfa = w->sp + (uintptr_t)(intptr_t)row.cfa_offset;
	else if (row.kind == CFI_END)
		return ROOT;
	else if (row.kind == CFI_MISSING)
		return step_missing(s, f);
	else
		cfa = odd_cfa(w, f, row);
	if (UNLIKELY(cfa <= w->sp) || !read_fast(w, cfa - 8, &ra))
		return REFUSED;
	if (row.rbp != CFI_RBP_SAME) {
		save = cfa;
		if (UNLIKELY(row.rbp == CFI_RBP_AT_RBP)) {
			save = w->bp;
			f->flags = TRAIL_USES_BP;
		}
		save += (uintptr_t)(intptr_t)row.rbp_offset;
		if (UNLIKELY(save >= cfa) || !read_fast(w, save, &w->bp))
			return REFUSED;
		f->save = save;
	}
	if (UNLIKELY(ra == 0)) {
		s->zero = cfa - 8;
		return ROOT;
	}
	w->slot = cfa - 8;
	w->sp = w->lo = cfa;
	w->pc = ra;
	return MATCHED;
}

/* The row of a return address. */
ALWAYS_INLINE uint64_t row_of(struct trails *a, struct row_entry *rows, uintptr_t pc)
{
	struct known_row *r = &a->rows[(pc ^ pc >> 10) % ROWS];

	if (UNLIKELY(r->pc != pc)) {
		uint64_t row = row_for(rows, pc - 1);

		if (cfi_unpack(row).kind == CFI_MISSING)
			return row; /* something may be loaded there later */
		r->pc = pc;
		r->row = row;
	}
	return r->row;
}

/* Is w at a remembered frame? Drops those further in (step 2). */
ALWAYS_INLINE NO_SANITIZE bool is_at_known_frame(struct scan *s)
{
	const struct trail_frame *f;

	while (s->at >= 0 && s->trail->frames[s->at].slot < s->w.slot)
		s->at--;
	if (s->at < 0)
		return false;
	f = &s->trail->frames[s->at];
	return f->slot == s->w.slot && f->pc == s->w.pc &&
	       (!(f->flags & TRAIL_NEEDS_BP) || f->bp == s->w.bp);
}

NO_SANITIZE static enum verdict walk(struct scan *s, struct row_entry *rows)
{
	struct trails *a = s->all;

	for (;;) {
		struct trail_frame *f;
		enum verdict v;

		if (is_at_known_frame(s) && proves(s))
			return MATCHED;
		if (UNLIKELY(s->n == a->capacity) && !grow_walked(a))
			return CUT;
		f = &a->walked[s->n++];
		f->slot = s->w.slot;
		f->pc = s->w.pc;
		f->bp = s->w.bp;
		f->save = 0;
		f->deref = 0;
		f->flags = 0;
		a->stats.walked++;
		v = step_row(s, f, row_of(a, rows, s->w.pc));
		if (UNLIKELY(v != MATCHED))
			return v;
	}
}

/* ---- step 4: keeping ---- */

/* Drops the outermost n frames. What is left must not be told by them: frames whose site
 * began there match no more. */
static void drop_outer(struct trails *a, struct trail *t, uint32_t n)
{
	uint32_t words = t->frames[n - 1].words;

	t->count -= n;
	memmove(t->words, t->words + words,
		(t->frames[t->count + n - 1].words - words) * sizeof(*t->words));
	memmove(t->frames, t->frames + n, frames_bytes(t->count));
	for (uint32_t i = 0; i < t->count; i++) {
		struct trail_frame *f = &t->frames[i];

		f->words -= words;
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

/* The words that were read by the step from f outwards, to frame `outer`. */
static uint32_t note_words(struct trail_word *w, struct trail_frame *f,
			   const struct trail_frame *outer)
{
	uint32_t n = 0;
	bool needed = outer->flags & TRAIL_NEEDS_BP;

	w[n++] = (struct trail_word){ outer->slot, outer->pc };
	if (UNLIKELY(f->save && needed))
		w[n++] = (struct trail_word){ f->save, outer->bp };
	if (UNLIKELY(f->deref))
		w[n++] = (struct trail_word){ f->deref, outer->slot + 8 };
	if ((f->flags & TRAIL_USES_BP) || (!f->save && needed))
		f->flags |= TRAIL_NEEDS_BP;
	return n;
}

static void put_root(struct scan *s, struct trail *t, struct trail_frame *f)
{
	f->words = 0;
	if (f->flags & TRAIL_USES_BP)
		f->flags |= TRAIL_NEEDS_BP;
	if (s->zero) {
		t->words[f->words++] = (struct trail_word){ s->zero, 0 };
		if (f->deref)
			t->words[f->words++] =
				(struct trail_word){ f->deref, s->zero + 8 };
	}
	t->top = (s->zero ? s->zero : f->slot) + 8;
}

static void put_pseudo_root(struct scan *s, struct trail *t, uintptr_t pc)
{
	t->frames[0] = (struct trail_frame){ .slot = UINTPTR_MAX - 7,
					     .pc = pc,
					     .serial = ++s->all->serial };
	t->top = s->all->walked[s->n - 1].slot + 8;
	t->count = 1;
}

/* The frame below the pseudo frame. */
static void put_outermost(struct scan *s, struct trail *t, struct trail_frame *f)
{
	for (int i = 0; i < 2 && s->tried[i].addr; i++) {
		t->words[f->words++] = s->tried[i];
		if (t->top < s->tried[i].addr + 8)
			t->top = s->tried[i].addr + 8;
	}
	if (f->flags & TRAIL_USES_BP)
		f->flags |= TRAIL_NEEDS_BP;
}

/* The first frame of a trail, and those next to a pseudo frame. */
static COLD void put_odd(struct scan *s, struct trail *t, uint32_t i)
{
	struct trail_frame *f = &t->frames[i];

	if (i == 0) {
		put_root(s, t, f);
	} else {
		f->words = f[-1].words;
		put_outermost(s, t, f);
	}
}

NO_SANITIZE static void put_frames(struct scan *s, struct trail *t)
{
	const struct trail_frame *from = &s->all->walked[s->n];
	uint32_t i = t->count, max = s->all->max;
	uint64_t serial = s->all->serial;

	for (uint32_t k = s->n; k > 0; k--, i++) {
		struct trail_frame *f = &t->frames[i];

		from--;
		f->slot = from->slot;
		f->pc = from->pc;
		f->bp = from->bp;
		f->save = from->save;
		f->deref = from->deref;
		f->flags = from->flags & TRAIL_USES_BP;
		f->serial = ++serial;
		f->node = 0;
		f->base = 0;
		if (UNLIKELY(i == 0 || f[-1].pc <= FRAME_PSEUDO_MAX)) {
			put_odd(s, t, i);
			continue;
		}
		f->words = f[-1].words;
		f->words += note_words(t->words + f->words, f, f - 1);
		f->base = f[-1].base;
		if (UNLIKELY(i - f->base + (f->base > 0) >= max))
			f->base = i + 1 - max / 2;
	}
	t->count = i;
	s->all->serial = serial;
}

static bool keep(struct scan *s, enum verdict v)
{
	struct trail *t = s->trail;

	if (v != MATCHED) {
		s->all->stats.full++;
		if (t != &s->all->own)
			t = place_other(s->all, s->all->walked[s->n - 1].slot);
		s->at = -1;
		forget(s->all, t);
		t->root = s->all->walked[s->n - 1].slot;
	}
	t->count = (uint32_t)(s->at + 1);
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

NO_SANITIZE static struct trail *capture(struct trails *a, const uintptr_t *fp,
					 struct row_entry *rows)
{
	struct scan s;
	enum verdict v;
	uint32_t generation = unwind_generation();

	fp = walk_last_own_frame(fp);
	s.w.pc = fp[1];
	s.w.slot = (uintptr_t)(fp + 1);
	s.w.bp = fp[0];
	s.w.sp = s.w.lo = (uintptr_t)(fp + 2);
	s.w.precise = false;
	s.w.known = thread_stack_bounds(s.w.sp, &s.w.window, &s.w.hi);
	if (UNLIKELY(!s.w.known))
		s.w.window = s.w.hi = 0;
	s.w.fixed_lo = s.w.fixed_hi = 0;
	s.all = a;
	s.n = 0;
	s.zero = s.pseudo = 0;
	s.tried[0].addr = 0;
	if (UNLIKELY(a->generation != generation)) {
		a->generation = generation;
		memset(a->rows, 0, sizeof(a->rows));
		forget_all(a);
	}
	s.trail = s.w.known ? &a->own : guess_other(a, s.w.sp);
	s.at = (int)s.trail->count - 1;
	v = walk(&s, rows);
	if (UNLIKELY(v == REFUSED) || !keep(&s, v)) {
		a->stats.refused++;
		return NULL;
	}
	s.trail->used = ++a->serial;
	s.trail->steps = a->steps;
	return s.trail;
}

struct trail *trail_capture(void)
{
	struct row_entry *rows = atomic_load_acquire(&row_cache);
	struct trails *a = seep_tls.trails;
	struct trail *t;

	if (seep_tls.unwinding || !rows)
		return NULL;
	seep_tls.unwinding = true;
	atomic_signal_barrier();
	if (UNLIKELY(!a))
		a = make_trails();
	t = a ? capture(a, __builtin_frame_address(0), rows) : NULL;
	if (a && ++a->stats.captures >= STATS_INTERVAL)
		add_stats(a);
	atomic_signal_barrier();
	seep_tls.unwinding = false;
	return t;
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
