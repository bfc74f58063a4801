/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pbfile: see pbfile.h. The messages live in an arena, through protobuf-c's allocator.
 */
#include "tools/lib/pbfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "tools/lib/filebytes.h"
#include "tools/lib/say.h"

/* ---- reading ---- */

static void *arena_hook(void *arena, size_t size)
{
	return arena_alloc(arena, size);
}

static void no_free(void *arena, void *memory)
{
	(void)arena; /* goes with it */
	(void)memory;
}

/* Ids of one kind, as the file has them, to positions from 1. */
struct ids {
	struct intern known;
};

static bool add_id(struct ids *t, uint64_t *id)
{
	size_t before = t->known.count;

	if (*id == 0 || intern_bytes(&t->known, id, sizeof(*id)) != before)
		return false; /* 0, or twice */
	*id = before + 1;
	return true;
}

/* 0 when it is not known. */
static uint64_t new_id(const struct ids *t, uint64_t id)
{
	size_t found;

	if (id > 0 && id <= t->known.count) { /* our own files: nothing to translate */
		uint64_t same;

		memcpy(&same, intern_key(&t->known, id - 1), sizeof(same));
		if (same == id)
			return id;
	}
	found = intern_find(&t->known, &id, sizeof(id));
	return found == INTERN_NONE ? 0 : found + 1;
}

#define STRING_OK(p, i) ((i) >= 0 && (uint64_t)(i) < (p)->n_string_table)

static const char *check_strings(const Seep__Pprof__Profile *p)
{
	bool ok = p->n_string_table > 0 && p->string_table[0][0] == '\0' &&
		  STRING_OK(p, p->drop_frames) && STRING_OK(p, p->keep_frames) &&
		  STRING_OK(p, p->default_sample_type);

	for (size_t i = 0; ok && i < p->n_sample_type; i++)
		ok = STRING_OK(p, p->sample_type[i]->type) &&
		     STRING_OK(p, p->sample_type[i]->unit);
	for (size_t i = 0; ok && i < p->n_comment; i++)
		ok = STRING_OK(p, p->comment[i]);
	for (size_t i = 0; ok && i < p->n_mapping; i++)
		ok = STRING_OK(p, p->mapping[i]->filename) &&
		     STRING_OK(p, p->mapping[i]->build_id);
	for (size_t i = 0; ok && i < p->n_function; i++)
		ok = STRING_OK(p, p->function[i]->name) &&
		     STRING_OK(p, p->function[i]->system_name) &&
		     STRING_OK(p, p->function[i]->filename);
	for (size_t i = 0; ok && i < p->n_sample; i++) {
		const Seep__Pprof__Sample *s = p->sample[i];

		for (size_t k = 0; ok && k < s->n_label; k++)
			ok = STRING_OK(p, s->label[k]->key) &&
			     STRING_OK(p, s->label[k]->str) &&
			     STRING_OK(p, s->label[k]->num_unit);
	}
	return ok ? NULL : "a string number is out of range";
}

static const char *check_locations(Seep__Pprof__Profile *p, struct ids *mappings,
				   struct ids *locations, struct ids *functions)
{
	for (size_t i = 0; i < p->n_mapping; i++)
		if (!add_id(mappings, &p->mapping[i]->id))
			return "a mapping's id is 0 or given twice";
	for (size_t i = 0; i < p->n_function; i++)
		if (!add_id(functions, &p->function[i]->id))
			return "a function's id is 0 or given twice";
	for (size_t i = 0; i < p->n_location; i++) {
		Seep__Pprof__Location *l = p->location[i];

		if (!add_id(locations, &l->id))
			return "a location's id is 0 or given twice";
		l->mapping_id = new_id(mappings, l->mapping_id);
		for (size_t k = 0; k < l->n_line; k++) {
			l->line[k]->function_id =
				new_id(functions, l->line[k]->function_id);
			if (l->line[k]->function_id == 0)
				return "a location names an unknown function";
		}
	}
	return NULL;
}

static const char *check_samples(Seep__Pprof__Profile *p, const struct ids *locations)
{
	if (p->n_sample_type == 0)
		return "it has no sample types";
	for (size_t i = 0; i < p->n_sample; i++) {
		Seep__Pprof__Sample *s = p->sample[i];

		if (s->n_value != p->n_sample_type)
			return "a sample's values are not one for each sample type";
		for (size_t k = 0; k < s->n_location_id; k++) {
			s->location_id[k] = new_id(locations, s->location_id[k]);
			if (s->location_id[k] == 0)
				return "a sample names an unknown location";
		}
	}
	return NULL;
}

static const char *check(Seep__Pprof__Profile *p)
{
	struct ids mappings = { 0 }, locations = { 0 }, functions = { 0 };
	const char *why = check_strings(p);

	if (!why)
		why = check_locations(p, &mappings, &locations, &functions);
	if (!why)
		why = check_samples(p, &locations);
	intern_free(&mappings.known);
	intern_free(&locations.known);
	intern_free(&functions.known);
	return why;
}

struct pbfile *pbfile_parse(uint8_t *bytes, size_t size, char **out_why)
{
	struct pbfile *f = allocate(sizeof(*f));
	ProtobufCAllocator allocator = { arena_hook, no_free, &f->arena };
	const char *why = "it is not a profile";

	f->p = size ? seep__pprof__profile__unpack(&allocator, size, bytes) : NULL;
	if (size == 0)
		why = "it is empty";
	free(bytes);
	if (f->p && f->p->n_string_table > 0)
		why = check(f->p);
	if (!why)
		return f;
	*out_why = format_string("%s", why);
	pbfile_free(f);
	return NULL;
}

/* ---- reading places only ---- */

#define FIELD_SAMPLE	2
#define SAMPLE_LOCATION 1
#define SAMPLE_VALUE	2
#define SAMPLE_LABEL	3
#define LABEL_NUMBER	3
#define WIRE_VARINT	0
#define WIRE_BYTES	2

struct span {
	const uint8_t *at, *end;
};

struct field {
	unsigned number, wire;
	uint64_t value;	   /* of a varint */
	struct span bytes; /* of what has a length */
};

static bool next_varint(struct span *s, uint64_t *out)
{
	uint64_t v = 0;

	for (unsigned shift = 0; s->at < s->end && shift < 64; shift += 7) {
		uint8_t byte = *s->at++;

		v |= (uint64_t)(byte & 127) << shift;
		if (byte < 128) {
			*out = v;
			return true;
		}
	}
	return false;
}

/* False: it is malformed, or of a wire type that profiles do not have. */
static bool next_field(struct span *s, struct field *out)
{
	uint64_t tag;

	if (!next_varint(s, &tag) || tag > UINT32_MAX || !next_varint(s, &out->value))
		return false;
	out->number = (unsigned)(tag >> 3);
	out->wire = tag & 7;
	if (out->wire == WIRE_VARINT)
		return true;
	if (out->wire != WIRE_BYTES || out->value > (size_t)(s->end - s->at))
		return false;
	out->bytes = (struct span){ s->at, s->at + out->value };
	s->at = out->bytes.end;
	return true;
}

static bool label_ok(struct span s, uint64_t nstrings)
{
	struct field f;

	while (s.at < s.end)
		if (!next_field(&s, &f) || f.wire != WIRE_VARINT ||
		    (f.number != LABEL_NUMBER && f.value >= nstrings))
			return false;
	return true;
}

static bool locations_ok(struct span s, uint64_t nlocations)
{
	uint64_t id;

	while (s.at < s.end)
		if (!next_varint(&s, &id) || id - 1 >= nlocations)
			return false;
	return true;
}

static bool sample_ok(struct span s, const Seep__Pprof__Profile *p)
{
	size_t nvalues = 0;
	struct field f;
	bool ok = true;

	while (ok && s.at < s.end) {
		if (!next_field(&s, &f) || f.wire != WIRE_BYTES)
			return false; /* numbers that are not packed, too */
		switch (f.number) {
		case SAMPLE_LOCATION:
			ok = locations_ok(f.bytes, p->n_location);
			break;
		case SAMPLE_VALUE:
			for (const uint8_t *at = f.bytes.at; at < f.bytes.end; at++)
				nvalues += *at < 128;
			ok = f.bytes.at < f.bytes.end && f.bytes.end[-1] < 128;
			break;
		case SAMPLE_LABEL:
			ok = label_ok(f.bytes, p->n_string_table);
			break;
		default:
			return false;
		}
	}
	return ok && nvalues == p->n_sample_type;
}

static bool samples_ok(const struct pbfile *f)
{
	struct span s = { f->samples, f->samples + f->samples_size };
	struct field one;

	while (s.at < s.end)
		if (!next_field(&s, &one) || !sample_ok(one.bytes, f->p))
			return false;
	return true;
}

/* Samples of bytes go to f->samples, everything else to rest. */
static bool split(struct pbfile *f, const uint8_t *bytes, size_t size, uint8_t *rest,
		  size_t *out_rest)
{
	struct span s = { bytes, bytes + size };
	const uint8_t *from = bytes;
	struct field one;

	*out_rest = 0;
	for (; s.at < s.end; from = s.at) {
		size_t n;

		if (!next_field(&s, &one))
			return false;
		n = (size_t)(s.at - from);
		if (one.number == FIELD_SAMPLE && one.wire == WIRE_BYTES) {
			memcpy(f->samples + f->samples_size, from, n);
			f->samples_size += n;
		} else {
			memcpy(rest + *out_rest, from, n);
			*out_rest += n;
		}
	}
	return true;
}

/* Samples that stay as they are name locations by the numbers of the file. */
static bool numbers_stay(const Seep__Pprof__Profile *p)
{
	for (size_t i = 0; i < p->n_location; i++)
		if (p->location[i]->id != i + 1)
			return false;
	return p->n_sample_type > 0;
}

static bool has_string(const Seep__Pprof__Profile *p, const char *const *texts)
{
	for (size_t i = 0; i < p->n_string_table; i++)
		for (size_t k = 0; texts[k]; k++)
			if (strcmp(p->string_table[i], texts[k]) == 0)
				return true;
	return false;
}

struct pbfile *pbfile_parse_places(uint8_t *bytes, size_t size, const char *const *labels,
				   char **out_why)
{
	struct pbfile *f = allocate(sizeof(*f));
	ProtobufCAllocator allocator = { arena_hook, no_free, &f->arena };
	uint8_t *rest = allocate(size + 1);
	size_t rest_size;

	f->samples = allocate(size + 1);
	if (split(f, bytes, size, rest, &rest_size))
		f->p = seep__pprof__profile__unpack(&allocator, rest_size, rest);
	free(rest);
	if (f->p && f->p->n_string_table > 0 && numbers_stay(f->p) && !check(f->p) &&
	    !has_string(f->p, labels) && samples_ok(f)) {
		free(bytes);
		return f;
	}
	pbfile_free(f); /* what is wrong, if anything is, the other one says */
	return pbfile_parse(bytes, size, out_why);
}

struct pbfile *pbfile_read(const char *path, char **out_why)
{
	size_t size;
	uint8_t *bytes;

	errno = 0;
	bytes = file_bytes_read(path, &size);
	if (!bytes) {
		*out_why =
			format_string("%s", errno == EILSEQ ? "it is cut off or damaged"
							    : strerror(errno));
		return NULL;
	}
	return pbfile_parse(bytes, size, out_why);
}

void pbfile_free(struct pbfile *f)
{
	if (!f)
		return;
	intern_free(&f->strings);
	intern_free(&f->functions);
	free(f->string_index);
	free(f->functions_list);
	free(f->samples);
	arena_free(&f->arena);
	free(f);
}

const char *pbfile_text(const struct pbfile *f, int64_t string)
{
	return f->p->string_table[string];
}

int pbfile_type(const struct pbfile *f, const char *name)
{
	const Seep__Pprof__Profile *p = f->p;
	bool asked = name != NULL;

	if (!name)
		name = pbfile_text(f, p->default_sample_type);
	for (size_t i = 0; i < p->n_sample_type; i++)
		if (strcmp(pbfile_text(f, p->sample_type[i]->type), name) == 0)
			return (int)i;
	return asked ? -1 : (int)p->n_sample_type - 1;
}

/* ---- changing ---- */

/* Remembers where text is in the table; of equal ones, the first counts. */
static void know_string(struct pbfile *f, const char *text, size_t index)
{
	size_t number = f->strings.count;

	if (intern_text(&f->strings, text) != number)
		return;
	f->string_index = grown(f->string_index, number, &f->string_index_size,
				sizeof(*f->string_index));
	f->string_index[number] = (int64_t)index;
}

static uint64_t function_of(struct pbfile *f, const int64_t key[4])
{
	size_t before = f->functions.count;
	size_t number = intern_bytes(&f->functions, key, 4 * sizeof(*key));
	Seep__Pprof__Function *fn;

	if (number < before)
		return number + 1;
	fn = arena_alloc(&f->arena, sizeof(*fn));
	seep__pprof__function__init(fn);
	fn->id = number + 1;
	fn->name = key[0];
	fn->system_name = key[1];
	fn->filename = key[2];
	fn->start_line = key[3];
	f->functions_list = grown(f->functions_list, number, &f->functions_size,
				  sizeof(Seep__Pprof__Function *));
	f->functions_list[number] = fn;
	return fn->id;
}

/* From here on strings and functions are looked up by content. Equal functions become
 * one, so references are renewed. */
static void edit(struct pbfile *f)
{
	Seep__Pprof__Profile *p = f->p;
	uint64_t *renewed;

	if (f->editing)
		return;
	f->editing = true;
	for (size_t i = 0; i < p->n_string_table; i++)
		know_string(f, p->string_table[i], i);
	renewed = allocate((p->n_function + 1) * sizeof(*renewed));
	for (size_t i = 0; i < p->n_function; i++) {
		const Seep__Pprof__Function *fn = p->function[i];

		renewed[i + 1] =
			function_of(f, (int64_t[4]){ fn->name, fn->system_name,
						     fn->filename, fn->start_line });
	}
	for (size_t i = 0; i < p->n_location; i++)
		for (size_t k = 0; k < p->location[i]->n_line; k++) {
			uint64_t *id = &p->location[i]->line[k]->function_id;

			*id = renewed[*id];
		}
	free(renewed);
	p->function = f->functions_list;
	p->n_function = f->functions.count;
}

int64_t pbfile_string(struct pbfile *f, const char *text)
{
	Seep__Pprof__Profile *p = f->p;
	size_t before, number;
	char **table;

	edit(f);
	before = f->strings.count;
	number = intern_text(&f->strings, text);
	if (number < before)
		return f->string_index[number];
	if (p->n_string_table >= f->table_size) {
		f->table_size = p->n_string_table * 2 + 1024;
		table = arena_alloc(&f->arena, f->table_size * sizeof(*table));
		memcpy(table, p->string_table, p->n_string_table * sizeof(*table));
		p->string_table = table;
	}
	f->string_index = grown(f->string_index, number, &f->string_index_size,
				sizeof(*f->string_index));
	f->string_index[number] = (int64_t)p->n_string_table;
	p->string_table[p->n_string_table++] = arena_text(&f->arena, text, strlen(text));
	return f->string_index[number];
}

uint64_t pbfile_function(struct pbfile *f, int64_t name, int64_t system_name,
			 int64_t filename, int64_t start_line)
{
	uint64_t id;

	edit(f);
	id = function_of(f, (int64_t[4]){ name, system_name, filename, start_line });
	f->p->function = f->functions_list;
	f->p->n_function = f->functions.count;
	return id;
}

Seep__Pprof__Function *pbfile_function_at(const struct pbfile *f, uint64_t id)
{
	return f->p->function[id - 1];
}

/* ---- writing ---- */

/* Functions that no line names any more are left out. The file cannot be changed
 * afterwards. */
static void drop_unused_functions(struct pbfile *f)
{
	Seep__Pprof__Profile *p = f->p;
	bool *used = allocate((p->n_function + 1) * sizeof(*used));
	size_t n = 0;

	for (size_t i = 0; i < p->n_location; i++)
		for (size_t k = 0; k < p->location[i]->n_line; k++)
			used[p->location[i]->line[k]->function_id] = true;
	for (size_t i = 0; i < p->n_function; i++)
		if (used[p->function[i]->id])
			p->function[n++] = p->function[i];
	p->n_function = n;
	free(used);
}

/* The gzip member of bytes, allocated. Level 3: a third of the time of the default for a
 * tenth more bytes. */
static uint8_t *compress_bytes(uint8_t *bytes, size_t size, size_t *out_size)
{
	z_stream z = { .next_in = bytes, .avail_in = (uInt)size };
	size_t bound;
	uint8_t *out;

	if (deflateInit2(&z, 3, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		die(EXIT_INCOMPLETE, "out of memory");
	bound = deflateBound(&z, size);
	out = allocate(bound);
	z.next_out = out;
	z.avail_out = (uInt)bound;
	deflate(&z, Z_FINISH);
	*out_size = bound - z.avail_out;
	deflateEnd(&z);
	return out;
}

bool pbfile_write(struct pbfile *f, const char *path)
{
	size_t size, packed_size;
	uint8_t *plain, *packed;
	bool ok;

	drop_unused_functions(f);
	size = seep__pprof__profile__get_packed_size(f->p) + f->samples_size;
	if (size > UINT32_MAX / 2) {
		errno = EFBIG;
		return false;
	}
	plain = allocate(size + 1);
	if (f->samples_size)
		memcpy(plain, f->samples, f->samples_size);
	seep__pprof__profile__pack(f->p, plain + f->samples_size);
	packed = compress_bytes(plain, size, &packed_size);
	ok = file_bytes_write(packed, packed_size, path);
	free(packed);
	free(plain);
	return ok;
}
