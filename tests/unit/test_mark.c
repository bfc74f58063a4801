/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Marking and sweeping of random graphs on the real heap, against plain models. The seeds
 * are constants: 1 and up.
 */
#include "tests/unit/cm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "profiler/leak/history.h"
#include "profiler/leak/mark.h"
#include "profiler/leak/sweep.h"
#include "profiler/leak/unreadable.h"

#define MANY  4000
#define FEW   60
#define EDGES 3
#define LIST  300000

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % below;
}

/* The model: objects and who points at whom. */
struct graph {
	uint32_t count;
	uintptr_t *object[MANY];
	size_t size[MANY];
	uint32_t to[MANY][EDGES]; /* own index: none */
	bool freed[MANY], reached[MANY];
};

static struct graph graph;

static size_t draw_size(void)
{
	if (draw(100) == 0)
		return 33000 + draw(300000);
	return (EDGES + 1) * sizeof(uintptr_t) + draw(draw(8) == 0 ? 30000 : 600);
}

static void make_objects(uint32_t count)
{
	graph.count = count;
	for (uint32_t i = 0; i < count; i++) {
		graph.size[i] = draw_size();
		graph.object[i] = heap_calloc(1, graph.size[i]);
		assert_non_null(graph.object[i]);
		/* The whole slot is scanned, since a program may ask for its size. */
		memset(graph.object[i], 0, heap_usable_size(graph.object[i]));
		graph.freed[i] = graph.reached[i] = false;
	}
}

/* Edges point anywhere into their object, from the first or the last words of another. */
static void make_edges(uint32_t density)
{
	for (uint32_t i = 0; i < graph.count; i++)
		for (uint32_t e = 0; e < EDGES; e++) {
			uint32_t to = draw(100) < density ? draw(graph.count) : i;
			size_t last = graph.size[i] / sizeof(uintptr_t) - 1;

			graph.to[i][e] = to;
			if (to != i)
				graph.object[i][e & 1 ? last : e] =
					(uintptr_t)graph.object[to] +
					draw((uint32_t)graph.size[to]);
		}
}

static void free_some(void)
{
	for (uint32_t i = 0; i < graph.count; i++)
		if (draw(4) == 0) {
			graph.freed[i] = true;
			heap_free(graph.object[i]);
		}
}

static void free_rest(void)
{
	for (uint32_t i = 0; i < graph.count; i++)
		if (!graph.freed[i])
			heap_free(graph.object[i]);
}

static void reach(uint32_t i)
{
	static uint32_t stack[MANY * EDGES + 1];
	uint32_t used = 0;

	stack[used++] = i;
	while (used > 0) {
		i = stack[--used];
		if (graph.reached[i] || graph.freed[i])
			continue;
		graph.reached[i] = true;
		for (uint32_t e = 0; e < EDGES; e++)
			stack[used++] = graph.to[i][e];
	}
}

static void begin(struct marker *m)
{
	heap_lock_all();
	heap_index_large();
	assert_true(mark_init(m));
}

static void end(struct marker *m)
{
	mark_free(m);
	heap_unlock_all();
}

static void test_reachability(void **state)
{
	struct marker m;

	(void)state;
	for (uint32_t round = 1; round <= 5; round++) {
		uintptr_t roots[16] = { 0 };

		seed = round;
		make_objects(MANY);
		make_edges(35);
		free_some();
		for (int i = 0; i < 16; i++) {
			uint32_t target = draw(MANY);

			roots[i] = (uintptr_t)graph.object[target];
			reach(target);
		}
		begin(&m);
		mark_range(&m, (uintptr_t)roots, (uintptr_t)(roots + 16));
		mark_drain(&m);
		for (uint32_t i = 0; i < MANY; i++) {
			uint32_t index;
			size_t bit;
			struct mspan *s =
				mark_find(&m, (uintptr_t)graph.object[i], &index, &bit);

			assert_int_equal(s != NULL, !graph.freed[i]);
			if (s)
				assert_int_equal(mark_test(m.white, bit),
						 !graph.reached[i]);
		}
		end(&m);
		free_rest();
	}
}

/* Addresses that stand anywhere in code: those at odd places count, up to both ends. */
static void test_code(void **state)
{
	static unsigned char code[4096] __attribute__((aligned(16)));
	struct marker m;

	(void)state;
	for (uint32_t round = 1; round <= 200; round++) {
		const size_t from = 8 * draw(40), to = from + 8 * (1 + draw(460));

		seed = round;
		make_objects(MANY);
		for (size_t i = 0; i < sizeof(code); i++)
			code[i] = (unsigned char)(draw(3) ? 0 : draw(256));
		for (uint32_t at = draw(24); at + 8 <= sizeof(code); at += 8 + draw(30)) {
			uint32_t target = draw(MANY);

			memcpy(code + at, &graph.object[target], sizeof(uintptr_t));
			if (at % 8 != 0 && at >= from && at + 8 <= to)
				graph.reached[target] = true;
		}
		begin(&m);
		mark_code(&m, (uintptr_t)code + from, (uintptr_t)code + to);
		mark_drain(&m);
		for (uint32_t i = 0; i < MANY; i++) {
			uint32_t index;
			size_t bit;

			assert_non_null(
				mark_find(&m, (uintptr_t)graph.object[i], &index, &bit));
			assert_int_equal(mark_test(m.white, bit), !graph.reached[i]);
		}
		end(&m);
		free_rest();
	}
}

/* Every byte of an object refers to it, the bytes around it do not. */
static void test_interior(void **state)
{
	static const size_t sizes[] = {
		1, 16, 48, 80, 1008, 3000, 32768, 32769, 1000000
	};
	uintptr_t object[sizeof(sizes) / sizeof(sizes[0])];
	struct marker m;
	uint32_t index;
	size_t bit, found;

	(void)state;
	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
		object[k] = (uintptr_t)heap_calloc(1, sizes[k]);
	begin(&m);
	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		assert_non_null(mark_find(&m, object[k], &index, &bit));
		for (size_t at = 0; at < sizes[k]; at += 1 + at / 64) {
			assert_non_null(mark_find(&m, object[k] + at, &index, &found));
			assert_int_equal(found, bit);
		}
		assert_non_null(mark_find(&m, object[k] + sizes[k] - 1, &index, &found));
		assert_int_equal(found, bit);
		if (mark_find(&m, object[k] - 1, &index, &found))
			assert_int_not_equal(found, bit);
	}
	assert_null(mark_find(&m, 0, &index, &bit));
	assert_null(mark_find(&m, UINTPTR_MAX, &index, &bit));
	assert_null(mark_find(&m, (uintptr_t)&m, &index, &bit));
	end(&m);
	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
		heap_free((void *)object[k]);
}

/* A long list needs no deep stack, and a wide table a growing one. */
static void test_list_and_table(void **state)
{
	uintptr_t **table = heap_calloc(LIST, sizeof(*table));
	uintptr_t *list = NULL;
	struct marker m;

	(void)state;
	assert_non_null(table);
	for (uint32_t i = 0; i < LIST; i++) {
		uintptr_t *node = heap_calloc(1, 16);

		node[0] = (uintptr_t)list;
		list = node;
	}
	begin(&m);
	mark_word(&m, (uintptr_t)list);
	mark_drain(&m);
	assert_int_equal(m.objects, LIST);
	end(&m);
	for (uint32_t i = 0; i < LIST; i++) {
		uintptr_t *next = (uintptr_t *)list[0];

		list[0] = 0;
		table[i] = list;
		list = next;
	}
	begin(&m);
	mark_word(&m, (uintptr_t)table);
	mark_drain(&m);
	assert_int_equal(m.objects, LIST + 1);
	assert_false(m.out_of_memory);
	end(&m);
	for (uint32_t i = 0; i < LIST; i++)
		heap_free(table[i]);
	heap_free(table);
}

/* The same set is reached by several markers, and by one whose stack is far too small. */
static void mark_and_compare(struct marker *m, const uintptr_t *roots, size_t n)
{
	mark_range(m, (uintptr_t)roots, (uintptr_t)(roots + n));
	mark_drain(m);
	for (uint32_t i = 0; i < MANY; i++) {
		uint32_t index;
		size_t bit;

		if (mark_find(m, (uintptr_t)graph.object[i], &index, &bit))
			assert_int_equal(mark_test(m->white, bit), !graph.reached[i]);
	}
}

static __attribute__((unused)) void test_helpers(void **state)
{
	(void)state;
	for (uint32_t round = 1; round <= 8; round++) {
		uintptr_t roots[16] = { 0 };
		struct marker m;
		uint64_t objects;

		seed = round;
		make_objects(MANY);
		make_edges(60);
		free_some();
		for (int i = 0; i < 16; i++) {
			uint32_t target = draw(MANY);

			roots[i] = (uintptr_t)graph.object[target];
			reach(target);
		}
		begin(&m);
		mark_and_compare(&m, roots, 16);
		objects = m.objects;
		end(&m);
		begin(&m);
		m.workers[0].capacity = round % 2 ? 4096 : 1100;
		mark_start_helpers(&m, 3);
		mark_and_compare(&m, roots, 16);
		mark_stop_helpers(&m);
		assert_int_equal(m.objects, objects);
		assert_int_equal(m.nworkers, 1);
		m.workers[0].capacity = 4096; /* as it was mapped */
		end(&m);
		free_rest();
	}
}

/* Many more objects than the logs between workers hold: each is counted once. */
static __attribute__((unused)) void test_helpers_fall_behind(void **state)
{
	uintptr_t **table = heap_calloc(LIST, sizeof(*table));
	uintptr_t *unreached = heap_calloc(1, 64);
	struct marker m;
	uint32_t index;
	size_t bit;

	(void)state;
	seed = 1;
	for (uint32_t i = 0; i < LIST; i++)
		table[i] = heap_calloc(1, 16 + 32 * (i % 2));
	for (uint32_t i = 0; i < LIST; i++) {
		table[i][0] = (uintptr_t)table[draw(LIST)];
		table[i][1] = (uintptr_t)table[i + 1 < LIST ? i + 1 : 0];
	}
	for (unsigned helpers = 1; helpers <= 3; helpers++) {
		begin(&m);
		mark_start_helpers(&m, helpers);
		mark_word(&m, (uintptr_t)table[0]);
		mark_drain(&m);
		assert_int_equal(m.objects, LIST);
		mark_stop_helpers(&m);
		assert_int_equal(m.objects, LIST);
		assert_int_equal(m.bytes, LIST / 2 * (16 + 48));
		for (uint32_t i = 0; i < LIST; i++) {
			assert_non_null(mark_find(&m, (uintptr_t)table[i], &index, &bit));
			assert_false(mark_test(m.white, bit));
		}
		assert_non_null(mark_find(&m, (uintptr_t)unreached, &index, &bit));
		assert_true(mark_test(m.white, bit));
		end(&m);
	}
	for (uint32_t i = 0; i < LIST; i++)
		heap_free(table[i]);
	heap_free(table);
	heap_free(unreached);
}

/* ---- what earlier checks found ---- */

static void count_entry(const struct history_entry *e, void *arg)
{
	uint64_t *bytes = arg;

	*bytes += e->bytes;
}

/* Notes objects first to last - 1 in a check; how many bytes are taken back. */
static uint64_t note_some(uint32_t first, uint32_t last, uint32_t *out_known)
{
	uint64_t taken_back = 0;

	*out_known = 0;
	history_begin();
	for (uint32_t i = first; i < last; i++)
		*out_known +=
			history_note(&(struct history_entry){ .base = 0x10000 + i * 16ul,
							      .born_ns = 64 * (i + 1),
							      .bytes = 1 });
	history_end(count_entry, &taken_back);
	return taken_back;
}

static void test_history(void **state)
{
	const struct history_entry reborn = { .base = 0x10000,
					      .born_ns = 6400,
					      .bytes = 1 };
	const struct history_entry old = { .base = 0x10000, .born_ns = 64, .bytes = 1 };
	uint64_t taken_back = 0;
	uint32_t known;

	(void)state;
	assert_int_equal(note_some(0, 10000, &known), 0);
	assert_int_equal(known, 0);
	assert_int_equal(note_some(0, 10000, &known), 0);
	assert_int_equal(known, 10000);
	assert_int_equal(note_some(9000, 30000, &known), 9000);
	assert_int_equal(known, 1000);
	assert_int_equal(note_some(0, 1, &known), 21000);
	assert_int_equal(known, 0);
	/* The same address, another object. */
	assert_true(history_knows(&old));
	assert_false(history_knows(&reborn));
	history_begin();
	assert_false(history_note(&reborn));
	history_end(count_entry, &taken_back);
	assert_int_equal(taken_back, 0);
	history_forget();
}

static bool is_live(const struct history_entry *e, void *arg)
{
	return e->base >= *(const uintptr_t *)arg;
}

/* One check that finds objects first to last - 1 lost, and those from live on alive. */
static uint64_t check_some(uint32_t first, uint32_t last, uint32_t live,
			   uint32_t *out_known)
{
	uintptr_t from = 0x10000 + live * 16ul;

	history_ask(is_live, &from);
	return note_some(first, last, out_known);
}

/* What is reached again is taken back once and remembered, what is freed is forgotten. */
static void test_history_reached(void **state)
{
	const struct history_entry first = { .base = 0x10000, .born_ns = 64, .bytes = 1 };
	uint32_t known;

	(void)state;
	assert_int_equal(check_some(0, 1000, 0, &known), 0);
	assert_int_equal(check_some(1000, 1001, 0, &known), 1000);
	assert_false(history_knows(&first));
	assert_true(history_has(&first));
	assert_int_equal(check_some(0, 500, 0, &known), 1);
	assert_int_equal(known, 500);
	assert_true(history_knows(&first));
	assert_int_equal(check_some(0, 500, 700, &known), 0); /* 500 to 699 are freed */
	assert_int_equal(check_some(0, 1000, 0, &known), 0);
	assert_int_equal(known, 800);
	history_forget();
}

/* ---- direct and indirect ---- */

static bool paths[FEW][FEW]; /* over lost objects only */

static void find_paths(void)
{
	memset(paths, 0, sizeof(paths));
	for (uint32_t i = 0; i < FEW; i++)
		for (uint32_t e = 0; e < EDGES; e++)
			if (!graph.reached[i] && !graph.reached[graph.to[i][e]])
				paths[i][graph.to[i][e]] = true;
	for (uint32_t k = 0; k < FEW; k++)
		for (uint32_t i = 0; i < FEW; i++)
			for (uint32_t j = 0; j < FEW; j++)
				paths[i][j] |= paths[i][k] && paths[k][j];
}

/* Direct: whoever leads here can be reached from here, and is not lower. */
static bool is_direct(uint32_t i)
{
	if (graph.reached[i])
		return false;
	for (uint32_t k = 0; k < FEW; k++) {
		if (k == i || !paths[k][i])
			continue;
		if (!paths[i][k] || graph.object[k] < graph.object[i])
			return false;
	}
	return true;
}

static size_t slot_bytes(uint32_t i)
{
	return heap_usable_size(graph.object[i]);
}

static size_t lost_size(uint32_t i) /* of large objects what was asked is known */
{
	return graph.size[i] > 32768 ? graph.size[i] : slot_bytes(i);
}

static void compare_with_model(const struct leak_result *r)
{
	uint64_t objects[2] = { 0, 0 }, bytes[2] = { 0, 0 }, retained = 0;

	for (uint32_t i = 0; i < FEW; i++)
		if (!graph.reached[i]) {
			objects[is_direct(i)]++;
			bytes[is_direct(i)] += lost_size(i);
		}
	for (uint32_t i = 0; i < r->nrecords; i++) {
		const struct leak_record *rec = &r->records[i];

		assert_int_equal(rec->objects, objects[rec->kind]);
		assert_int_equal(rec->bytes, bytes[rec->kind]);
		retained += rec->retained;
		objects[rec->kind] = 0;
	}
	assert_int_equal(objects[0] + objects[1], 0);
	assert_int_equal(retained, bytes[0] + bytes[1]);
}

static void test_direct_and_indirect(void **state)
{
	(void)state;
	for (uint32_t round = 1; round <= 300; round++) {
		struct leak_result r = { 0 };
		struct marker m;

		seed = round;
		make_objects(FEW);
		make_edges(10 + round % 40);
		begin(&m);
		for (int i = 0; i < 6; i++) {
			uint32_t target = draw(FEW);

			reach(target);
			mark_word(&m, (uintptr_t)graph.object[target]);
		}
		mark_drain(&m);
		assert_true(sweep_collect(&m, &r));
		find_paths();
		end(&m);
		compare_with_model(&r);
		history_forget();
		leak_result_free(&r);
		free_rest();
	}
}

/* ---- beside a running program ---- */

static void look(struct marker *m)
{
	mark_count(m);
	assert_true(mark_map(m));
	assert_true(mark_fill(m));
}

static size_t count_bits(const struct marker *m, const uint64_t *bits)
{
	size_t n = 0;

	for (size_t i = 0; i < mark_bitmap_bytes(m) / sizeof(*bits); i++)
		n += (size_t)__builtin_popcountll(bits[i]);
	return n;
}

/* Without locks it finds what is found with them: spans of all lengths, large objects. */
static void test_look(void **state)
{
	struct marker locked, beside;

	(void)state;
	seed = 77;
	make_objects(MANY);
	free_some();
	begin(&locked);
	look(&beside);
	assert_false(beside.has_odd);
	assert_int_equal(beside.nspans, locked.nspans);
	assert_int_equal(beside.heap_bytes, locked.heap_bytes);
	assert_int_equal(count_bits(&beside, beside.live),
			 count_bits(&locked, locked.live));
	for (uint32_t i = 0; i < graph.count; i++) {
		uint32_t index;
		size_t bit;

		if (!graph.freed[i])
			assert_non_null(mark_find(&beside, (uintptr_t)graph.object[i],
						  &index, &bit));
	}
	mark_free(&beside);
	end(&locked);
	free_rest();
}

/* What is no span of its class is told, and not left out. */
static void test_odd_span(void **state)
{
	void *p = heap_malloc(3000);
	struct mspan *s = heap_find((uintptr_t)p, NULL);
	struct marker m;

	(void)state;
	s->magic++;
	mark_count(&m);
	s->magic--;
	assert_true(m.has_odd);
	mark_count(&m);
	assert_false(m.has_odd);
	heap_free(p);
}

/* Beside a running program a list of mappings may be old: the heap has grown since. */
static void test_was_closed(void **state)
{
	const size_t page = 4096, size = 64 * page;
	char *object = heap_memalign_slow(page, size);
	const uintptr_t lo = (uintptr_t)object;
	struct unreadable u;

	(void)state;
	assert_non_null(object);
	assert_true(unreadable_init(&u, 16));
	u.only_look = true;
	memset(object, 1, size);
	unreadable_open(&u, lo, lo + size, PROT_NONE);
	assert_false(u.met);
	assert_int_equal(mprotect(object + page, page, PROT_NONE), 0);
	unreadable_open(&u, lo, lo + size, PROT_NONE);
	assert_true(u.met);
	assert_int_equal(mprotect(object + page, page, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(u.count, 0);
	unreadable_free(&u);
	heap_free(object);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_direct_and_indirect),
		cmocka_unit_test(test_reachability),
		cmocka_unit_test(test_code),
		cmocka_unit_test(test_interior),
		cmocka_unit_test(test_list_and_table),
		cmocka_unit_test(test_history),
		cmocka_unit_test(test_history_reached),
		cmocka_unit_test(test_look),
		cmocka_unit_test(test_odd_span),
		cmocka_unit_test(test_was_closed),
#if !defined(__SANITIZE_THREAD__) /* helpers share the caller's thread pointer */
		cmocka_unit_test(test_helpers),
		cmocka_unit_test(test_helpers_fall_behind),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
