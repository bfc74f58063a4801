/* SPDX-License-Identifier: Apache-2.0 */
/* What the tool's commands share: names, numbering of keys, whole profile files. */
#include "tests/unit/cm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/lib/arena.h"
#include "tools/lib/intern.h"
#include "tools/lib/names.h"
#include "tools/lib/filebytes.h"
#include "tools/lib/pbfile.h"
#include "tools/lib/pbmerge.h"
#include "tools/lib/reportjson.h"
#include "tools/lib/stacks.h"

/* ---- arena, intern ---- */

static void arena_gives_aligned_memory(void **state)
{
	struct arena a = { 0 };

	(void)state;
	for (size_t i = 1; i < 2000; i++) {
		char *p = arena_alloc(&a, i * 7 % 700);

		assert_int_equal((uintptr_t)p % 16, 0);
		memset(p, 0xa5, i * 7 % 700);
	}
	assert_non_null(arena_alloc(&a, 3 << 20));
	assert_string_equal(arena_text(&a, "texts", 4), "text");
	arena_free(&a);
	assert_null(a.chunks);
}

static void intern_numbers_in_order(void **state)
{
	struct intern t = { 0 };
	char key[32];

	(void)state;
	assert_int_equal(intern_find(&t, "x", 1), INTERN_NONE);
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 50000; i++) {
			snprintf(key, sizeof(key), "key %d", i);
			assert_int_equal(intern_text(&t, key), i);
		}
	assert_int_equal(t.count, 50000);
	assert_int_equal(intern_find(&t, "key 777", 7), 777);
	assert_int_equal(intern_find(&t, "key 777", 8), INTERN_NONE);
	assert_string_equal(intern_key(&t, 49999), "key 49999");
	/* bytes, zeros among them; prefixes are other keys */
	assert_int_equal(intern_bytes(&t, "\0\0\0", 3), 50000);
	assert_int_equal(intern_bytes(&t, "\0\0", 2), 50001);
	assert_int_equal(intern_bytes(&t, "", 0), 50002);
	assert_int_equal(intern_bytes(&t, "\0\0\0", 3), 50000);
	intern_free(&t);
}

/* ---- reports ---- */

static json_t *parse_report(const char *text)
{
	return reportjson_parse(text, strlen(text), NULL);
}

/* What it is without our reader. */
static void assert_read_as_it_is(const char *text)
{
	json_t *plain = json_loads(text, 0, NULL), *ours = parse_report(text), *again;
	size_t size;
	char *written;

	assert_non_null(plain);
	assert_true(json_equal(plain, ours));
	written = reportjson_text(ours, &size);
	assert_int_equal(strlen(written), size);
	again = parse_report(written);
	assert_true(json_equal(plain, again));
	json_decref(plain);
	json_decref(ours);
	json_decref(again);
	free(written);
}

static void report_frames_are_shared(void **state)
{
	static const char text[] =
		"{\"leaks\":[{\"stack\":[{\"function\":\"a\"},{\"function\":\"b\"}]},"
		"{\"stack\" : [ {\"function\":\"b\"} , {\"function\":\"a\"}\n]}]}";
	json_t *root = parse_report(text), *leaks = json_object_get(root, "leaks");
	json_t *first = json_object_get(json_array_get(leaks, 0), "stack");
	json_t *second = json_object_get(json_array_get(leaks, 1), "stack");

	(void)state;
	assert_ptr_equal(json_array_get(first, 0), json_array_get(second, 1));
	assert_ptr_equal(json_array_get(first, 1), json_array_get(second, 0));
	json_decref(root);
	assert_read_as_it_is(text);
}

static void report_of_any_text(void **state)
{
	static const char *const good[] = {
		"{}",
		"[]",
		"{\"leaks\":[]}",
		"{\"leaks\":[1,{\"stack\":[]},{\"stack\":null},{\"stack\":7}]}",
		("{\"leaks\":[{\"stack\":[{\"function\":\"{[\\\"]}\\\\\"}]}],"
		 "\"x\":\"\\\"stack\\\":[{\"}"),
		"{\"leaks\":[{\"stack\":[{\"a\":{\"b\":[1]}},2,\"s\"]}]}",
		"{\"stack\":[{\"function\":\"f\"}],\"possible\":[{\"stack\":[{}]}]}",
		"{\"reachable\":[{\"chain\":[{\"from\":{\"stack\":[{\"z\":1}]}}]}]}",
	};
	static const char *const bad[] = { "", "{", "{\"leaks\":[{\"stack\":[{\"a\":1}",
					   "{\"stack\":[{\"a\"", "\"stack\":[}" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_read_as_it_is(good[i]);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_null(parse_report(bad[i]));
}

/* ---- names ---- */

static void names_are_readable(void **state)
{
	static const struct {
		const char *linkage, *simple, *templates, *full;
	} table[] = {
		{ "main", "main", "main", "main" },
		{ "_start", "_start", "_start", "_start" },
		{ "_ZN2ns3BoxIiE4fillEi", "ns::Box::fill", "ns::Box<int>::fill",
		  "ns::Box<int>::fill(int)" },
		{ "_ZN1AltIiEEbT_", "A::operator<", "A::operator< <int>",
		  "bool A::operator< <int>(int)" },
		{ "_ZN1AlsEi", "A::operator<<", "A::operator<<", "A::operator<<(int)" },
		{ "_ZN1AptEv", "A::operator->", "A::operator->", "A::operator->()" },
		{ "_ZN3fooILi3EE3barEv.part.0", "foo::bar", "foo<3>::bar",
		  "foo<3>::bar() [clone .part.0]" },
		{ "_RNvNtCs1234_7mycrate5parse5token", "mycrate::parse::token",
		  "mycrate::parse::token", "mycrate::parse::token" },
		{ "_ZN5crate4heap4grow17h0123456789abcdefE", "crate::heap::grow",
		  "crate::heap::grow", "crate::heap::grow" },
		{ "_Zgarbage", "_Zgarbage", "_Zgarbage", "_Zgarbage" },
		{ "ns::sort<int*>", "ns::sort", "ns::sort<int*>", "ns::sort<int*>" },
		{ "<T as Keep>::keep", "<T as Keep>::keep", "<T as Keep>::keep",
		  "<T as Keep>::keep" },
		{ "", "", "", "" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const char *expected[] = { table[i].linkage, table[i].simple,
					   table[i].templates, table[i].full };

		for (int style = NAMES_NONE; style <= NAMES_FULL; style++) {
			char *text =
				names_human(table[i].linkage, (enum names_style)style);

			assert_string_equal(text, expected[style]);
			free(text);
		}
	}
}

static void places_are_told_from_names(void **state)
{
	(void)state;
	assert_true(names_is_place("libc.so.6+0x27249"));
	assert_false(names_is_place("libc.so.6+0x"));
	assert_false(names_is_place("f+0x12 (inline)"));
	assert_false(names_is_place("operator+"));
	assert_false(names_is_place("malloc"));
}

/* ---- files ---- */

/* A profile in wire format, put together byte by byte. */
struct wire {
	uint8_t bytes[4096];
	size_t n;
};

static void put(struct wire *w, int field, uint64_t v)
{
	w->bytes[w->n++] = (uint8_t)(field << 3);
	do {
		w->bytes[w->n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
		v >>= 7;
	} while (v);
}

static void put_bytes(struct wire *w, int field, const void *bytes, size_t n)
{
	w->bytes[w->n++] = (uint8_t)(field << 3 | 2);
	w->bytes[w->n++] = (uint8_t)n;
	memcpy(w->bytes + w->n, bytes, n);
	w->n += n;
}

static void put_wire(struct wire *w, int field, const struct wire *inner)
{
	put_bytes(w, field, inner->bytes, inner->n);
}

/* What is wrong with it; 0: nothing. */
enum fault {
	FAULT_NONE,
	FAULT_NO_TYPES,
	FAULT_VALUES,
	FAULT_LOCATION,
	FAULT_FUNCTION,
	FAULT_STRING,
	FAULT_FIRST_STRING,
	FAULT_TWICE,
	FAULTS
};

/* Ids that are not in order, at an address that differs from run to run. */
static void make(struct wire *w, enum fault fault, uint64_t start, int64_t value)
{
	static const char *const strings[] = { "",     "space",	    "bytes", "/bin/x",
					       "abcd", "_ZN1A1fEv", "main" };
	struct wire t = { 0 }, m = { 0 }, s = { 0 };

	w->n = 0;
	put(&t, 1, fault == FAULT_STRING ? 99 : 1);
	put(&t, 2, 2);
	if (fault != FAULT_NO_TYPES)
		put_wire(w, 1, &t);
	put(&m, 1, 7);
	put(&m, 2, start);
	put(&m, 3, start + 0x2000);
	put(&m, 5, 3);
	put(&m, 6, 4);
	put_wire(w, 3, &m);
	for (unsigned i = 0; i < 2; i++) {
		struct wire f = { 0 }, line = { 0 }, l = { 0 };
		uint64_t id = fault == FAULT_TWICE ? 40 : 40 - i;

		put(&f, 1, id);
		put(&f, 2, 5 + i);
		put(&f, 3, 5 + i);
		put_wire(w, 5, &f);
		put(&line, 1, fault == FAULT_FUNCTION ? 50 : id);
		put(&line, 2, 10 + i);
		put(&l, 1, 20 - i);
		put(&l, 2, 7);
		put(&l, 3, start + 0x100 + i);
		put_wire(&l, 4, &line);
		put_wire(w, 4, &l);
	}
	put(&s, 1, 20);
	put(&s, 1, fault == FAULT_LOCATION ? 21 : 19);
	put(&s, 2, (uint64_t)value);
	if (fault == FAULT_VALUES)
		put(&s, 2, 1);
	put_wire(w, 2, &s);
	for (size_t i = fault == FAULT_FIRST_STRING; i < 7; i++)
		put_bytes(w, 6, strings[i], strlen(strings[i]));
}

static struct pbfile *parse(const struct wire *w, char **out_why)
{
	uint8_t *copy = malloc(w->n + 1);

	memcpy(copy, w->bytes, w->n);
	return pbfile_parse(copy, w->n, out_why);
}

static struct pbfile *good(uint64_t start, int64_t value)
{
	struct wire w;
	char *why = NULL;
	struct pbfile *f;

	make(&w, FAULT_NONE, start, value);
	f = parse(&w, &why);
	assert_non_null(f);
	return f;
}

static void references_are_renumbered(void **state)
{
	struct pbfile *f = good(0x5000, 12);
	const Seep__Pprof__Profile *p = f->p;

	(void)state;
	assert_int_equal(p->sample[0]->location_id[0], 1);
	assert_int_equal(p->sample[0]->location_id[1], 2);
	assert_int_equal(p->location[0]->mapping_id, 1);
	assert_int_equal(p->location[1]->line[0]->function_id, 2);
	assert_int_equal(pbfile_type(f, "space"), 0);
	assert_int_equal(pbfile_type(f, "objects"), -1);
	assert_int_equal(pbfile_type(f, NULL), 0);
	pbfile_free(f);
}

static void faults_are_found(void **state)
{
	(void)state;
	for (int fault = FAULT_NONE + 1; fault < FAULTS; fault++) {
		struct wire w;
		char *why = NULL;

		make(&w, (enum fault)fault, 0x5000, 1);
		assert_null(parse(&w, &why));
		assert_non_null(why);
		free(why);
	}
}

static void changes_survive_writing(void **state)
{
	char path[] = "/tmp/seep-unit-XXXXXX", *why = NULL;
	int fd = mkstemp(path);
	struct pbfile *f = good(0x5000, 12);
	int64_t name = pbfile_string(f, "new name");

	(void)state;
	close(fd);
	assert_int_equal(pbfile_string(f, "new name"), name);
	assert_int_equal(pbfile_string(f, "main"), 6);
	/* the same function is the same id; the one no line names any more goes */
	f->p->location[0]->line[0]->function_id = pbfile_function(f, name, 5, 3, 4);
	assert_int_equal(pbfile_function(f, name, 5, 3, 4), 3);
	assert_true(pbfile_write(f, path));
	pbfile_free(f);
	f = pbfile_read(path, &why);
	assert_non_null(f);
	assert_int_equal(f->p->n_function, 2);
	assert_string_equal(
		pbfile_text(f,
			    pbfile_function_at(f, f->p->location[0]->line[0]->function_id)
				    ->name),
		"new name");
	pbfile_free(f);
	assert_null(pbfile_read("/nonexistent/x", &why));
	free(why);
	unlink(path);
}

/* As an own file is: numbers in order, packed. */
static uint8_t *written(struct pbfile *f, size_t *out_size)
{
	char path[] = "/tmp/seep-unit-XXXXXX";
	int fd = mkstemp(path);
	uint8_t *bytes;

	close(fd);
	assert_true(pbfile_write(f, path));
	pbfile_free(f);
	bytes = file_bytes_read(path, out_size);
	assert_non_null(bytes);
	unlink(path);
	return bytes;
}

static struct pbfile *places_of(const uint8_t *bytes, size_t size, const char *label,
				char **out_why)
{
	uint8_t *copy = malloc(size + 1);

	memcpy(copy, bytes, size);
	*out_why = NULL;
	return pbfile_parse_places(copy, size, (const char *const[]){ label, NULL },
				   out_why);
}

static void samples_stay_bytes_where_places_are_asked_for(void **state)
{
	size_t size;
	uint8_t *bytes = written(good(0x5000, 12), &size);
	char *why;
	struct pbfile *f = places_of(bytes, size, "absent", &why);

	(void)state;
	assert_int_equal(f->p->n_sample, 0);
	assert_true(f->samples_size > 0);
	f->p->location[0]->line[0]->function_id =
		pbfile_function(f, pbfile_string(f, "new name"), 5, 3, 4);
	free(bytes);
	bytes = written(f, &size);
	f = places_of(bytes, size, "space", &why); /* some string: it is read whole */
	assert_int_equal(f->samples_size, 0);
	assert_int_equal(f->p->n_sample, 1);
	assert_int_equal(f->p->sample[0]->location_id[1], 2);
	assert_int_equal(f->p->sample[0]->value[0], 12);
	assert_string_equal(
		pbfile_text(f,
			    pbfile_function_at(f, f->p->location[0]->line[0]->function_id)
				    ->name),
		"new name");
	pbfile_free(f);
	free(bytes);
}

static void faults_of_samples_that_stay_bytes_are_found(void **state)
{
	/* tag, size; tag, size, two locations; tag, size, one value */
	static const uint8_t sample[] = { 0x12, 7, 0x0a, 2, 1, 2, 0x12, 1, 12 };
	/* where, and what: locations beyond the last and 0, a value that does not end,
	 * one too many, a field that is longer than its sample */
	static const uint8_t faults[][2] = {
		{ 5, 3 }, { 4, 0 }, { 8, 0x80 }, { 2, 0x12 }, { 7, 2 }
	};
	size_t size;
	uint8_t *bytes;
	char *why;
	struct pbfile *f;

	(void)state;
	bytes = written(good(0x5000, 12), &size);
	f = places_of(bytes, size, "absent", &why);
	free(bytes);
	bytes = written(f, &size); /* samples come first now */
	assert_memory_equal(bytes, sample, sizeof(sample));
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		bytes[faults[i][0]] = faults[i][1];
		assert_null(places_of(bytes, size, "absent", &why));
		assert_non_null(why);
		free(why);
		bytes[faults[i][0]] = sample[faults[i][0]];
	}
	free(bytes);
}

/* Samples with a label, ahead of everything else. */
static uint8_t *labelled(size_t *out_size)
{
	Seep__Pprof__Label label = SEEP__PPROF__LABEL__INIT, *labels[] = { &label };
	struct pbfile *f = good(0x5000, 12);
	uint8_t *bytes, *again;
	char *why;

	label.key = 1;
	label.str = 2;
	label.num = 100;
	f->p->sample[0]->n_label = 1;
	f->p->sample[0]->label = labels;
	bytes = written(f, out_size);
	f = places_of(bytes, *out_size, "absent", &why);
	assert_true(f->samples_size > 0);
	free(bytes);
	again = written(f, out_size);
	return again;
}

static void labels_of_samples_that_stay_bytes(void **state)
{
	/* tag, size, ...; tag, size, key, text, number */
	static const uint8_t sample[] = { 0x12, 15, 0x0a, 2, 1,	   2, 0x12, 1,	12,
					  0x1a, 6,  0x08, 1, 0x10, 2, 0x18, 100 };
	enum { KEY = 12, TEXT = 14, NUMBER = 16, BEYOND = 127 };
	size_t size;
	uint8_t *bytes = labelled(&size);
	struct pbfile *f;
	char *why;

	(void)state;
	assert_memory_equal(bytes, sample, sizeof(sample));
	for (int at = KEY; at <= NUMBER; at += TEXT - KEY) {
		bytes[at] = BEYOND; /* the last text, or a number like any other */
		f = places_of(bytes, size, "absent", &why);
		assert_int_equal(f != NULL, at == NUMBER);
		assert_int_equal(why == NULL, at == NUMBER);
		free(why);
		pbfile_free(f);
		bytes[at] = sample[at];
	}
	free(bytes);
}

/* Whole values, and the beginning of another; files that end anywhere. */
static void samples_that_end_early(void **state)
{
	size_t size;
	uint8_t *bytes = labelled(&size), value[] = { 0x12, 2, 12, 0x80, 0x0a, 1, 1 };
	char *why;

	(void)state;
	for (size_t n = 0; n < size; n++) {
		struct pbfile *f = places_of(bytes, n, "absent", &why);

		assert_true((f == NULL) == (why != NULL));
		free(why);
		pbfile_free(f);
	}
	memcpy(bytes + 2, value, sizeof(value));
	assert_null(places_of(bytes, size, "absent", &why));
	free(why);
	free(bytes);
}

/* What no file of ours has: locations with other numbers, numbers one by one. */
static void samples_of_others_are_read_whole(void **state)
{
	struct pbfile *f = good(0x5000, 12);
	size_t size;
	uint8_t *bytes;
	char *why;

	(void)state;
	f->p->location[0]->id = 2;
	f->p->location[1]->id = 1;
	bytes = written(f, &size);
	f = places_of(bytes, size, "absent", &why);
	assert_int_equal(f->samples_size, 0);
	assert_int_equal(f->p->n_sample, 1);
	pbfile_free(f);
	free(bytes);
	bytes = labelled(&size);
	bytes[2] = bytes[4] = 0x08; /* 0x0a, 2, 1, 2: two, packed */
	bytes[3] = 1;
	f = places_of(bytes, size, "absent", &why);
	assert_int_equal(f->samples_size, 0);
	assert_int_equal(f->p->sample[0]->n_location_id, 2);
	assert_int_equal(f->p->sample[0]->location_id[1], 2);
	pbfile_free(f);
	free(bytes);
}

static void runs_cancel_whatever_their_addresses(void **state)
{
	struct pbfile *a = good(0x5000, 12), *b = good(0x7f0000005000, 30);

	(void)state;
	assert_null(pbmerge_mismatch(a, b));
	pbmerge_subtract(b, a);
	assert_int_equal(b->p->n_sample, 1);
	assert_int_equal(b->p->sample[0]->value[0], 18);
	assert_int_equal(b->p->n_location, 2);
	assert_int_equal(b->p->n_mapping, 1);
	pbfile_free(b);
	b = good(0x9000, 12);
	pbmerge_subtract(b, a);
	assert_int_equal(b->p->n_sample, 0);
	pbfile_free(a);
	pbfile_free(b);
}

static void stacks_have_readable_frames(void **state)
{
	struct pbfile *f = good(0x5000, 1);
	struct stacks s;
	const struct frame *frames;

	(void)state;
	stacks_init(&s, f);
	assert_int_equal(stacks_of(&s, f->p->sample[0], &frames), 2);
	assert_string_equal(frames[0].function, "A::f");
	assert_string_equal(frames[1].function, "main");
	assert_string_equal(frames[1].module, "/bin/x");
	assert_int_equal(frames[1].line, 11);
	assert_int_equal(frames[1].offset, 0x101);
	stacks_free(&s);
	pbfile_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arena_gives_aligned_memory),
		cmocka_unit_test(intern_numbers_in_order),
		cmocka_unit_test(report_frames_are_shared),
		cmocka_unit_test(report_of_any_text),
		cmocka_unit_test(names_are_readable),
		cmocka_unit_test(places_are_told_from_names),
		cmocka_unit_test(references_are_renumbered),
		cmocka_unit_test(faults_are_found),
		cmocka_unit_test(changes_survive_writing),
		cmocka_unit_test(samples_stay_bytes_where_places_are_asked_for),
		cmocka_unit_test(faults_of_samples_that_stay_bytes_are_found),
		cmocka_unit_test(labels_of_samples_that_stay_bytes),
		cmocka_unit_test(samples_that_end_early),
		cmocka_unit_test(samples_of_others_are_read_whole),
		cmocka_unit_test(runs_cancel_whatever_their_addresses),
		cmocka_unit_test(stacks_have_readable_frames),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
