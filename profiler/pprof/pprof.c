/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pprof: the streaming writer, see pprof.h.
 *
 * Structure: one mapping holds everything: the state, deflate's memory, three hash tables
 * (strings, locations, functions) that grow by mappings of their own. A message is packed
 * by its generated code through a ProtobufCBuffer whose append() feeds deflate; deflate's
 * output goes to the file. Order in the file does not matter to protobuf, but the entries
 * of string_table keep theirs: a string is sent when it gets its number.
 *
 * Concurrency: none; one caller, one file.
 */
#include "profiler/pprof/pprof.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profile.pb-c.h"
#include "profiler/pprof/file.h"
#include "profiler/pprof/symbol.h"
#include "profiler/stack/unwind.h"

#define ZLIB_MEMORY  (384 * KIB) /* deflate with the defaults below takes 268 KiB */
#define OUT_BYTES    (32 * KIB)
#define TABLE_FIRST  1024
#define MAX_FRAMES   65536
#define MAX_LABELS   8
#define UNSAMPLED_PC ((uintptr_t)3) /* pseudo pc of a sample without a stack */

/* From a 64-bit key to a number; open addressing. A string's key is a hash of its bytes
 * (with 64 bits a collision among a million strings is a matter of 1 in 10^7). */
struct table {
	struct slot {
		uint64_t key; /* 0: empty */
		uint64_t value;
	} * slots;
	size_t nslots, used;
};

struct pprof {
	ProtobufCBuffer base; /* first: protobuf-c hands us a pointer to it */
	struct out_file file;
	z_stream z;
	bool failed; /* memory or zlib; file.error has the file's */
	const struct pprof_kind *kind;
	struct table strings, locations, functions;
	uint64_t nstrings, nlocations, nfunctions;
	uint64_t *location_ids; /* of one sample */
	char zlib_memory[ZLIB_MEMORY];
	size_t zlib_used;
	unsigned char out[OUT_BYTES];
};

/* ---- bytes ---- */

static void drain(struct pprof *p)
{
	size_t n = OUT_BYTES - p->z.avail_out;

	if (n > 0)
		out_file_write(&p->file, (const char *)p->out, n);
	p->z.next_out = p->out;
	p->z.avail_out = OUT_BYTES;
}

static void append(ProtobufCBuffer *buffer, size_t size, const uint8_t *bytes)
{
	struct pprof *p = (struct pprof *)buffer;

	p->z.next_in = (z_const Bytef *)(uintptr_t)bytes;
	p->z.avail_in = (uInt)size;
	while (p->z.avail_in > 0 && !p->failed) {
		if (deflate(&p->z, Z_NO_FLUSH) != Z_OK)
			p->failed = true;
		if (p->z.avail_out == 0)
			drain(p);
	}
}

static voidpf zlib_alloc(voidpf arg, uInt items, uInt size)
{
	struct pprof *p = arg;
	size_t bytes = align_up((size_t)items * size, 16);

	if (bytes > ZLIB_MEMORY - p->zlib_used)
		return Z_NULL;
	p->zlib_used += bytes;
	return p->zlib_memory + p->zlib_used - bytes;
}

static void zlib_free(voidpf arg, voidpf memory)
{
	(void)arg; /* goes with the struct pprof */
	(void)memory;
}

/* ---- wire format around the generated messages ---- */

static void put_varint(struct pprof *p, uint64_t v)
{
	uint8_t bytes[10];
	size_t n = 0;

	do {
		bytes[n++] = (uint8_t)(v & 0x7f) | (v > 0x7f ? 0x80 : 0);
		v >>= 7;
	} while (v);
	append(&p->base, n, bytes);
}

static void put_number(struct pprof *p, unsigned field, uint64_t v)
{
	put_varint(p, field << 3);
	put_varint(p, v);
}

static void put_message(struct pprof *p, unsigned field, const ProtobufCMessage *m)
{
	put_varint(p, field << 3 | 2);
	put_varint(p, protobuf_c_message_get_packed_size(m));
	protobuf_c_message_pack_to_buffer(m, &p->base);
}

/* ---- tables ---- */

static struct slot *probe(const struct table *t, uint64_t key)
{
	size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 20);

	for (;; i++) {
		struct slot *s = &t->slots[i & (t->nslots - 1)];

		if (s->key == key || s->key == 0)
			return s;
	}
}

static bool table_grow(struct table *t)
{
	struct table fresh = { .nslots = t->nslots ? t->nslots * 2 : TABLE_FIRST,
			       .used = t->used };

	fresh.slots = meta_map(fresh.nslots * sizeof(*fresh.slots), META_PPROF);
	if (!fresh.slots)
		return false;
	for (size_t i = 0; i < t->nslots; i++)
		if (t->slots[i].key)
			*probe(&fresh, t->slots[i].key) = t->slots[i];
	meta_unmap(t->slots, t->nslots * sizeof(*t->slots), META_PPROF);
	*t = fresh;
	return true;
}

/* The slot of key, with value 0 when it is new. NULL: out of memory. */
static struct slot *table_at(struct pprof *p, struct table *t, uint64_t key)
{
	struct slot *s;

	if (t->used * 2 >= t->nslots && !table_grow(t)) {
		p->failed = true;
		return NULL;
	}
	s = probe(t, key);
	if (s->key == 0) {
		s->key = key;
		t->used++;
	}
	return s;
}

static uint64_t hash_text(const char *text)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3u;
	h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
	return (h ^ h >> 32) | 1;
}

static void send_string(struct pprof *p, const char *text)
{
	size_t size = strlen(text);

	put_varint(p, 6u << 3 | 2);
	put_varint(p, size);
	append(&p->base, size, (const uint8_t *)text);
}

static int64_t string_id(struct pprof *p, const char *text)
{
	struct slot *s;

	if (!text || !*text)
		return 0;
	s = table_at(p, &p->strings, hash_text(text));
	if (!s)
		return 0;
	if (s->value == 0) {
		s->value = p->nstrings++;
		send_string(p, text);
	}
	return (int64_t)s->value;
}

/* ---- functions, locations, mappings ---- */

static uint64_t function_id(struct pprof *p, const char *name)
{
	int64_t text = string_id(p, name);
	struct slot *s = table_at(p, &p->functions, (uint64_t)text + 1);
	Seep__Pprof__Function f = SEEP__PPROF__FUNCTION__INIT;

	if (!s)
		return 0;
	if (s->value == 0) {
		s->value = ++p->nfunctions;
		f.id = s->value;
		f.name = text;
		f.system_name = text;
		put_message(p, 5, &f.base);
	}
	return s->value;
}

/* Mappings are numbered over all executable segments of all modules, in order. */
static uint64_t mapping_id(const struct module *m, uintptr_t addr)
{
	uint64_t id = 0;

	for (uint32_t i = 0; i < module_count(); i++) {
		const struct module *other = module_at(i);

		for (uint32_t k = 0; k < other->nsegments; k++) {
			const struct module_segment *s = &other->segments[k];

			if (!s->executable)
				continue;
			id++;
			if (other == m && addr >= s->start && addr < s->end)
				return id;
		}
	}
	return 0;
}

static void send_mapping(struct pprof *p, uint64_t id, const struct module *m,
			 const struct module_segment *s)
{
	Seep__Pprof__Mapping out = SEEP__PPROF__MAPPING__INIT;
	char hex[2 * MODULE_BUILD_ID_MAX + 1] = "";

	for (uint32_t i = 0; i < m->build_id_size; i++)
		fmt_string(hex + 2 * i, 3, "%02x", m->build_id[i]);
	out.id = id;
	out.memory_start = s->start;
	out.memory_limit = s->end;
	out.file_offset = s->file_offset;
	out.filename = string_id(p, m->path);
	out.build_id = string_id(p, hex);
	out.has_functions = symbol_module_has_names(m);
	put_message(p, 3, &out.base);
}

static void send_mappings(struct pprof *p)
{
	uint64_t id = 0;

	for (uint32_t i = 0; i < module_count(); i++) {
		const struct module *m = module_at(i);

		for (uint32_t k = 0; k < m->nsegments; k++)
			if (m->segments[k].executable)
				send_mapping(p, ++id, m, &m->segments[k]);
	}
}

static const char *pseudo_name(uintptr_t pc)
{
	if (pc == FRAME_JIT_PC)
		return "[jit]";
	return pc == UNSAMPLED_PC ? "[stack not sampled]" : "[truncated]";
}

static void send_location(struct pprof *p, uint64_t id, uintptr_t addr)
{
	Seep__Pprof__Location l = SEEP__PPROF__LOCATION__INIT;
	Seep__Pprof__Line line = SEEP__PPROF__LINE__INIT;
	Seep__Pprof__Line *lines = &line;
	struct symbol sym = { 0 };
	const char *name;

	l.id = id;
	if (addr <= FRAME_PSEUDO_MAX) {
		name = pseudo_name(addr);
	} else {
		l.address = addr;
		symbol_lookup(addr, &sym);
		name = sym.function;
		if (sym.module)
			l.mapping_id = mapping_id(sym.module, addr);
	}
	if (name) {
		line.function_id = function_id(p, name);
		l.line = &lines;
		l.n_line = 1;
	}
	put_message(p, 4, &l.base);
}

static uint64_t location_id(struct pprof *p, uintptr_t addr)
{
	struct slot *s = table_at(p, &p->locations, addr);
	uint64_t id;

	if (!s)
		return 0;
	if (s->value)
		return s->value;
	id = s->value = ++p->nlocations; /* the slot may move while we send */
	send_location(p, id, addr);
	return id;
}

/* ---- the interface ---- */

static void send_value_type(struct pprof *p, unsigned field, const struct pprof_type *t)
{
	Seep__Pprof__ValueType v = SEEP__PPROF__VALUE_TYPE__INIT;

	v.type = string_id(p, t->type);
	v.unit = string_id(p, t->unit);
	put_message(p, field, &v.base);
}

/* Frames of allocation functions, so that what they allocate counts as their caller's. In
 * both spellings of C++ names: as in the file, and demangled. */
static const char drop_frames[] =
	"malloc|calloc|realloc|reallocarray|memalign|posix_memalign|aligned_alloc|valloc|"
	"pvalloc|__libc_(malloc|calloc|realloc|reallocarray|memalign|valloc|pvalloc)|"
	"operator new(\\[\\])?|_Zn[wa]m.*|"
	"std::__new_allocator::allocate|__gnu_cxx::new_allocator::allocate|"
	"std::allocator::allocate|std::allocator_traits::allocate|"
	"_ZNSt15__new_allocatorI.*8allocateE.*|_ZN9__gnu_cxx13new_allocatorI.*8allocateE."
	"*|"
	"_ZNSt16allocator_traitsI.*8allocateE.*";

static void send_head(struct pprof *p, int64_t period, const char *const *comments)
{
	p->nstrings = 1;
	send_string(p, "");
	for (int i = 0; i < p->kind->ntypes; i++)
		send_value_type(p, 1, &p->kind->types[i]);
	send_value_type(p, 11, &p->kind->period_type);
	put_number(p, 12, (uint64_t)period);
	put_number(p, 9, os_realtime_ns());
	put_number(p, 7, (uint64_t)string_id(p, drop_frames));
	put_number(p, 14, (uint64_t)string_id(p, p->kind->default_type));
	for (; comments && *comments; comments++)
		put_number(p, 13, (uint64_t)string_id(p, *comments));
	send_mappings(p);
}

static void release(struct pprof *p)
{
	struct table *tables[] = { &p->strings, &p->locations, &p->functions };

	for (size_t i = 0; i < ARRAY_LEN(tables); i++)
		meta_unmap(tables[i]->slots,
			   tables[i]->nslots * sizeof(*tables[i]->slots), META_PPROF);
	meta_unmap(p->location_ids, MAX_FRAMES * sizeof(*p->location_ids), META_PPROF);
	meta_unmap(p, sizeof(*p), META_PPROF);
}

int pprof_begin(struct pprof **out, const struct pprof_kind *kind, const char *prefix,
		int64_t period, const char *const *comments)
{
	struct pprof *p = meta_map(sizeof(*p), META_PPROF);
	char suffix[32];
	int error;

	*out = NULL;
	if (!p)
		return -ENOMEM;
	p->location_ids = meta_map(MAX_FRAMES * sizeof(*p->location_ids), META_PPROF);
	p->file.fd = -1;
	fmt_string(suffix, sizeof(suffix), "%s.pb.gz", kind->name);
	error = p->location_ids ? out_file_open(&p->file, prefix, suffix) : -ENOMEM;
	p->z.zalloc = zlib_alloc;
	p->z.zfree = zlib_free;
	p->z.opaque = p;
	/* 15 + 16: the largest window, with gzip's header. */
	if (error == 0 && deflateInit2(&p->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16,
				       8, Z_DEFAULT_STRATEGY) != Z_OK)
		error = -ENOMEM;
	if (error) {
		out_file_abandon(&p->file);
		release(p);
		return error;
	}
	p->base.append = append;
	p->kind = kind;
	p->z.next_out = p->out;
	p->z.avail_out = OUT_BYTES;
	send_head(p, period, comments);
	*out = p;
	return 0;
}

static void fill_label(struct pprof *p, const struct pprof_label *in,
		       Seep__Pprof__Label *out)
{
	seep__pprof__label__init(out);
	out->key = string_id(p, in->key);
	if (in->text) {
		out->str = string_id(p, in->text);
	} else {
		out->num = in->number;
		out->num_unit = string_id(p, in->unit);
	}
}

void pprof_sample(struct pprof *p, const uintptr_t *pcs, int count, bool precise_leaf,
		  const int64_t *values, const struct pprof_label *labels, int nlabels)
{
	Seep__Pprof__Sample s = SEEP__PPROF__SAMPLE__INIT;
	Seep__Pprof__Label label[MAX_LABELS], *label_list[MAX_LABELS];
	int64_t copy[8];

	if (p->failed || p->file.error || p->kind->ntypes > (int)ARRAY_LEN(copy))
		return;
	if (count > MAX_FRAMES)
		count = MAX_FRAMES;
	for (int i = 0; i < count; i++) {
		bool exact = pcs[i] <= FRAME_PSEUDO_MAX || (i == 0 && precise_leaf);

		p->location_ids[i] = location_id(p, exact ? pcs[i] : pcs[i] - 1);
	}
	if (count == 0)
		p->location_ids[count++] = location_id(p, UNSAMPLED_PC);
	s.location_id = p->location_ids;
	s.n_location_id = (size_t)count;
	memcpy(copy, values, (size_t)p->kind->ntypes * sizeof(*values));
	s.value = copy;
	s.n_value = (size_t)p->kind->ntypes;
	for (int i = 0; i < nlabels && i < MAX_LABELS; i++) {
		fill_label(p, &labels[i], &label[i]);
		label_list[i] = &label[i];
		s.n_label++;
	}
	s.label = label_list;
	put_message(p, 2, &s.base);
}

int pprof_finish(struct pprof *p)
{
	int ret, error;

	p->z.avail_in = 0;
	do {
		ret = p->failed ? Z_STREAM_END : deflate(&p->z, Z_FINISH);
		drain(p);
	} while (ret == Z_OK || ret == Z_BUF_ERROR);
	if (p->failed && p->file.error == 0)
		p->file.error = -ENOMEM;
	error = out_file_close(&p->file);
	release(p);
	return error;
}

void pprof_abandon(struct pprof *p)
{
	out_file_abandon(&p->file);
	release(p);
}
