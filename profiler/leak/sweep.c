/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep: see sweep.h.
 *
 * A lost object is direct when no other lost object points at it; what direct objects
 * reach is indirect. Lost objects that are left over lie on cycles or behind them: the
 * lowest address of each is taken as direct, and what it reaches is indirect, as before.
 */
#include "profiler/leak/sweep.h"

#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/heap/heap.h"
#include "profiler/leak/absent.h"
#include "profiler/leak/history.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"

#define TABLE_FIRST 4096

#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

/* Addresses inside large objects are found only once these are indexed. */
static NO_LOCK_CHECK struct mspan *find_any(uintptr_t p, uint32_t *out_index)
{
	uintptr_t lo, hi;
	struct mspan *s = heap_find(p, out_index);

	heap_bounds(&lo, &hi);
	if (s || p < lo || p >= hi)
		return s;
	heap_lock_all();
	heap_index_large();
	s = heap_find(p, out_index);
	heap_unlock_all();
	return s;
}

void sweep_ignore(uintptr_t p)
{
	uint32_t index;
	struct mspan *s = find_any(p, &index);

	if (s && !sample_ignore(s, index))
		log_line("out of memory: an object that is to be ignored "
			 "(__lsan_ignore_object) may be reported");
}

/* ---- every white live object ---- */

typedef void (*white_fn)(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
			 void *arg);

/* By ascending address. fn may mark. */
static void each_white(struct marker *m, white_fn fn, void *arg)
{
	for (size_t i = 0; i < m->nspans; i++) {
		struct mspan *s = m->spans[i];
		size_t first = mark_first_bit(m, s) / 64;

		for (size_t w = first; w < first + align_up(s->nslots, 64) / 64; w++)
			for (uint64_t bits = m->white[w]; bits; bits &= bits - 1) {
				size_t bit = w * 64 + (size_t)__builtin_ctzll(bits);

				if (!mark_test(m->white, bit))
					continue; /* by fn, just now */
				fn(m, s, (uint32_t)(bit - mark_first_bit(m, s)), bit,
				   arg);
			}
	}
}

/* By descending address. */
static void each_white_down(struct marker *m, white_fn fn, void *arg)
{
	for (size_t i = m->nspans; i > 0; i--) {
		struct mspan *s = m->spans[i - 1];

		for (uint32_t index = s->nslots; index > 0; index--) {
			size_t bit = mark_first_bit(m, s) + index - 1;

			if (mark_test(m->white, bit))
				fn(m, s, index - 1, bit, arg);
		}
	}
}

static uintptr_t object_base(const struct mspan *s, uint32_t index)
{
	return s->slot_size ? mspan_slot(s, index) : s->base;
}

static void hold_one(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
		     void *arg)
{
	const struct sample_record *r = sample_find(s, index);

	(void)bit;
	(void)arg;
	if ((!r && (sample_is_exact() || sample_has_inherited())) ||
	    (r && (sample_is_hidden(r) || sample_is_inherited(r)))) {
		mark_word(m, object_base(s, index));
		mark_drain(m);
	}
}

void sweep_hold(struct marker *m)
{
	if (!sample_is_exact() && !sample_has_inherited() && !sample_has_hidden())
		return;
	each_white(m, hold_one, NULL);
}

/* ---- candidates ---- */

static struct history_entry entry_of(const struct mspan *s, uint32_t index)
{
	const struct sample_record *r = sample_find(s, index);

	return (struct history_entry){ .base = object_base(s, index),
				       .born_ns = r ? sample_birth_ns(r) : 0,
				       .bytes = sample_size_asked(s, index),
				       .site = sample_site(r) };
}

static uintptr_t *place_of(const struct sweep_candidates *set, uintptr_t base)
{
	size_t i = (base >> 4) * 0x9e3779b97f4a7c15u >> 20;

	for (;; i++) {
		uintptr_t *at = &set->table[i & (set->size - 1)];

		if (*at == 0 || *at == base)
			return at;
	}
}

static void note_candidate(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
			   void *arg)
{
	struct sweep_candidates *set = arg;
	const struct history_entry e = entry_of(s, index);

	(void)m;
	(void)bit;
	set->fresh += !history_knows(&e);
	if (set->count++ < set->size / 2)
		*place_of(set, e.base) = e.base;
}

void sweep_note_candidates(struct marker *m, struct sweep_candidates *out)
{
	out->count = out->fresh = 0;
	each_white(m, note_candidate, out);
}

/* What is white, live and the same object as before; the rest is held. */
static void note_seen(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
		      void *arg)
{
	struct sweep_seen *seen = arg;
	const struct history_entry e = entry_of(s, index);

	if (!mark_is_still_live(s, index)) {
		mark_clear(m->live, bit);
		mark_clear(m->white, bit);
		return;
	}
	/* Held, not forgotten: what it holds would seem lost. */
	if (mark_test(m->born, bit) || mark_has_new_samples(s)) {
		mark_word(m, e.base);
		mark_drain(m);
		return;
	}
	if (seen->count < seen->room)
		seen->list[seen->count] = (struct sweep_candidate){
			.entry = e, .content = sweep_hash_content(s, e.base)
		};
	seen->fresh += !history_knows(&e);
	seen->count++;
}

void sweep_note_seen(struct marker *m, struct sweep_seen *out)
{
	out->count = out->fresh = 0;
	each_white(m, note_seen, out);
	if (out->count <= out->room)
		sweep_sort_seen(out->list, out->count);
}

static void hold_unseen(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
			void *arg)
{
	const struct history_entry e = entry_of(s, index);
	const struct sweep_candidate *c = sweep_find_seen(arg, e.base);

	(void)bit;
	if (c && c->entry.born_ns == e.born_ns && c->entry.site == e.site &&
	    c->entry.bytes == e.bytes && c->content == sweep_hash_content(s, e.base))
		return;
	mark_word(m, e.base);
	mark_drain(m);
}

void sweep_keep_seen(struct marker *m, struct sweep_seen *seen)
{
	if (seen->count <= seen->room)
		each_white(m, hold_unseen, seen);
}

void sweep_seen_candidates(const struct sweep_seen *seen, struct sweep_candidates *out)
{
	/* A table that lacks some says so: then it holds nothing back. */
	out->count = seen->count > seen->room ? out->size : seen->count;
	out->fresh = seen->fresh;
	for (size_t i = 0; i < seen->count && i < seen->room && i < out->size / 2; i++)
		*place_of(out, seen->list[i].entry.base) = seen->list[i].entry.base;
}

static void hold_other(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
		       void *arg)
{
	uintptr_t base = object_base(s, index);

	(void)bit;
	if (*place_of(arg, base) == 0) {
		mark_word(m, base);
		mark_drain(m);
	}
}

void sweep_keep_candidates(struct marker *m, struct sweep_candidates *set)
{
	if (set->count <= set->size / 2)
		each_white(m, hold_other, set);
}

/* ---- the stack of grey objects ---- */

static bool grow_stack(struct marker *m)
{
	size_t bytes = m->capacity * sizeof(*m->stack);
	void *p = m->heads ? NULL /* a look maps no memory */
			   : meta_remap(m->stack, bytes, bytes * 2, META_LEAK);

	if (!p) {
		m->out_of_memory = true;
		return false;
	}
	m->stack = p;
	m->capacity *= 2;
	return true;
}

/* What of [lo, hi) can be read. */
static void push(struct marker *m, uintptr_t lo, uintptr_t hi)
{
	for (uintptr_t end = hi; lo < hi; lo = end, end = hi) {
		if (m->absent && !absent_next(m->absent, &lo, hi, &end))
			return;
		if (m->used == m->capacity && !grow_stack(m))
			return;
		m->stack[m->used++] = (struct grey){ lo, end };
	}
}

/* ---- who points at whom ---- */

NO_SANITIZE static void note_pointers(struct marker *m, struct mspan *s, uint32_t index,
				      size_t bit, void *arg)
{
	uintptr_t lo = object_base(s, index), hi = lo + mspan_slot_bytes(s);

	(void)arg;
	push(m, lo, hi);
	while (m->used > 0) {
		struct grey g = m->stack[--m->used];

		for (; g.lo < g.hi; g.lo += sizeof(uintptr_t)) {
			uint32_t other;
			size_t other_bit;

			if (mark_find(m, *(const volatile uintptr_t *)g.lo, &other,
				      &other_bit) &&
			    other_bit != bit)
				mark_set(m->pointed, other_bit);
		}
	}
}

/* ---- records by site ---- */

static size_t hash_of(uint32_t site, enum leak_kind kind, size_t n)
{
	return (size_t)((site * 8u + (uint32_t)kind) * 0x9e3779b1u) & (n - 1);
}

static bool sweep_init(struct sweep *c, size_t records)
{
	memset(c, 0, sizeof(*c));
	c->capacity = TABLE_FIRST;
	while (c->capacity < records)
		c->capacity *= 2;
	c->ntable = c->capacity * 2;
	c->records = meta_map(c->capacity * sizeof(*c->records), META_LEAK);
	c->table = meta_map(c->ntable * sizeof(*c->table), META_LEAK);
	return c->records && c->table;
}

static uint32_t *find_slot(const struct sweep *c, uint32_t site, enum leak_kind kind)
{
	size_t i = hash_of(site, kind, c->ntable);

	for (;; i = (i + 1) & (c->ntable - 1)) {
		const struct leak_record *r;

		if (c->table[i] == 0)
			return &c->table[i];
		r = &c->records[c->table[i] - 1];
		if (r->site == site && r->kind == kind)
			return &c->table[i];
	}
}

static bool sweep_grow(struct sweep *c)
{
	size_t record_bytes = c->capacity * sizeof(*c->records);
	size_t table_bytes = c->ntable * sizeof(*c->table);
	void *records = NULL;
	uint32_t *table;

	if (!c->look)
		records =
			meta_remap(c->records, record_bytes, record_bytes * 2, META_LEAK);
	if (!records)
		return false;
	c->records = records;
	c->capacity *= 2;
	table = meta_map(table_bytes * 2, META_LEAK);
	if (!table)
		return false;
	meta_unmap(c->table, table_bytes, META_LEAK);
	c->table = table;
	c->ntable *= 2;
	for (size_t i = 0; i < c->count; i++)
		*find_slot(c, c->records[i].site, c->records[i].kind) = (uint32_t)i + 1;
	return true;
}

static struct leak_record *record_for(struct sweep *c, uint32_t site, enum leak_kind kind)
{
	uint32_t *slot;

	if (c->count == c->capacity && !sweep_grow(c)) {
		c->failed = true;
		return NULL;
	}
	/* A look may read a record in the middle of a change, or one that is none any
	 * more. */
	if (c->look && !site_exists(site))
		site = SITE_NONE;
	slot = find_slot(c, site, kind);
	if (*slot == 0) {
		c->records[c->count] = (struct leak_record){ .site = site, .kind = kind };
		*slot = (uint32_t)++c->count;
	}
	return &c->records[*slot - 1];
}

static bool is_new(const struct mspan *s, uint32_t index)
{
	const struct history_entry e = entry_of(s, index);

	return !history_note(&e);
}

/* The same of a look, which leaves the history to the agent. */
static bool is_unknown(struct sweep *c, const struct mspan *s, uint32_t index)
{
	const struct history_entry e = entry_of(s, index);

	if (c->nlost < c->lost_room)
		c->lost[c->nlost++] = e;
	else
		c->failed = true;
	return !history_has(&e);
}

static void take_back(const struct history_entry *e, void *arg)
{
	struct leak_record *rec = record_for(arg, e->site, LEAK_RETRACTED);

	if (!rec)
		return;
	rec->objects++;
	rec->bytes += e->bytes;
	rec->freed += !e->is_live;
}

static size_t count_object(struct sweep *c, const struct mspan *s, uint32_t index,
			   enum leak_kind kind)
{
	const struct sample_record *r = sample_find(s, index);
	size_t bytes = sample_size_asked(s, index);
	struct leak_record *rec = record_for(c, sample_site(r), kind);

	if (!rec)
		return bytes;
	rec->objects++;
	rec->bytes += bytes;
	if (kind <= LEAK_DIRECT &&
	    (c->look ? is_unknown(c, s, index) : is_new(s, index))) {
		rec->new_objects++;
		rec->new_bytes += bytes;
	}
	if (r) {
		uint64_t born = sample_birth_ns(r);

		if (rec->objects == 1 || born < rec->first_ns)
			rec->first_ns = born;
		if (born > rec->last_ns)
			rec->last_ns = born;
	}
	return bytes;
}

static void blacken(struct marker *m, const struct mspan *s, uint32_t index, size_t bit)
{
	uintptr_t base = object_base(s, index);

	mark_clear(m->white, bit);
	push(m, base, base + mspan_slot_bytes(s));
}

/* The bytes of all that is reached from the grey objects, counted as of that kind. */
NO_SANITIZE static uint64_t flood(struct marker *m, struct sweep *c, enum leak_kind kind)
{
	uint64_t bytes = 0;

	while (m->used > 0) {
		struct grey g = m->stack[--m->used];

		for (; g.lo < g.hi; g.lo += sizeof(uintptr_t)) {
			uintptr_t word = *(const volatile uintptr_t *)g.lo;
			uint32_t index;
			size_t bit;
			struct mspan *s = mark_find(m, word, &index, &bit);

			if (!s || !mark_test(m->white, bit))
				continue;
			blacken(m, s, index, bit);
			bytes += count_object(c, s, index, kind);
		}
	}
	return bytes;
}

static void take(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
		 struct sweep *c)
{
	const struct sample_record *r = sample_find(s, index);
	struct leak_record *rec;
	uint64_t bytes;

	blacken(m, s, index, bit);
	bytes = count_object(c, s, index, LEAK_DIRECT) + flood(m, c, LEAK_INDIRECT);
	rec = record_for(c, sample_site(r), LEAK_DIRECT);
	if (rec)
		rec->retained += bytes;
}

static void take_direct(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
			void *arg)
{
	if (!mark_test(m->pointed, bit))
		take(m, s, index, bit, arg);
}

/* Every live object that is not white. */
static void take_reachable(struct marker *m, struct sweep *c)
{
	for (size_t i = 0; i < m->nspans; i++) {
		struct mspan *s = m->spans[i];

		for (uint32_t index = 0; index < s->nslots; index++) {
			size_t bit = mark_first_bit(m, s) + index, bytes;
			const struct sample_record *r;
			struct leak_record *rec;

			if (!mark_test(m->live, bit) || mark_test(m->white, bit))
				continue;
			r = sample_find(s, index);
			if (!r || sample_is_hidden(r))
				continue;
			bytes = count_object(c, s, index, LEAK_REACHABLE);
			rec = record_for(c, sample_site(r), LEAK_REACHABLE);
			if (rec && bytes >= rec->largest) {
				rec->largest = bytes;
				rec->example = object_base(s, index);
			}
		}
	}
}

/* Reached, but only by way of a pointer into its middle; so is what it leads to. */
static void take_possible(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
			  void *arg)
{
	struct sweep *c = arg;
	const struct sample_record *r = sample_find(s, index);
	struct leak_record *rec;
	uint64_t bytes;

	if (!mark_test(m->inner, bit))
		return;
	blacken(m, s, index, bit);
	bytes = count_object(c, s, index, LEAK_POSSIBLE) + flood(m, c, LEAK_POSSIBLE);
	rec = record_for(c, sample_site(r), LEAK_POSSIBLE);
	if (rec)
		rec->retained += bytes;
}

/* What led there when the program stood is no longer there. */
static void leave_maybe(struct marker *m)
{
	for (size_t i = 0; m->maybe && i < mark_bitmap_bytes(m) / sizeof(*m->maybe); i++)
		m->white[i] &= ~m->maybe[i];
}

/* ---- cycles; `pointed` is free again and holds who was visited ---- */

static void count_left(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
		       void *arg)
{
	struct sweep *c = arg;

	(void)m;
	(void)s;
	(void)index;
	(void)bit;
	c->left++;
}

static void visit(struct marker *m, struct mspan *s, uint32_t index, size_t bit)
{
	uintptr_t base = object_base(s, index);

	mark_set(m->pointed, bit);
	push(m, base, base + mspan_slot_bytes(s));
}

NO_SANITIZE static void find_leader(struct marker *m, struct mspan *s, uint32_t index,
				    size_t bit, void *arg)
{
	struct sweep *c = arg;

	if (mark_test(m->pointed, bit))
		return;
	mark_set(c->leaders, bit);
	visit(m, s, index, bit);
	while (m->used > 0) {
		struct grey g = m->stack[--m->used];

		for (; g.lo < g.hi; g.lo += sizeof(uintptr_t)) {
			struct mspan *to = mark_find(m, *(const volatile uintptr_t *)g.lo,
						     &index, &bit);

			if (to && mark_test(m->white, bit) && !mark_test(m->pointed, bit))
				visit(m, to, index, bit);
		}
	}
}

static void take_leader(struct marker *m, struct mspan *s, uint32_t index, size_t bit,
			void *arg)
{
	struct sweep *c = arg;

	if (mark_test(c->leaders, bit))
		take(m, s, index, bit, c);
}

static void take_cycles(struct marker *m, struct sweep *c)
{
	each_white(m, count_left, c);
	if (c->left == 0)
		return;
	if (!c->look)
		c->leaders = meta_map(mark_bitmap_bytes(m), META_LEAK);
	if (!c->leaders) {
		c->failed = true;
		return;
	}
	memset(m->pointed, 0, mark_bitmap_bytes(m));
	each_white(m, find_leader, c);
	each_white_down(m, take_leader, c);
	if (!c->look)
		meta_unmap(c->leaders, mark_bitmap_bytes(m), META_LEAK);
}

static void sort_records(struct leak_record *list, size_t n)
{
	for (size_t gap = n / 2; gap > 0; gap /= 2)
		for (size_t i = gap; i < n; i++) {
			struct leak_record x = list[i];
			size_t k = i;

			for (; k >= gap && list[k - gap].bytes < x.bytes; k -= gap)
				list[k] = list[k - gap];
			list[k] = x;
		}
}

static void collect(struct marker *m, struct sweep *c, const struct leak_result *out)
{
	m->strict = false;
	if (out->with_reachable)
		take_reachable(m, c);
	each_white(m, take_possible, c);
	leave_maybe(m);
	each_white(m, note_pointers, NULL);
	each_white(m, take_direct, c);
	take_cycles(m, c);
	sweep_ask_history(m);
}

static void finish(struct sweep *c, struct leak_result *out)
{
	history_end(take_back, c);
	sort_records(c->records, c->count);
	meta_unmap(c->table, c->ntable * sizeof(*c->table), META_LEAK);
	out->records = c->records;
	out->records_bytes = c->capacity * sizeof(*c->records);
	out->nrecords = (uint32_t)c->count;
}

bool sweep_collect(struct marker *m, struct leak_result *out)
{
	struct sweep c;

	if (!sweep_init(&c, 0))
		return false;
	history_begin();
	collect(m, &c, out);
	finish(&c, out);
	return !c.failed && !m->out_of_memory;
}

/* ---- the same in a look: memory is there before, and history is written after ---- */

bool sweep_init_look(struct sweep *c, size_t records, size_t lost)
{
	bool ok = sweep_init(c, records);

	c->look = true;
	c->lost_room = lost;
	c->lost = meta_map(lost * sizeof(*c->lost), META_LEAK);
	return ok && c->lost;
}

bool sweep_map_look(struct sweep *c, const struct marker *m)
{
	c->leaders_bytes = (m->room_bits / 64 + 1) * sizeof(*c->leaders);
	c->leaders = meta_map(c->leaders_bytes, META_LEAK);
	return c->leaders != NULL;
}

void sweep_unmap_look(struct sweep *c)
{
	meta_unmap(c->leaders, c->leaders_bytes, META_LEAK);
	c->leaders = NULL;
}

bool sweep_look(struct marker *m, struct sweep *c, const struct leak_result *out)
{
	memset(c->table, 0, c->ntable * sizeof(*c->table));
	c->count = c->left = c->nlost = 0;
	collect(m, c, out);
	return !c->failed && !m->out_of_memory;
}

void sweep_finish_look(struct sweep *c, struct leak_result *out)
{
	c->look = false; /* records may grow again */
	history_begin();
	for (size_t i = 0; i < c->nlost; i++)
		history_note(&c->lost[i]);
	finish(c, out);
	c->records = NULL;
	c->table = NULL;
}

void sweep_free_look(struct sweep *c)
{
	meta_unmap(c->lost, c->lost_room * sizeof(*c->lost), META_LEAK);
	meta_unmap(c->records, c->capacity * sizeof(*c->records), META_LEAK);
	meta_unmap(c->table, c->ntable * sizeof(*c->table), META_LEAK);
}
