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
 *   agent                             process
 *   ------------------------------->  counts spans
 *   maps memory, copies the list
 *   of threads  ------------------->  tables, roots, marks, notes what is white
 *   (new ones)  ------------------->  the same again, keeps what was seen twice
 *   (none)                            sweeps
 *   records, history, growth
 */
#include "profiler/leak/beside.h"

#include <string.h>

#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/chain.h"
#include "profiler/leak/growth.h"
#include "profiler/leak/history.h"
#include "profiler/leak/look.h"
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

enum step { STEP_COUNT, STEP_LOOK, STEP_CHAIN };

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

static bool has_time(const struct beside *b)
{
	return os_now_ns() - b->began_ns < PATIENCE;
}

static void look(struct beside *b)
{
	struct cycle *c = b->c;
	struct sweep_seen *seen = &b->seen[b->look];

	if (!cycle_look(c))
		return;
	if (b->look > 0)
		sweep_keep_seen(&c->marker, &b->seen[b->look - 1]);
	sweep_note_seen(&c->marker, seen);
	for (size_t i = 0, before = 0; i < AGAIN && seen->fresh && seen->fresh != before;
	     i++) {
		if (i >= SURELY && !has_time(b))
			break;
		before = seen->fresh;
		if (!cycle_look_again(c))
			return;
		sweep_note_seen(&c->marker, seen);
	}
	if (b->look > 0)
		watch(&c->marker, seen);
	if (c->marker.has_odd)
		return;
	b->ok = seen->fresh > 0 ||
		(seen->count <= seen->room && sweep_look(&c->marker, &b->sweep, c->out));
}

static void find_chains(struct beside *b)
{
	memset(b->chain.where, 0, b->chain.bytes);
	b->chain.head = b->chain.tail = 0;
	chain_search(&b->chain, &b->c->roots, &b->c->world, b->c->out);
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
	} else {
		find_chains(b);
	}
}

/* ---- in the agent ---- */

static bool run(struct beside *b, enum step step)
{
	enum look_end end = LOOK_KILLED;

	b->step = step;
	b->began_ns = os_now_ns();
	for (int i = 0; i < TRIES && end != LOOK_DONE; i++) {
		if (i > 0 && !has_time(b))
			break;
		if (step == STEP_LOOK && i > 0) {
			module_refresh();
			mark_clear_all(&b->c->marker);
		}
		end = look_run(work, b, b->stack, &b->eager_ns);
		if (end == LOOK_REFUSED)
			break;
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
	return sweep_init_look(&b->sweep, records);
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

	sweep_finish_look(&b->sweep, &b->seen[b->look], out);
	if (out->with_reachable)
		growth_compare(out);
	add_chains(b);
	return BESIDE_DONE;
}

static enum beside_end look_twice(struct beside *b, void (*doubt)(void *arg), void *arg)
{
	for (b->look = 0; b->look < LOOKS; b->look++) {
		if (b->look > 0) {
			doubt(arg);
			unmap_look(b);
		}
		if (!map_look(b) || !run(b, STEP_LOOK))
			return BESIDE_NOT;
		if (b->seen[b->look].fresh == 0)
			return finish(b);
		if (b->seen[b->look].count > b->seen[b->look].room)
			return BESIDE_CANDIDATES;
	}
	b->look--;
	return BESIDE_CANDIDATES;
}

enum beside_end beside_look(struct cycle *c, void (*doubt)(void *arg), void *arg,
			    struct sweep_candidates *out, uint64_t *out_locked_ns,
			    const char **out_why)
{
	struct beside b = { .c = c, .eager_ns = EAGER_NS };
	enum beside_end end = BESIDE_NOT;

	b.stack = meta_map(LOOK_STACK, META_LEAK);
	if (!b.stack)
		b.why = "out of memory";
	else if (c->out->with_chains)
		b.why = "who holds what is asked";
	else if (roots_are_supplied())
		b.why = "it has a userfaultfd, or its descriptors cannot be seen";
	else if (map_all(&b))
		end = look_twice(&b, doubt, arg);
	else
		b.why = "out of memory";
	if (end == BESIDE_CANDIDATES)
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
