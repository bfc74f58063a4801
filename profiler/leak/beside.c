/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beside: see beside.h.
 *
 * A process that shares the memory (look.h) marks what the program is changing. What is
 * lost stays white in that, since nobody has its address any more to write it anywhere.
 * What is not lost may be white, too: its only pointer went from where the look had not
 * been yet to where it had been; it was freed meanwhile. So what is white is looked at
 * again, and again from the roots: it is a candidate if it is the same object with the
 * same bytes in it and white in both looks. Only a stop finds out more.
 *
 * Again is a pass through all that was reached, in the order of memory, and takes half as
 * long. Where one takes nothing away, and a look takes seconds, it is the second look.
 *
 * What is white in both is lost if it is white in the moment of a stop, too: see
 * tracked.h.
 *
 *   agent                             process
 *   ------------------------------->  counts spans
 *   maps memory, copies the list
 *   of threads  ------------------->  tables, roots, marks, notes what is white
 *   who has run since  ------------>  passes, keeps what stays white
 *   (new ones)  ------------------->  the same again, keeps what was seen twice
 *   (none)                            sweeps
 *   records, history, growth
 */
#include "profiler/leak/beside.h"

#include <string.h>

#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/chain.h"
#include "profiler/leak/collapse.h"
#include "profiler/leak/growth.h"
#include "profiler/leak/history.h"
#include "profiler/leak/look.h"
#include "profiler/leak/tracked.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"

#define TRIES	   2 /* of each step: memory may go under a look */
#define WATCHES	   32
#define WATCH_NS   250000
#define AGAIN	   4 /* times, of which ... */
#define SURELY	   1 /* ... so many however long they take, and more in ... */
#define PATIENCE   UINT64_C(4000000000) /* ... ns: a pass of a large heap takes seconds */
#define SITES_ROOM 4096
/* Of processor time, before it lets the program go first: with a check a minute less than
 * 1 % of one processor, and enough for heaps of some 100 MB. */
#define EAGER_NS  UINT64_C(500000000)
#define LOOKS	  2
#define SEEN_ROOM ((size_t)1 << 16) /* new objects */
#define KINDS	  2		    /* records of a site, mostly */

enum step { STEP_COUNT, STEP_LOOK, STEP_AGAIN, STEP_CONFIRM, STEP_CHAIN };

struct beside {
	struct cycle *c;
	char *stack;
	enum step step;
	bool ok;	   /* the step's result */
	uint64_t began_ns; /* the look */
	uint64_t eager_ns; /* that are left */
	struct roots_known known;
	uint64_t locked_ns; /* the longest */
	struct sweep_seen seen[LOOKS];
	unsigned look; /* the present one */
	bool is_sure;  /* it was long, and its last pass took nothing away */
	const struct beside_help *help;
	struct tracked tracked;
	struct sweep sweep;
	struct chain_search chain;
	const char *why;
};

/* ---- in the process ---- */

/* What is lost is not freed, and does not change. An object in flight may look the same
 * in two looks, since another had its place then; now and then its place is free. */
static void watch(struct marker *m, struct sweep_seen *seen)
{
	const uint32_t never = 0;

	for (int i = 0; i < WATCHES && seen->fresh > 0; i++) {
		os_futex_wait(&never, 0, WATCH_NS);
		mark_drop_cached(m);
		sweep_keep_seen(m, seen);
	}
	sweep_note_seen(m, seen);
}

/* So long that another look had better not be. */
static bool is_long(const struct beside *b)
{
	return b->eager_ns == 0;
}

static bool has_time(const struct beside *b)
{
	return os_now_ns() - b->began_ns < PATIENCE;
}

/* What is over when nothing is white any more, else there is more to do. */
static void end_look(struct beside *b)
{
	struct marker *m = &b->c->marker;
	const struct sweep_seen *seen = &b->seen[b->look];

	if (!m->has_odd)
		b->ok = seen->fresh > 0 || (seen->count <= seen->room &&
					    sweep_look(m, &b->sweep, b->c->out));
}

static void look(struct beside *b)
{
	struct cycle *c = b->c;

	if (!cycle_look(c))
		return;
	if (b->look > 0)
		sweep_keep_seen(&c->marker, &b->seen[b->look - 1]);
	sweep_note_seen(&c->marker, &b->seen[b->look]);
	end_look(b);
}

/* Until a pass takes nothing away. */
static void look_again(struct beside *b)
{
	struct marker *m = &b->c->marker;
	struct sweep_seen *seen = &b->seen[b->look];

	b->is_sure = false;
	for (unsigned i = 0; i < AGAIN && seen->fresh && !b->is_sure; i++) {
		const size_t before = seen->fresh;

		if (i >= SURELY && !has_time(b))
			break;
		if (!cycle_look_again(b->c))
			return;
		sweep_keep_seen(m, seen);
		sweep_note_seen(m, seen);
		b->is_sure = seen->fresh == before;
	}
	b->is_sure &= is_long(b) && seen->count <= seen->room;
	if (b->look > 0 || b->is_sure)
		watch(m, seen);
	end_look(b);
}

static void find_chains(struct beside *b)
{
	memset(b->chain.where, 0, b->chain.bytes);
	b->chain.head = b->chain.tail = 0;
	chain_search(&b->chain, &b->c->roots, &b->c->world, b->c->handed, b->c->out);
	b->ok = true;
}

static void work(void *arg)
{
	struct beside *b = arg;

	b->ok = false;
	if (b->step == STEP_COUNT) {
		mark_count(&b->c->marker);
		b->ok = !b->c->marker.has_odd;
	} else if (b->step == STEP_LOOK) {
		look(b);
	} else if (b->step == STEP_AGAIN) {
		look_again(b);
	} else if (b->step == STEP_CONFIRM) {
		tracked_confirm(&b->tracked, b->c);
		b->ok = !b->tracked.why;
	} else {
		find_chains(b);
	}
}

/* ---- in the agent ---- */

static enum look_end run_once(struct beside *b, enum step step)
{
	const struct look_stopper stopper = { b->help->stop, b->help->arg };

	b->step = step;
	return look_run(work, b, b->stack, &b->eager_ns,
			step == STEP_CONFIRM ? &stopper : NULL);
}

/* One that ends in the middle leaves tables and lists that are worth nothing. */
static enum look_end run_look(struct beside *b, bool again)
{
	const struct sweep_seen *seen = &b->seen[b->look];
	enum look_end end;

	if (again) {
		module_refresh();
		mark_clear_all(&b->c->marker);
	}
	end = run_once(b, STEP_LOOK);
	if (end == LOOK_DONE && b->ok && seen->fresh > 0) {
		b->help->doubt(b->help->arg);
		end = run_once(b, STEP_AGAIN);
	}
	return end;
}

static bool run(struct beside *b, enum step step)
{
	enum look_end end = LOOK_KILLED;

	b->began_ns = os_now_ns();
	for (int i = 0; i < TRIES && end != LOOK_DONE && end != LOOK_REFUSED; i++) {
		if (i > 0 && !has_time(b))
			break;
		end = step == STEP_LOOK ? run_look(b, i > 0) : run_once(b, step);
	}
	if (end == LOOK_REFUSED)
		b->why = "no process that shares its memory can be made";
	else if (end == LOOK_KILLED)
		b->why = "who looked was killed";
	else if (end == LOOK_FAULT)
		b->why = "memory was taken away under the look";
	else if (!b->ok && b->c->marker.has_odd)
		b->why = "a part of its heap is not understood";
	else if (!b->ok)
		b->why = roots_unfit(&b->c->roots);
	if (end == LOOK_DONE && !b->ok && !b->why)
		b->why = b->c->out->reason[0] ? "the look did not find its own canaries"
					      : "its heap grew too fast";
	return end == LOOK_DONE && b->ok;
}

static bool map_all(struct beside *b)
{
	const size_t room = history_size() + SEEN_ROOM;
	const size_t records = KINDS * site_count() + SITES_ROOM;

	for (unsigned i = 0; i < LOOKS; i++) {
		b->seen[i].room = room;
		b->seen[i].list = meta_map(room * sizeof(*b->seen[i].list), META_LEAK);
		if (!b->seen[i].list)
			return false;
	}
	return sweep_init_look(&b->sweep, records, room);
}

/* Of the heap and the threads of this moment. */
static bool map_look(struct beside *b)
{
	module_refresh();
	if (!run(b, STEP_COUNT))
		return false;
	b->why = NULL;
	if (mark_map(&b->c->marker) && sweep_map_look(&b->sweep, &b->c->marker) &&
	    roots_know(&b->c->roots, &b->known)) {
		if (b->locked_ns < b->known.locked_ns)
			b->locked_ns = b->known.locked_ns;
		return true;
	}
	b->why = "out of memory";
	return false;
}

static void unmap_look(struct beside *b)
{
	sweep_unmap_look(&b->sweep);
	roots_forget(&b->c->roots, &b->known);
	mark_free(&b->c->marker);
}

static void free_all(struct beside *b)
{
	for (unsigned i = 0; i < LOOKS; i++)
		meta_unmap(b->seen[i].list, b->seen[i].room * sizeof(*b->seen[i].list),
			   META_LEAK);
	unmap_look(b);
	sweep_free_look(&b->sweep);
	meta_unmap(b->stack, LOOK_STACK, META_LEAK);
}

/* Without them where it cannot be: they are an extra. */
static void add_chains(struct beside *b)
{
	struct leak_result *out = b->c->out;

	if (!chain_is_wanted(out))
		return;
	if (!chain_prepare(&b->chain, &b->c->marker, out) || !run(b, STEP_CHAIN)) {
		for (uint32_t i = 0; i < out->nrecords; i++)
			out->records[i].chain = 0;
		out->nchains = 0;
	}
	chain_free(&b->chain);
}

static enum beside_end finish(struct beside *b)
{
	struct leak_result *out = b->c->out;

	sweep_finish_look(&b->sweep, out);
	cycle_doubt_handed(b->c);
	if (out->with_reachable)
		growth_compare(out);
	add_chains(b);
	return BESIDE_DONE;
}

/* A large heap once, if no pass found what would hold a candidate. */
static enum beside_end look_twice(struct beside *b)
{
	for (b->look = 0; b->look < LOOKS; b->look++) {
		if (b->look > 0) {
			b->help->doubt(b->help->arg);
			unmap_look(b);
		}
		if (!map_look(b) || !run(b, STEP_LOOK))
			return BESIDE_NOT;
		if (b->seen[b->look].fresh == 0)
			return finish(b);
		if (b->seen[b->look].count > b->seen[b->look].room || b->is_sure)
			return BESIDE_CANDIDATES;
	}
	b->look--;
	return BESIDE_CANDIDATES;
}

/* before: what looks have seen; NULL: none was made. */
static enum look_end run_confirm(struct beside *b, struct sweep_seen *before)
{
	enum look_end end = LOOK_KILLED;

	b->help->doubt(b->help->arg);
	unmap_look(b);
	if (tracked_map(&b->tracked) && map_look(b)) {
		b->tracked.before = before;
		b->tracked.seen = &b->seen[b->look];
		b->tracked.sweep = &b->sweep;
		b->c->keeps_lost = true;
		end = run_once(b, STEP_CONFIRM);
		b->c->keeps_lost = false;
		cycle_show_lost(false);
	}
	tracked_unmap(&b->tracked);
	return end;
}

static const char *why_not(const struct beside *b, enum look_end end)
{
	switch (end) {
	case LOOK_DONE:
		return b->tracked.why;
	case LOOK_FAULT:
		return "memory was taken away under the look";
	case LOOK_KILLED:
		return "who looked was killed";
	case LOOK_REFUSED:
		break;
	}
	return "no process that shares its memory can be made";
}

/* What seems to be lost, if it was looked for, is lost for sure; else a copy is needed.
 */
static enum beside_end confirm(struct beside *b, bool looked)
{
	struct sweep_seen *before = looked ? &b->seen[b->look] : NULL;
	enum look_end end = LOOK_FAULT;

	b->look = LOOKS - 1 - b->look;
	collapse_note(); /* what is written by small pages from now on */
	for (int i = 0; end == LOOK_FAULT && i < TRIES; i++)
		end = run_confirm(b, before);
	if (end == LOOK_DONE && b->ok) {
		b->c->out->candidates = before ? before->fresh : b->seen[b->look].fresh;
		return finish(b);
	}
	b->look = LOOKS - 1 - b->look;
	b->c->out->copied = why_not(b, end);
	return BESIDE_CANDIDATES;
}

static enum beside_end look_and_confirm(struct beside *b)
{
	enum beside_end end = b->help->at_once ? BESIDE_CANDIDATES : look_twice(b);

	if (end != BESIDE_CANDIDATES || !b->help->stop)
		return end;
	return confirm(b, !b->help->at_once);
}

enum beside_end beside_look(struct cycle *c, const struct beside_help *help,
			    struct sweep_candidates *out, uint64_t *out_locked_ns,
			    const char **out_why)
{
	struct beside b = { .c = c, .eager_ns = EAGER_NS, .help = help };
	enum beside_end end = BESIDE_NOT;

	b.stack = meta_map(LOOK_STACK, META_LEAK);
	if (!b.stack)
		b.why = "out of memory";
	else if (c->out->with_chains)
		b.why = "who holds what is asked";
	else if (roots_are_supplied())
		b.why = "it has a userfaultfd, or its descriptors cannot be seen";
	else if (map_all(&b))
		end = look_and_confirm(&b);
	else
		b.why = "out of memory";
	if (end == BESIDE_CANDIDATES && !help->at_once)
		sweep_seen_candidates(&b.seen[b.look], out);
	*out_locked_ns = b.locked_ns + 1;
	*out_why = b.why;
	free_all(&b);
	if (end != BESIDE_DONE) {
		c->out->verdict = LEAK_CLEAN;
		c->out->reason[0] = '\0';
	}
	return end;
}
