/* SPDX-License-Identifier: Apache-2.0 */
/*
 * where: see where.h.
 *
 * Looked at each time: the return register, and the words of the outer frames. Under a
 * budget of time, and for the first objects of a site and then ever fewer: thread-local
 * variables, the writable segments of all modules but libc's and ours, and the heap,
 * whose live-object map tells which object a word belongs to; and where none of these has
 * it, the stacks of other threads; of one that runs, what is found there once is believed
 * where it appears again while an object lives. Interior pointers count.
 *
 * Reading is safe: pages of the heap are never unmapped, segments only by dlclose(),
 * which waits (where_pause()), and frames lie between slots of one stack.
 */
#include "profiler/escape/where.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "profiler/escape/other.h"
#include "profiler/escape/tls_block.h"
#include "profiler/escape/words.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"

#define FRAME_BYTES 4096 /* of outer frames that are looked through */
/* CPU time for looking, ns: one part in SHARE of what the process has used since the
 * start, and what there is to begin with; for the first looks of a site more. While
 * everything is recorded, the program is slowed down anyway; in sampled mode nobody may
 * notice. */
#define SHARE_EXACT   50
#define START_EXACT   ((uint64_t)10000000)
#define FIRST_EXACT   ((uint64_t)40000000)
#define SHARE_SAMPLED 1000
#define START_SAMPLED ((uint64_t)50000)
#define LEAST	      ((uint64_t)20000)	 /* a shorter look sees too little */
#define BYTES_A_NS    4			 /* read while looking, at least about */
#define MOST_NS	      ((uint64_t)200000) /* of a look, and one more for each byte */
#define SEGMENT_MAX   (16 * MIB)
#define HEAP_MAX      (16 * MIB) /* bytes of heap in one look */
#define TRIES	      4096	 /* counters of looks, by site and level */
#define ALWAYS	      8		 /* looks before they become rare */
#define STALE_LEVELS  8
#define FIRST	      4	  /* looks that have a larger budget */
#define RESULT_BYTES  256 /* of a structure returned in memory */

/* Where an object of a site was found last: the next one may well be there. */
struct hint {
	uint32_t site;
	uint8_t place;
	uintptr_t at; /* TLS: bytes below the thread pointer */
};

_Static_assert(STALE_LEVELS <= 8, "bits of followed.stale");

static struct {
	uint64_t start_ns, spent_ns; /* CPU time: of the process, of looks */
	uint64_t nlooks;
	uint64_t dry_ns[2]; /* when nothing was left, os_coarse_ns(); [1]: of first looks
			     */
	size_t left;	    /* bytes that this look may still read */
	size_t heap_read;   /* bytes of the heap, which are not taken off that */
	uint16_t tries[TRIES];
	struct hint hints[TRIES]; /* by site and level */
	/* dlclose(): atomic, sequentially consistent */
	uint32_t closing, reading;
	/* modules whose data is nobody's business, by id */
	uint8_t skip[512];
} where;

enum { SKIP_UNKNOWN, SKIP_YES, SKIP_NO };

void where_start(void)
{
	where.start_ns = os_process_ns() | 1;
	where.spent_ns = 0;
	where.nlooks = 0;
}

void where_init(void)
{
	where_start();
	tls_block_init();
	words_init();
	other_init();
}

void where_pause(void)
{
	__atomic_add_fetch(&where.closing, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&where.reading, __ATOMIC_SEQ_CST))
		os_yield();
}

void where_resume(void)
{
	if (where.start_ns) {
		escape_lock();
		memset(where.hints, 0, sizeof(where.hints)); /* perhaps in what is gone */
		escape_unlock();
	}
	__atomic_sub_fetch(&where.closing, 1, __ATOMIC_SEQ_CST);
}

static bool start_reading(void)
{
	__atomic_store_n(&where.reading, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&where.closing, __ATOMIC_SEQ_CST) == 0)
		return true;
	__atomic_store_n(&where.reading, 0, __ATOMIC_SEQ_CST);
	return false;
}

/* ---- words ---- */

/* The first word of [lo, hi) that points into the object, or 0. */
static uintptr_t find_word(uintptr_t lo, uintptr_t hi, const struct followed *f)
{
	return words_find(lo, hi, f->p, f->size ? f->size : 1);
}

/* ---- outer frames ---- */

/* The outer frames of activation level: up to a slot that no gap lies before. */
static uintptr_t frames_end(const struct bound_stack *b, uint32_t level)
{
	uintptr_t lo = bound_slot(b, level), hi = lo;

	for (uint32_t i = level + 1; i < b->count; i++) {
		uintptr_t slot = bound_slot(b, i);

		if (slot < hi || slot - hi > FRAME_BYTES || slot - lo > FRAME_BYTES)
			break;
		hi = slot;
	}
	return hi;
}

static unsigned count_words(const struct followed *f, uint32_t level,
			    uintptr_t *out_first)
{
	uintptr_t at = bound_slot(&f->stack, level) + 8;
	uintptr_t hi = frames_end(&f->stack, level);
	unsigned n = 0;

	*out_first = 0;
	for (; (at = find_word(at, hi, f)) != 0; at += 8)
		if (n++ == 0)
			*out_first = at;
	return n;
}

/* The word that a hint names. */
static uintptr_t hint_word(const struct hint *h)
{
	uintptr_t self = (uintptr_t)__builtin_thread_pointer();

	return h->place == PLACE_TLS ? self - h->at : h->at;
}

static struct hint *hint_of(const struct followed *f, uint32_t level)
{
	return &where.hints[(f->site * 31u + level) % TRIES];
}

static bool refers_now(const struct followed *f, const struct hint *h)
{
	uintptr_t at = hint_word(h);
	struct other_word w;

	if (h->place == PLACE_THREAD)
		return other_refers(at, f->p, f->size ? f->size : 1, &w);
	return find_word(at, at + 8, f) != 0;
}

void where_begin(struct followed *f)
{
	uintptr_t first;

	if (f->stack.count > 0)
		f->seen_before = (uint16_t)count_words(f, 0, &first);
	if (!start_reading())
		return;
	for (uint32_t i = 0; i < STALE_LEVELS; i++) {
		const struct hint *h = hint_of(f, i);

		if (h->site == f->site && refers_now(f, h))
			f->stale |= (uint8_t)(1u << i);
	}
	__atomic_store_n(&where.reading, 0, __ATOMIC_SEQ_CST);
}

static bool is_stale(const struct followed *f, const struct hint *h)
{
	return h->site == f->site && f->level < STALE_LEVELS && f->stale >> f->level & 1;
}

static void found(struct followed *f, enum place place, uint64_t detail)
{
	if (place < f->place || (place == f->place && f->detail))
		return;
	f->place = (uint8_t)place;
	f->detail = detail;
}

static void found_in_frame(struct followed *f, uintptr_t word)
{
	uint32_t frame = f->level + 1u;

	while (frame < f->stack.count && bound_slot(&f->stack, frame) <= word)
		frame++;
	found(f, PLACE_CALLER, frame);
}

static void look_near(struct followed *f, uintptr_t rax, uintptr_t rdx, uintptr_t ret)
{
	size_t size = f->size ? f->size : 1;
	uintptr_t first, hi = frames_end(&f->stack, f->level);

	if (rax - f->p < size) {
		enum retuse use = retuse_of(ret);

		if (use != RETUSE_LOST)
			found(f,
			      use == RETUSE_READ ? PLACE_RETURNED : PLACE_MAYBE_RETURNED,
			      0);
	} else if (rdx - f->p < size) {
		found(f, PLACE_MAYBE_RETURNED, 1);
	}
	if (count_words(f, f->level, &first) > f->seen_before)
		found_in_frame(f, first);
	else if (rax > bound_slot(&f->stack, f->level) && rax < hi &&
		 (first = find_word(rax,
				    rax + RESULT_BYTES < hi ? rax + RESULT_BYTES : hi,
				    f)) != 0)
		found_in_frame(f, first); /* a structure returned by value */
}

/* ---- thread-local and global variables ---- */

static bool look_tls(struct followed *f, struct hint *h)
{
	uintptr_t self = (uintptr_t)__builtin_thread_pointer();

	for (size_t i = 0; i < tls_block_count(); i++) {
		const struct tls_block *b = tls_block_at(i);
		uintptr_t lo = self - b->below, at = find_word(lo, lo + b->size, f);

		if (at) {
			found(f, PLACE_TLS, self - at);
			*h = (struct hint){ f->site, PLACE_TLS, self - at };
			return true;
		}
	}
	return false;
}

static bool is_skipped(const struct module *m)
{
	uint8_t *skip = m->id < sizeof(where.skip) ? &where.skip[m->id] : NULL;

	if (m->is_seep || atomic_load_relaxed(&m->unloaded) || !skip)
		return true;
	if (*skip == SKIP_UNKNOWN)
		*skip = module_path_is_libc(m->path) ? SKIP_YES : SKIP_NO;
	return *skip == SKIP_YES;
}

/* As much of [lo, hi) as this look may still read. */
static bool look_range(struct followed *f, uintptr_t lo, uintptr_t hi, struct hint *h)
{
	uintptr_t at;

	if (lo >= hi)
		return false;
	hi = hi - lo > where.left ? lo + align_down(where.left, 8) : hi;
	where.left -= hi - lo;
	at = find_word(lo, hi, f);
	if (at && is_stale(f, h) && at == h->at)
		at = find_word(at + 8, hi, f);
	if (!at)
		return false;
	found(f, PLACE_GLOBAL, at);
	*h = (struct hint){ f->site, PLACE_GLOBAL, at };
	return true;
}

/* Without what was made read-only before the program began, in large C++ libraries most
 * of it. */
static bool look_segments(struct followed *f, const struct module *m, struct hint *h)
{
	for (uint32_t i = 0; i < m->nsegments; i++) {
		const struct module_segment *s = &m->segments[i];
		uintptr_t end = s->end, again = s->end;

		if (!s->writable || s->end - s->start > SEGMENT_MAX)
			continue;
		if (m->relro_start < m->relro_end && m->relro_start >= s->start &&
		    m->relro_end <= s->end) {
			end = m->relro_start;
			again = m->relro_end;
		}
		if (look_range(f, s->start, end, h) || look_range(f, again, s->end, h))
			return true;
	}
	return false;
}

static bool look_globals(struct followed *f, struct hint *h)
{
	bool seen = false;

	if (!start_reading())
		return false;
	for (uint32_t i = 0; i < module_count() && !seen; i++)
		if (!is_skipped(module_at(i)))
			seen = look_segments(f, module_at(i), h);
	__atomic_store_n(&where.reading, 0, __ATOMIC_SEQ_CST);
	return seen;
}

/* ---- the heap ---- */

/* The word at lies in a span; is it one of a live object other than f? */
static bool is_held(struct followed *f, const struct mspan *s, uintptr_t at)
{
	uint32_t index = mspan_index_of(s, at);
	size_t bytes = mspan_slot_bytes(s);
	uintptr_t slot = s->base + (uintptr_t)index * bytes;
	const struct sample_record *r;

	if (index >= s->nslots || f->p - slot < bytes ||
	    !(atomic_load_relaxed(&s->alloc_bits[index / 64]) >> (index % 64) & 1))
		return false;
	r = sample_find(s, index);
	if (!r && sample_is_exact())
		return false; /* free, in some thread's cache */
	found(f, PLACE_HEAP, (uint64_t)sample_site(r) << 32 | (uint32_t)(at - slot));
	return true;
}

static bool look_span(struct followed *f, const struct mspan *s, struct hint *h)
{
	uintptr_t at = s->base, end = s->base + (s->npages << PAGE_SHIFT);

	for (; (at = find_word(at, end, f)) != 0; at += 8)
		if (is_held(f, s, at)) {
			*h = (struct hint){ f->site, PLACE_HEAP, at };
			return true;
		}
	return false;
}

static bool look_heap(struct followed *f, struct hint *h)
{
	uintptr_t lo, hi, at;
	size_t left = where.left < HEAP_MAX ? where.left : HEAP_MAX;

	heap_bounds(&lo, &hi);
	for (at = lo; at < hi && left > 0;) {
		const struct mspan *s = heap_find(at, NULL);
		size_t bytes = s ? s->npages << PAGE_SHIFT : PAGE_SIZE;

		if (s && s->base == at) {
			where.heap_read += bytes;
			if (look_span(f, s, h))
				return true;
			left -= bytes < left ? bytes : left;
		}
		at += bytes;
	}
	return false;
}

/* ---- other threads ---- */

static void look_threads(struct followed *f, struct hint *h)
{
	struct other_word w;

	if (!atomic_load_relaxed(&thread_are_many) ||
	    !other_has(f->p, f->size ? f->size : 1, &where.left, &w))
		return;
	*h = (struct hint){ f->site, PLACE_THREAD, w.at };
	if (w.waits)
		found(f, PLACE_THREAD, w.site);
}

static bool look_at_stack_hint(struct followed *f, const struct hint *h)
{
	struct other_word w;

	if (!other_refers(h->at, f->p, f->size ? f->size : 1, &w))
		return false;
	found(f, PLACE_THREAD, w.site);
	return true;
}

/* ---- under the budget ---- */

/* Is it where the last one was? stale: and was there a reference before it was born? */
static bool look_at_hint(struct followed *f, struct hint *h, bool stale)
{
	uintptr_t at = hint_word(h), word;
	const struct mspan *s;
	bool seen = false;

	if (h->site != f->site || is_stale(f, h) != stale)
		return false;
	if (h->place == PLACE_THREAD) /* stale: it may have been left there */
		return !stale && look_at_stack_hint(f, h);
	if (!start_reading())
		return false;
	/* The next word as well: arrays are filled. Not beyond the page. */
	word = find_word(at, at % OS_PAGE <= OS_PAGE - 16 ? at + 16 : at + 8, f);
	if (word) {
		s = h->place == PLACE_HEAP ? heap_find(word, NULL) : NULL;
		seen = h->place == PLACE_HEAP ? s && is_held(f, s, word) : true;
		h->at = h->place == PLACE_TLS ? h->at - (word - at) : word;
		if (seen && h->place != PLACE_HEAP)
			found(f, h->place, h->at);
	}
	__atomic_store_n(&where.reading, 0, __ATOMIC_SEQ_CST);
	return seen;
}

/* What the budget has left, ns. */
static uint64_t allowance(bool first)
{
	uint64_t age = os_process_ns() - where.start_ns, all;

	if (sample_is_exact())
		all = (first ? FIRST_EXACT : START_EXACT) + age / SHARE_EXACT;
	else
		all = START_SAMPLED + age / SHARE_SAMPLED;
	return all > where.spent_ns + LEAST ? all - where.spent_ns : 0;
}

/* The clock, which costs a system call, is read only where a look may follow, and once in
 * a few milliseconds where none may. */
static bool is_due(uint32_t i)
{
	uint16_t *tries = &where.tries[i];
	uint32_t next = *tries + 1u;
	uint64_t ns, now, *dry = &where.dry_ns[*tries < FIRST];

	if (next > ALWAYS && !is_pow2(next)) {
		if (next <= UINT16_MAX)
			*tries = (uint16_t)next;
		return false;
	}
	now = os_coarse_ns();
	ns = now == *dry ? 0 : allowance(*tries < FIRST);
	if (ns == 0) {
		*dry = now;
		return false; /* the same try again, later */
	}
	where.left = ns * BYTES_A_NS;
	if (next <= UINT16_MAX)
		*tries = (uint16_t)next;
	return true;
}

/* Nothing was found that became a reference while it lived. A word that was one before
 * may have been written again with the same value, as objects follow each other at one
 * address: where the last one was, or in an outer frame. */
static void conclude(struct followed *f, struct hint *h)
{
	uintptr_t first;

	if (f->place > PLACE_MAYBE_RETURNED || look_at_hint(f, h, true))
		return;
	if (f->scanned && f->place == PLACE_UNSEEN &&
	    count_words(f, f->level, &first) > 0)
		found_in_frame(f, first);
}

/* The clock also counts what a host gave to other machines meanwhile, which may be tens
 * of milliseconds: no more is believed than so much reading can take. */
static void look_far(struct followed *f, struct hint *h)
{
	uint64_t before = os_thread_ns(), spent, most = where.left + MOST_NS;

	f->scanned = true;
	where.heap_read = 0;
	if (!look_globals(f, h) && !look_tls(f, h) && !look_heap(f, h))
		look_threads(f, h);
	spent = os_thread_ns() - before;
	most += where.heap_read - where.left;
	where.spent_ns += spent < most ? spent : most;
	where.nlooks++;
}

void where_get_stats(struct where_stats *out)
{
	out->looks = where.nlooks;
	out->spent_ns = where.spent_ns;
	out->process_ns = where.start_ns ? os_process_ns() - where.start_ns : 0;
}

void where_look(struct followed *f, uintptr_t rax, uintptr_t rdx, uintptr_t ret)
{
	struct hint *h = hint_of(f, f->level);

	if (f->inherited || f->place >= PLACE_TLS)
		return;
	f->place = PLACE_UNSEEN; /* of an inner frame; it may have gone on since */
	f->detail = 0;
	look_near(f, rax, rdx, ret);
	if (look_at_hint(f, h, false)) {
		f->scanned = true;
		return;
	}
	if (is_due((uint32_t)(h - where.hints)))
		look_far(f, h);
	if (f->place < PLACE_TLS)
		conclude(f, h);
}
