/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark_log: what one worker knows of the others.
 *
 * Each worker has white bits of its own, so that marking needs no atomic operation and no
 * cache line of another core. What it makes black it also writes into its log, which the
 * others read now and then, in large pieces. Until they do, an object may be reached and
 * scanned by two, which costs time and changes nothing: a bit says that somebody has the
 * object or had it. So logs are hints. Whoever is a ring behind takes over the other's
 * bits as a whole, and the truth, when all are idle, is what is white for everybody.
 *
 * Where most objects are pointed at once, as in trees, nobody needs to hear: it costs a
 * quarter of the time there and saves nothing. So workers only sample the logs, until one
 * finds entries in them that it has reached itself. From then on all listen.
 *
 * Tried instead: one bitmap for all, with atomic operations. On random graphs nearly each
 * of them finds its line on another core, and two markers take twice the time of one.
 */
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "profiler/leak/mark.h"

#define ENTRIES_LEAST 16384u
#define BITS_PER_ENTRY                                                  \
	64 /* of all bits: what is behind by more takes them as a whole \
	    */
#define ENTRIES_A_LINE (CACHE_LINE / sizeof(uint32_t))
#define LINES_AHEAD    24
#define GAP	       1024 /* left to the writer, whose lines would be taken away */
#define SPANS_AHEAD    16
#define SAMPLE	       256 /* of the latest entries, looked at before listening pays */
#define SAMPLE_EVERY   16u /* exchanges */
#define OVERLAP	       16u /* one entry in so many, of a sample, makes it pay */

bool mark_log_init(struct mark_worker *w)
{
	size_t bytes = mark_bitmap_bytes(w->m);

	if (w->m->nbits > UINT32_MAX)
		return false;
	w->log_entries = ENTRIES_LEAST;
	while (w->log_entries < w->m->nbits / BITS_PER_ENTRY)
		w->log_entries *= 2;
	w->log = meta_map(w->log_entries * sizeof(*w->log), META_LEAK);
	if (w->log && !w->white) {
		w->white = meta_map(bytes, META_LEAK);
		if (w->white)
			memcpy(w->white, w->m->white, bytes);
	}
	w->logs = w->log && w->white;
	return w->logs;
}

void mark_log_free(struct mark_worker *w)
{
	meta_unmap(w->log, w->log_entries * sizeof(*w->log), META_LEAK);
	w->log = NULL;
	w->log_entries = 0;
	w->logs = false;
	if (w->white == w->m->white)
		return;
	meta_unmap(w->white, mark_bitmap_bytes(w->m), META_LEAK);
	w->white = NULL;
}

static void blacken(uint64_t *word, uint64_t left)
{
	if (left != *word)
		atomic_store_relaxed(word, left);
}

static void hear_all(struct mark_worker *w, const struct mark_worker *other)
{
	for (size_t i = 0; i < mark_bitmap_bytes(w->m) / sizeof(*w->white); i++)
		blacken(&w->white[i],
			w->white[i] & atomic_load_relaxed(&other->white[i]));
}

/* The log's cache lines that come from another core, or go there. */
static void ask_for(const struct mark_worker *of, size_t from, size_t end)
{
	size_t mask = of->log_entries - 1;

	for (size_t at = from; at < end; at += ENTRIES_A_LINE)
		__builtin_prefetch(&of->log[at & mask]);
	if (from != end)
		__builtin_prefetch(&of->log[(end - 1) & mask]);
}

/* Of one word's bits, one store: a load that follows a store to its address has to wait
 * for it. */
static void hear_log(struct mark_worker *w, const struct mark_worker *other, size_t from,
		     size_t end)
{
	size_t mask = other->log_entries - 1, at = 0;
	uint64_t black = 0;

	for (; from != end; from++) {
		size_t bit = atomic_load_relaxed(&other->log[from & mask]);

		if (bit / 64 != at) {
			blacken(&w->white[at], w->white[at] & ~black);
			black = 0;
			at = bit / 64;
		}
		black |= (uint64_t)1 << (bit % 64);
	}
	blacken(&w->white[at], w->white[at] & ~black);
}

/* Up to where it asked the last time; then it asks for the rest. */
static void hear(struct mark_worker *w, const struct mark_worker *other,
		 struct mark_heard *heard)
{
	size_t told = atomic_load_acquire(&other->told);

	told = told > GAP ? align_down(told - GAP, ENTRIES_A_LINE) : 0;

	if (told - heard->up_to > other->log_entries / 2) {
		hear_all(w, other);
		heard->asked = told;
	} else {
		hear_log(w, other, heard->up_to, heard->asked);
		ask_for(other, heard->asked, told);
	}
	heard->up_to = heard->asked;
	heard->asked = told;
}

/* Entries that w has reached itself without hearing of them. */
static size_t count_overlap(const struct mark_worker *w, const struct mark_worker *other,
			    size_t from, size_t end)
{
	size_t mask = other->log_entries - 1, overlap = 0;

	for (; from != end; from++) {
		size_t bit = atomic_load_relaxed(&other->log[from & mask]);

		overlap += !mark_test(w->white, bit);
	}
	return overlap;
}

/* What it asks for it looks at the next time. */
static void sample(struct mark_worker *w, const struct mark_worker *other,
		   struct mark_heard *heard)
{
	size_t told;

	if (heard->sampled > 0 && count_overlap(w, other, heard->sampled - SAMPLE,
						heard->sampled) >= SAMPLE / OVERLAP)
		atomic_store_relaxed(&w->m->listens, 1u);
	heard->sampled = 0;
	if (++heard->skipped % SAMPLE_EVERY != 0)
		return;
	told = atomic_load_acquire(&other->told);
	if (told < GAP + SAMPLE)
		return;
	heard->sampled = told - GAP;
	ask_for(other, heard->sampled - SAMPLE, heard->sampled);
}

static void own_lines_ahead(const struct mark_worker *w)
{
	size_t mask = w->log_entries - 1;

	for (size_t i = 1; i <= LINES_AHEAD; i++)
		__asm__ volatile("prefetchw %0"
				 :
				 : "m"(w->log[(w->logged + i * ENTRIES_A_LINE) & mask]));
}

void mark_log_exchange(struct mark_worker *w)
{
	struct marker *m = w->m;

	if (w->told != w->logged) {
		atomic_store_release(&w->told, w->logged);
		own_lines_ahead(w);
	}
	for (unsigned i = 0; i < m->nworkers; i++) {
		if (&m->workers[i] == w)
			continue;
		if (atomic_load_relaxed(&m->listens))
			hear(w, &m->workers[i], &w->heard[i]);
		else
			sample(w, &m->workers[i], &w->heard[i]);
	}
}

/* Whoever does not log leaves more behind than a log holds. */
void mark_log_lonely(struct mark_worker *w, size_t n)
{
	w->lonely = n > 0 ? w->lonely + n : 0;
	if (w->logs && w->lonely > w->log_entries)
		w->logs = false;
	if (w->logs || n > 0)
		return;
	w->logged += w->log_entries;
	w->logs = true;
	atomic_store_relaxed(&w->m->listens, 1u);
}

/* What was scanned twice counts once. */
static void count_reached(struct marker *m)
{
	struct mark_worker *w = &m->workers[0];

	for (unsigned i = 0; i < m->nworkers; i++)
		m->workers[i].objects = m->workers[i].bytes = 0;
	for (size_t i = 0; i < m->nspans; i++) {
		size_t first = mark_first_bit(m, m->spans[i]) / 64, n = 0;

		__builtin_prefetch(
			m->spans[i + SPANS_AHEAD < m->nspans ? i + SPANS_AHEAD : i]);
		for (size_t k = 0; k <= m->spans[i]->nslots / 64; k++)
			n += (size_t)__builtin_popcountll(m->live[first + k] &
							  ~m->white[first + k]);
		w->objects += n;
		w->bytes += n * mspan_slot_bytes(m->spans[i]);
	}
}

static bool helpers_worked(const struct marker *m)
{
	for (unsigned i = 1; i < m->nworkers; i++)
		if (m->workers[i].objects > 0 || m->workers[i].bytes > 0)
			return true;
	return false;
}

void mark_log_merge(struct marker *m)
{
	if (!helpers_worked(m))
		return;
	for (unsigned i = 1; i < m->nworkers; i++)
		hear_all(&m->workers[0], &m->workers[i]);
	atomic_store_relaxed(&m->listens, 0u);
	count_reached(m);
}
