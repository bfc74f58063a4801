/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Profiles are written, read back with zlib and protobuf-c, and held against every rule
 * that readers of the format check. How writing fails is in test_file.c.
 */
#include "tests/unit/outdir.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "preload/base/meta.h"
#include "profile.pb-c.h"
#include "profiler/pprof/pprof.h"
#include "profiler/pprof/symbol.h"
#include "profiler/stack/module.h"
#include "profiler/stack/unwind.h"

typedef Seep__Pprof__Profile profile;

/* ---- reading back ---- */

static unsigned char *read_all(const char *path, size_t *out_size)
{
	FILE *f = fopen(path, "rb");
	unsigned char *bytes;
	long size;

	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	size = ftell(f);
	rewind(f);
	bytes = malloc((size_t)size + 1);
	assert_int_equal(fread(bytes, 1, (size_t)size, f), size);
	fclose(f);
	*out_size = (size_t)size;
	return bytes;
}

static profile *decode(const char *path)
{
	size_t size, room = 64u << 20;
	unsigned char *packed = read_all(path, &size), *plain = malloc(room);
	z_stream z = { .next_in = packed, .avail_in = (uInt)size };
	profile *p;

	z.next_out = plain;
	z.avail_out = (uInt)room;
	assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
	assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
	assert_int_equal(z.total_in, size); /* one gzip member and nothing after it */
	p = seep__pprof__profile__unpack(NULL, z.total_out, plain);
	assert_non_null(p);
	inflateEnd(&z);
	free(plain);
	free(packed);
	return p;
}

static void release(profile *p)
{
	seep__pprof__profile__free_unpacked(p, NULL);
}

static const char *text(const profile *p, int64_t index)
{
	assert_in_range(index, 0, p->n_string_table - 1);
	return p->string_table[index];
}

/* Ids are 1, 2, 3 ... in the order of the file, so that they are unique and never 0. */
#define CHECK_IDS(p, list)                            \
	for (size_t i_ = 0; i_ < (p)->n_##list; i_++) \
	assert_int_equal((p)->list[i_]->id, i_ + 1)

static int compare_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void check_strings(const profile *p)
{
	size_t n = p->n_string_table;
	char **sorted = malloc(n * sizeof(*sorted));

	assert_string_equal(p->string_table[0], "");
	memcpy(sorted, p->string_table, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), compare_text);
	for (size_t i = 1; i < n; i++)
		assert_string_not_equal(sorted[i - 1], sorted[i]);
	free(sorted);
}

static void check_head(const profile *p, const struct pprof_kind *kind)
{
	assert_int_equal(p->n_sample_type, kind->ntypes);
	for (int i = 0; i < kind->ntypes; i++) {
		assert_string_equal(text(p, p->sample_type[i]->type),
				    kind->types[i].type);
		assert_string_equal(text(p, p->sample_type[i]->unit),
				    kind->types[i].unit);
	}
	assert_non_null(p->period_type);
	assert_string_equal(text(p, p->period_type->type), kind->period_type.type);
	assert_string_equal(text(p, p->period_type->unit), kind->period_type.unit);
	assert_string_equal(text(p, p->default_sample_type), kind->default_type);
	assert_true(llabs(p->time_nanos / 1000000000 - (long long)time(NULL)) < 600);
	for (size_t i = 0; i < p->n_comment; i++)
		text(p, p->comment[i]);
}

static void check_mappings(const profile *p)
{
	char exe[512];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	assert_true(n > 0);
	exe[n] = '\0';
	assert_true(p->n_mapping > 0);
	assert_string_equal(text(p, p->mapping[0]->filename), exe);
	CHECK_IDS(p, mapping);
	for (size_t i = 0; i < p->n_mapping; i++) {
		const Seep__Pprof__Mapping *m = p->mapping[i];

		assert_true(m->memory_start < m->memory_limit);
		assert_true(*text(p, m->filename));
		assert_int_equal(strspn(text(p, m->build_id), "0123456789abcdef"),
				 strlen(text(p, m->build_id)));
	}
}

static void check_locations(const profile *p)
{
	CHECK_IDS(p, location);
	CHECK_IDS(p, function);
	for (size_t i = 0; i < p->n_function; i++) {
		assert_true(*text(p, p->function[i]->name));
		assert_int_equal(p->function[i]->name, p->function[i]->system_name);
		text(p, p->function[i]->filename);
	}
	for (size_t i = 0; i < p->n_location; i++) {
		const Seep__Pprof__Location *l = p->location[i];

		assert_true(l->n_line <= 1);
		if (l->n_line)
			assert_in_range(l->line[0]->function_id, 1, p->n_function);
		assert_in_range(l->mapping_id, 0, p->n_mapping);
		if (l->mapping_id == 0)
			continue;
		assert_true(l->address >= p->mapping[l->mapping_id - 1]->memory_start);
		assert_true(l->address < p->mapping[l->mapping_id - 1]->memory_limit);
		if (l->n_line)
			assert_true(p->mapping[l->mapping_id - 1]->has_functions);
	}
}

static void check_samples(const profile *p)
{
	for (size_t i = 0; i < p->n_sample; i++) {
		const Seep__Pprof__Sample *s = p->sample[i];

		assert_int_equal(s->n_value, p->n_sample_type);
		assert_true(s->n_location_id > 0);
		for (size_t k = 0; k < s->n_location_id; k++)
			assert_in_range(s->location_id[k], 1, p->n_location);
		for (size_t k = 0; k < s->n_label; k++) {
			assert_true(*text(p, s->label[k]->key));
			text(p, s->label[k]->str);
			text(p, s->label[k]->num_unit);
			assert_true(s->label[k]->str == 0 || s->label[k]->num == 0);
		}
	}
}

/* The rules of which each, when broken, makes a reader refuse the file or misread it. */
static profile *decode_and_check(const struct pprof_kind *kind)
{
	profile *p = decode(path_of(kind->name));

	check_strings(p);
	check_head(p, kind);
	check_mappings(p);
	check_locations(p);
	check_samples(p);
	return p;
}

static const Seep__Pprof__Location *frame_of(const profile *p, size_t sample,
					     size_t frame)
{
	assert_true(sample < p->n_sample && frame < p->sample[sample]->n_location_id);
	return p->location[p->sample[sample]->location_id[frame] - 1];
}

/* NULL: the frame has no name. */
static const char *name_of(const profile *p, size_t sample, size_t frame)
{
	const Seep__Pprof__Location *l = frame_of(p, sample, frame);

	return l->n_line ? text(p, p->function[l->line[0]->function_id - 1]->name) : NULL;
}

static struct pprof *begin(const struct pprof_kind *kind)
{
	struct pprof *p;

	assert_int_equal(pprof_begin(&p, kind, at.prefix, 524288, NULL), 0);
	assert_non_null(p);
	return p;
}

/* Of libc itself: a sanitizer has functions of the same names. */
static uintptr_t libc_function(const char *name)
{
	void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
	uintptr_t addr = (uintptr_t)dlsym(libc, name);

	dlclose(libc);
	assert_true(addr != 0);
	return addr;
}

/* ---- what is written ---- */

static __attribute__((noinline)) int known_function(int a)
{
	__asm__ volatile("" : "+r"(a));
	return a * 3 + 1;
}

static void test_kinds(void **state)
{
	static const struct {
		const struct pprof_kind *kind;
		const char *name, *types, *first, *period;
	} expected[] = {
		{ &pprof_kind_heap, "heap",
		  "alloc_objects/count alloc_space/bytes inuse_objects/count "
		  "inuse_space/bytes ",
		  "inuse_space", "space/bytes" },
		{ &pprof_kind_allocs, "allocs",
		  "alloc_objects/count alloc_space/bytes inuse_objects/count "
		  "inuse_space/bytes ",
		  "alloc_space", "space/bytes" },
		{ &pprof_kind_peak, "peak", "peak_objects/count peak_space/bytes ",
		  "peak_space", "space/bytes" },
		{ &pprof_kind_leak, "leak",
		  "leaked_objects/count leaked_space/bytes retained_space/bytes ",
		  "leaked_space", "space/bytes" },
		{ &pprof_kind_escape, "escape",
		  "objects/count space/bytes lifetime/nanoseconds ", "space",
		  "space/bytes" },
		{ &pprof_kind_threads, "threads", "threads/count ", "threads",
		  "threads/count" },
	};
	const uintptr_t pc = (uintptr_t)known_function + 4;
	const int64_t values[] = { 1, -2, INT64_MAX, 0 };
	static const char *const comments[] = { "first", "second", NULL };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		const struct pprof_kind *kind = expected[i].kind;
		char types[200] = "", period[50];
		struct pprof *w;
		profile *p;

		assert_int_equal(pprof_begin(&w, kind, at.prefix, 4711, comments), 0);
		pprof_sample(w, &pc, 1, false, values, NULL, 0);
		assert_int_equal(pprof_finish(w), 0);
		p = decode(path_of(expected[i].name));
		for (size_t k = 0; k < p->n_sample_type; k++)
			snprintf(types + strlen(types), sizeof(types) - strlen(types),
				 "%s/%s ", text(p, p->sample_type[k]->type),
				 text(p, p->sample_type[k]->unit));
		assert_string_equal(types, expected[i].types);
		assert_string_equal(text(p, p->default_sample_type), expected[i].first);
		snprintf(period, sizeof(period), "%s/%s", text(p, p->period_type->type),
			 text(p, p->period_type->unit));
		assert_string_equal(period, expected[i].period);
		assert_int_equal(p->period, 4711);
		assert_int_equal(p->n_comment, 2);
		assert_string_equal(text(p, p->comment[0]), "first");
		assert_string_equal(text(p, p->comment[1]), "second");
		assert_memory_equal(p->sample[0]->value, values,
				    (size_t)kind->ntypes * sizeof(*values));
		release(p);
		release(decode_and_check(kind));
	}
}

static void test_frames(void **state)
{
	const uintptr_t here = (uintptr_t)known_function, libc = libc_function("qsort");
	const uintptr_t pcs[] = { here + 1, libc + 5, FRAME_JIT_PC, FRAME_TRUNCATED_PC };
	const uintptr_t zero[] = { 0, here + 1, 4097 };
	const uintptr_t jit[] = { here + 1, 4097, FRAME_JIT_PC };
	const int64_t values[] = { 1, 2, 3, 4 };
	struct pprof *w = begin(&pprof_kind_heap);
	profile *p;

	(void)state;
	pprof_sample(w, pcs, 4, false, values, NULL, 0);
	pprof_sample(w, pcs, 2, true, values, NULL, 0);
	pprof_sample(w, NULL, 0, false, values, NULL, 0);
	pprof_sample(w, zero, 3, false, values, NULL, 0);
	pprof_sample(w, zero, 3, false, values, NULL, 0);
	pprof_sample(w, jit, 3, false, values, NULL, 0);
	assert_int_equal(pprof_finish(w), 0);
	p = decode_and_check(&pprof_kind_heap);
	assert_int_equal(p->n_sample, 6);
	assert_int_equal(p->sample[5]->n_location_id, 2); /* once is enough */
	assert_string_equal(name_of(p, 5, 1), "[jit]");
	/* One is taken from return addresses, and nothing from an exact leaf. */
	assert_int_equal(frame_of(p, 0, 0)->address, here);
	assert_int_equal(frame_of(p, 0, 1)->address, libc + 4);
	assert_int_equal(frame_of(p, 1, 0)->address, here + 1);
	assert_int_equal(frame_of(p, 1, 1)->address, libc + 4);
	assert_int_equal(frame_of(p, 0, 0)->mapping_id, 1);
	assert_true(frame_of(p, 0, 1)->mapping_id > 1);
	assert_string_equal(name_of(p, 0, 0), "known_function");
	assert_string_equal(name_of(p, 0, 1), "qsort");
	assert_string_equal(name_of(p, 0, 2), "[jit]");
	assert_string_equal(name_of(p, 0, 3), "[truncated]");
	assert_string_equal(name_of(p, 2, 0), "[stack not sampled]");
	for (size_t i = 3; i < 5; i++) {
		assert_string_equal(name_of(p, i, 0), "[truncated]");
		assert_string_equal(name_of(p, i, 1), "known_function");
		assert_string_equal(name_of(p, i, 2), "[jit]"); /* no module there */
		assert_int_equal(frame_of(p, i, 2)->address, 4096);
		assert_int_equal(frame_of(p, i, 2)->mapping_id, 0);
	}
	release(p);
}

/* A null pc among many addresses: each keeps its own location. */
static void test_null_pc(void **state)
{
	const uintptr_t first = 0x100000000000;
	const int64_t values[] = { 1, 2, 3, 4 };
	struct pprof *w = begin(&pprof_kind_heap);
	profile *p;

	(void)state;
	for (uintptr_t i = 0; i < 20000; i++) {
		const uintptr_t pcs[] = { 0, first + i * 16 + 1 };

		pprof_sample(w, pcs, 2, false, values, NULL, 0);
	}
	assert_int_equal(pprof_finish(w), 0);
	p = decode_and_check(&pprof_kind_heap);
	for (size_t i = 0; i < 20000; i++) {
		assert_string_equal(name_of(p, i, 0), "[truncated]");
		assert_int_equal(frame_of(p, i, 1)->address, first + i * 16);
	}
	assert_int_equal(p->n_location, 20001);
	release(p);
}

/* Code between the functions that libc.so.6 names is called by its place in the file. */
static void test_unnamed(void **state)
{
	const uintptr_t near = libc_function("qsort");
	const struct module *m = module_find(near);
	const int64_t values[] = { 1, 2, 3, 4 };
	struct symbol s = { .function = "" };
	uintptr_t addr = near;
	char place[100];
	struct pprof *w;
	profile *p;

	(void)state;
	while (addr < near + MIB && s.function)
		assert_true(symbol_lookup(++addr, &s));
	assert_null(s.function);
	snprintf(place, sizeof(place), "libc.so.6+0x%lx",
		 (unsigned long)(addr - m->bias));
	w = begin(&pprof_kind_heap);
	addr++;
	pprof_sample(w, &addr, 1, false, values, NULL, 0);
	assert_int_equal(pprof_finish(w), 0);
	p = decode_and_check(&pprof_kind_heap);
	assert_string_equal(name_of(p, 0, 0), place);
	release(p);
}

static void test_mapping(void **state)
{
	struct pprof *w = begin(&pprof_kind_peak);
	const struct module *m = module_find((uintptr_t)known_function);
	unsigned long start = 0, limit = 0, offset = 0;
	char line[600], flags[5];
	FILE *maps = fopen("/proc/self/maps", "r");
	bool found = false;
	profile *p;

	(void)state;
	assert_int_equal(pprof_finish(w), 0);
	p = decode_and_check(&pprof_kind_peak);
	assert_int_equal(p->n_sample, 0);
	/* The kernel's word on the program's code, to the byte. */
	while (!found && fgets(line, sizeof(line), maps)) {
		sscanf(line, "%lx-%lx %4s %lx", &start, &limit, flags, &offset);
		found = (uintptr_t)known_function >= start &&
			(uintptr_t)known_function < limit;
	}
	fclose(maps);
	assert_true(found);
	assert_int_equal(p->mapping[0]->memory_start, start);
	assert_int_equal(p->mapping[0]->memory_limit, limit);
	assert_int_equal(p->mapping[0]->file_offset, offset);
	assert_true(p->mapping[0]->has_functions);
	assert_int_equal(strlen(text(p, p->mapping[0]->build_id)), 2 * m->build_id_size);
	release(p);
}

/* Of a process that has ended and whose files are gone: code in two segments, no names.
 */
static void test_two_segments(void **state)
{
	const uintptr_t base = 0x123400000000, first = base + 0x1000,
			second = base + 0x9000;
	const uintptr_t pcs[] = { first + 0x11, second + 0x11, base + 0x11 };
	const int64_t values[] = { 1, 2, 3, 4 };
	struct module m = { .bias = base, .start = base, .end = base + 0xb000 };
	struct pprof *w = begin(&pprof_kind_heap);
	const Seep__Pprof__Mapping *one, *two;
	profile *p;

	(void)state;
	m.nsegments = 3;
	m.segments[0].start = base;
	m.segments[0].end = first;
	m.segments[1].start = first;
	m.segments[1].end = first + 0x2000;
	m.segments[1].file_offset = 0x1000;
	m.segments[1].executable = true;
	m.segments[2].start = second;
	m.segments[2].end = second + 0x2000;
	m.segments[2].file_offset = 0x5000;
	m.segments[2].executable = true;
	module_adopt(&m, "/nowhere/two_segments");
	pprof_sample(w, pcs, 3, false, values, NULL, 0);
	pprof_duration(w, 4712);
	assert_int_equal(pprof_finish(w), 0);
	p = decode_and_check(&pprof_kind_heap);
	assert_int_equal(p->duration_nanos, 4712);
	assert_true(frame_of(p, 0, 0)->mapping_id > 0);
	assert_int_equal(frame_of(p, 0, 1)->mapping_id,
			 frame_of(p, 0, 0)->mapping_id + 1);
	assert_int_equal(frame_of(p, 0, 2)->mapping_id, 0);
	one = p->mapping[frame_of(p, 0, 0)->mapping_id - 1];
	two = p->mapping[frame_of(p, 0, 1)->mapping_id - 1];
	assert_int_equal(one->file_offset, 0x1000);
	assert_int_equal(two->file_offset, 0x5000);
	assert_false(one->has_functions);
	assert_false(two->has_functions);
	release(p);
}

static void test_late_module(void **state)
{
	static const char *const names[] = { "libresolv.so.2", "libnsl.so.1",
					     "libBrokenLocale.so.1" };
	static const char *const symbols[] = { "ns_parserr", "yp_all",
					       "__ctype_get_mb_cur_max" };
	const int64_t values[] = { 1, 2, 3, 4 };
	struct pprof *w = begin(&pprof_kind_heap);
	size_t opened = 0;
	uintptr_t pcs[ARRAY_LEN(names)];
	profile *p;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		void *h = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
		uintptr_t pc = h ? (uintptr_t)dlsym(h, symbols[i]) : 0;

		module_refresh();
		if (pc)
			pcs[opened++] = pc + 1;
	}
	if (opened == 0)
		skip();
	pprof_sample(w, pcs, (int)opened, false, values, NULL, 0);
	assert_int_equal(pprof_finish(w), 0);
	p = decode_and_check(&pprof_kind_heap);
	for (size_t i = 0; i < opened; i++)
		assert_true(frame_of(p, 0, i)->mapping_id > 1);
	release(p);
}

static void test_labels(void **state)
{
	const struct pprof_label labels[] = {
		{ .key = "kind", .text = "direct" },
		{ .key = "size", .number = 48, .unit = "bytes" },
		{ .key = "age", .number = -1 }
	};
	const int64_t values[] = { 1, 2, 3 };
	const uintptr_t pc = (uintptr_t)known_function + 4;
	struct pprof *w = begin(&pprof_kind_leak);
	const Seep__Pprof__Sample *s;
	profile *p;

	(void)state;
	pprof_sample(w, &pc, 1, false, values, labels, 3);
	assert_int_equal(pprof_finish(w), 0);
	p = decode_and_check(&pprof_kind_leak);
	s = p->sample[0];
	assert_int_equal(s->n_label, 3);
	assert_string_equal(text(p, s->label[0]->key), "kind");
	assert_string_equal(text(p, s->label[0]->str), "direct");
	assert_int_equal(s->label[1]->num, 48);
	assert_string_equal(text(p, s->label[1]->num_unit), "bytes");
	assert_int_equal(s->label[1]->str, 0);
	assert_int_equal(s->label[2]->num, -1);
	assert_int_equal(s->label[2]->num_unit, 0);
	release(p);
}

static void test_utf8(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ "plain", "plain" },
		{ "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
		  "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" },
		{ "a\xff"
		  "b",
		  "a?b" },
		{ "\xc3", "?" },
		{ "x\xe2\x82", "x??" },
		{ "\xc0\x80", "??" },		/* overlong */
		{ "\xed\xa0\x80", "???" },	/* surrogate */
		{ "\xf4\x90\x80\x80", "????" }, /* past the last character */
	};
	const char *comments[ARRAY_LEN(cases) + 1] = { NULL };
	struct pprof *w;
	profile *p;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		comments[i] = cases[i].in;
	assert_int_equal(pprof_begin(&w, &pprof_kind_heap, at.prefix, 1, comments), 0);
	assert_int_equal(pprof_finish(w), 0);
	p = decode(path_of("heap"));
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_string_equal(text(p, p->comment[i]), cases[i].out);
	release(p);
}

/* 20 000 stacks of 30 frames in libc, from a fixed seed: 64 MB of text in plain protobuf
 * would not fit the budget, the tables must. */
static void test_many(void **state)
{
	const struct module *libc = module_find(libc_function("qsort"));
	size_t before = meta_bytes(META_PPROF), most = 0;
	uintptr_t pcs[30], base = 0, span = 0;
	struct pprof *w = begin(&pprof_kind_heap);
	struct timespec t0, t1;
	unsigned seed = 7;
	profile *p;

	(void)state;
	for (uint32_t i = 0; i < libc->nsegments; i++)
		if (libc->segments[i].executable) {
			base = libc->segments[i].start;
			span = libc->segments[i].end - base;
		}
	assert_true(span > 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
	for (int i = 0; i < 20000; i++) {
		int64_t values[] = { i, i * 2, i * 3, i * 4 };

		for (size_t k = 0; k < ARRAY_LEN(pcs); k++) {
			seed = seed * 1664525u + 1013904223u;
			pcs[k] = base + (seed >> 8) % (k < 4 ? 40000 : 4000) * 16 % span +
				 1;
		}
		pprof_sample(w, pcs, ARRAY_LEN(pcs), false, values, NULL, 0);
		if (meta_bytes(META_PPROF) - before > most)
			most = meta_bytes(META_PPROF) - before;
	}
	assert_int_equal(pprof_finish(w), 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
	print_message("# 20000 stacks: %ld ms, %zu KiB\n",
		      (t1.tv_sec - t0.tv_sec) * 1000 +
			      (t1.tv_nsec - t0.tv_nsec) / 1000000,
		      most / 1024);
	assert_true(most <= 8u << 20);
	p = decode_and_check(&pprof_kind_heap);
	assert_int_equal(p->n_sample, 20000);
	for (size_t i = 0; i < 20000; i++)
		assert_int_equal(p->sample[i]->value[3], i * 4);
	release(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_DIR(test_kinds),	   IN_DIR(test_frames),	     IN_DIR(test_unnamed),
		IN_DIR(test_mapping),	   IN_DIR(test_late_module), IN_DIR(test_labels),
		IN_DIR(test_two_segments), IN_DIR(test_utf8),	     IN_DIR(test_many),
		IN_DIR(test_null_pc),
	};

	module_refresh();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
