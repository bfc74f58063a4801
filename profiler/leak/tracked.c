/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracked: see tracked.h.
 *
 *   process                                      agent
 *   watch, look
 *   what was written, and is new
 *   what was written, again and again
 *   --------------------------------------------> locks, stop
 *   what was written, registers, stacks
 *   --------------------------------------------> go on
 *   shared memory; sweep
 *
 * In each turn the pages are asked for first: what is written afterwards is written
 * again for the next. Then mappings and objects that are new are looked for: what comes
 * after that is written after it, too.
 *
 * It proves itself: the lost canary is white until its address is written into the
 * page of the canaries, where nobody has looked since; then it must be reached.
 */
#include "profiler/leak/tracked.h"

#include "preload/base/os.h"
#include "profiler/leak/look.h"
#include "profiler/leak/pagemap.h"

#define FULL_TURNS 2
#define TURNS	   12
#define FEW	   256 /* pages: there will be about as many in the stop */
/* What a page takes in the stop, a copy takes for so many of all pages; see live.py. */
#define PAGES_COPIED 10
#define MOST	     16384

bool tracked_map(struct tracked *t)
{
	return written_map(&t->written) && mark_doubts_map(&t->doubts) &&
	       mark_doubts_map(&t->white);
}

void tracked_unmap(struct tracked *t)
{
	mark_doubts_unmap(&t->doubts);
	mark_doubts_unmap(&t->white);
	written_unmap(&t->written);
}

/* ---- what was written ---- */

struct pieces {
	const struct written *written;
	size_t at; /* in its list: pieces come by address, too */
	void (*mark)(struct marker *m, uintptr_t lo, uintptr_t hi);
	struct marker *m;
	uintptr_t more; /* bytes behind each: a word may begin before it */
};

static void mark_piece(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct pieces *p = arg;
	const struct written *w = p->written;

	while (p->at > 0 && w->dirty[p->at - 1].hi > lo)
		p->at--;
	while (p->at < w->ndirty && w->dirty[p->at].hi <= lo)
		p->at++;
	for (size_t i = p->at; i < w->ndirty && w->dirty[i].lo < hi; i++) {
		const uintptr_t from = w->dirty[i].lo - p->more,
				to = w->dirty[i].hi + p->more;

		p->mark(p->m, from > lo ? from : lo, to < hi ? to : hi);
	}
}

/* Where there was no root yet: in a hole of a mapping, or one that was closed. Whether it
 * is code cannot be told. */
static void mark_other(uintptr_t lo, uintptr_t hi, void *arg)
{
	mark_range(arg, lo, hi);
	mark_code(arg, lo, hi);
}

static void mark_roots(const struct tracked *t, struct cycle *c)
{
	struct pieces p = { .written = &t->written, .mark = mark_range, .m = &c->marker };

	cycle_mark_handed(c);
	roots_each(&c->roots, mark_piece, &p);
	p.mark = mark_code;
	p.at = 0;
	p.more = sizeof(uintptr_t);
	roots_each_code(&c->roots, mark_piece, &p);
	roots_each_other(&c->roots, t->written.dirty, t->written.ndirty, mark_other,
			 &c->marker);
}

static void mark_heap(const struct tracked *t, struct cycle *c, struct mark_doubts *d)
{
	for (size_t i = 0; i < t->written.ndirty; i++)
		mark_written(&c->marker, t->written.dirty[i].lo, t->written.dirty[i].hi,
			     d);
}

/* NULL, or why not. */
static const char *take_turn(struct tracked *t, struct cycle *c)
{
	if (!written_collect(&t->written, true))
		return t->written.full ? "too much is written"
				       : "pages cannot be watched";
	if (!written_follow(&t->written) || !cycle_find_again(c))
		return "its memory is mapped anew all the time";
	mark_heap(t, c, NULL);
	mark_roots(t, c);
	mark_drain(&c->marker);
	sweep_hold(&c->marker);
	mark_drop_cached(&c->marker);
	return NULL;
}

static void mark_running(struct tracked *t, struct cycle *c)
{
	mark_heap(t, c, &t->doubts);
	mark_roots(t, c);
	mark_drain(&c->marker);
}

/* And again for those that are only possibly lost so far. */
static void mark_twice(struct tracked *t, struct cycle *c,
		       void (*mark)(struct tracked *t, struct cycle *c))
{
	mark(t, c);
	if (mark_begin_maybe(&c->marker)) {
		mark(t, c);
		mark_end_maybe(&c->marker);
	}
}

/* Without looking for what is new, which takes long in a large heap. */
static bool take_short_turn(struct tracked *t, struct cycle *c)
{
	if (!written_collect(&t->written, true))
		return false;
	mark_twice(t, c, mark_running);
	return !t->doubts.full;
}

/* More pages take longer than a copy would. */
static size_t most_pages(const struct written *w)
{
	const size_t most = FEW + w->huge + w->pages / PAGES_COPIED;

	return most < MOST ? most : MOST;
}

/* Until little is written in the time of a turn. */
static bool take_turns(struct tracked *t, struct cycle *c)
{
	for (int i = 0; i < TURNS; i++) {
		if (!take_short_turn(t, c))
			return false;
		if (t->written.dirty_pages <= FEW)
			break;
	}
	written_weigh(&t->written);
	return t->written.dirty_pages <= most_pages(&t->written);
}

/* ---- the stop ---- */

struct bared {
	uintptr_t lo, hi;
	struct marker *m;
	int pagemap;
	bool told;
};

static void mark_there(uintptr_t lo, uintptr_t hi, void *arg)
{
	const struct bared *b = arg;

	for (; lo < hi; lo += OS_PAGE)
		if (unreadable_is_not(lo))
			mark_range(b->m, lo > b->lo ? lo : b->lo,
				   lo + OS_PAGE < b->hi ? lo + OS_PAGE : b->hi);
}

static void mark_bared(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct bared *b = arg;

	b->lo = lo;
	b->hi = hi;
	b->told &=
		pagemap_each(b->pagemap, align_down(lo, OS_PAGE), align_up(hi, OS_PAGE),
			     PAGEMAP_PRESENT | PAGEMAP_SWAPPED, mark_there, b);
}

/* What was the dead part of a stack, or a stack that was out of use, and is not now: what
 * was written there in the turns before was not looked at. */
static bool mark_stacks(const struct tracked *t, struct cycle *c)
{
	struct bared b = { .m = &c->marker, .pagemap = t->written.pagemap, .told = true };

	roots_each_bared(&c->roots, mark_bared, &b);
	return b.told;
}

static void mark_stopped(struct tracked *t, struct cycle *c)
{
	t->unseen |= !mark_stacks(t, c);
	mark_heap(t, c, &t->doubts);
	mark_settle(&c->marker, &t->doubts);
	mark_roots(t, c);
	cycle_mark_threads(c);
	mark_drain(&c->marker);
}

/* With all threads stopped. */
static const char *mark_rest(struct tracked *t, struct cycle *c)
{
	if (!written_collect(&t->written, false) ||
	    t->written.dirty_pages > 2 * most_pages(&t->written))
		return "too many pages are written";
	if (!written_knows_all(&t->written))
		return "its memory is mapped anew all the time";
	roots_restack(&c->roots, &c->world);
	t->unseen = false;
	mark_twice(t, c, mark_stopped);
	if (t->unseen)
		return "pages cannot be watched";
	mark_settle_white(&c->marker, &t->white);
	if (t->doubts.full || c->roots.full)
		return "too much has been made anew";
	return NULL;
}

static const char *stop_and_mark(struct tracked *t, struct cycle *c)
{
	const char *why;

	if (!look_stop())
		return "its threads could not be stopped";
	why = mark_rest(t, c);
	look_go_on();
	return why;
}

/* ---- the whole ---- */

/* What others share, and write to unseen, as a copy would have it: from now on. */
static void mark_shared(struct tracked *t, struct cycle *c)
{
	(void)t;
	cycle_mark_roots(c);
	mark_drain(&c->marker);
}

/* What was not white before, or is not the same, is held. */
static void keep_seen(struct tracked *t, struct cycle *c)
{
	if (t->before)
		sweep_keep_seen(&c->marker, t->before);
	sweep_note_seen(&c->marker, t->seen);
	mark_reach_inner(&c->marker);
	for (size_t i = 0; i < t->seen->count && i < t->seen->room; i++)
		if (!history_knows(&t->seen->list[i].entry))
			mark_doubt(&t->white, t->seen->list[i].entry.base);
}

/* All that does not need the threads to stand. */
static const char *prepare(struct tracked *t, struct cycle *c)
{
	const char *why = written_begin(&t->written, c->roots.known);

	if (why)
		return why;
	if (!cycle_look(c))
		return "the look could not be made";
	cycle_show_lost(true);
	for (int i = 0; i < FULL_TURNS && !why; i++)
		why = take_turn(t, c);
	if (why)
		return why;
	if (!cycle_has_found_lost(c))
		return "the check did not find its own canaries";
	keep_seen(t, c);
	if (t->white.full || t->seen->count > t->seen->room)
		return "too much is lost";
	return take_turns(t, c) ? NULL : "too much is written";
}

static const char *confirm(struct tracked *t, struct cycle *c)
{
	struct marker *m = &c->marker;
	const char *why = prepare(t, c);

	if (!why)
		why = stop_and_mark(t, c);
	if (why)
		return why;
	mark_twice(t, c, mark_shared);
	mark_show_maybe(m);
	sweep_hold(m);
	sweep_keep_seen(m, t->seen);
	sweep_note_seen(m, t->seen);
	if (m->has_odd || t->seen->count > t->seen->room ||
	    !sweep_look(m, t->sweep, c->out))
		return "too much is lost";
	return NULL;
}

void tracked_confirm(struct tracked *t, struct cycle *c)
{
	t->why = confirm(t, c);
	written_end(&t->written);
}
