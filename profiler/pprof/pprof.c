/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pprof: the streaming writer, see pprof.h.
 *
 * Samples, nearly all of a file, are encoded here; other messages by generated code.
 *
 * Structure: one mapping holds everything: the state and deflate's memory; hash tables
 * (strings, locations, functions, modules) grow by mappings of their own. A message is
 * packed by its generated code through a ProtobufCBuffer whose append() feeds deflate;
 * deflate's output goes to the file. Order in the file does not matter to protobuf, but
 * the entries of string_table keep theirs: a string is sent when it gets its number.
 *
 * Concurrency: none; one caller, one file.
 */
#include "profiler/pprof/pprof.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profile.pb-c.h"
#include "profiler/pprof/file.h"
#include "profiler/pprof/symbol.h"
#include "profiler/pprof/table.h"
#include "profiler/pprof/text.h"
#include "profiler/stack/module.h"
#include "profiler/stack/unwind.h"

#define ZLIB_MEMORY  (384 * KIB) /* deflate with the defaults below takes 268 KiB */
#define OUT_BYTES    (32 * KIB)
#define STAGED_BYTES (16 * KIB)
#define LEVEL	     Z_BEST_SPEED /* a program waits for it at its end */
#define MAX_FRAMES   65536
#define ID_BYTES     5 /* of a location's number as a varint */
#define MAX_LABELS   19
#define LABEL_BYTES  64 /* of one label, with its tag and length */
#define MAX_VALUES   8
#define RECENT	     512
#define TABLES	     4
#define PLACE_MAX    288	    /* a file's name, an address */
#define DEFAULT_TYPE 14		    /* number of the field default_sample_type */
#define UNSAMPLED_PC ((uintptr_t)3) /* pseudo pc of a sample without a stack */

struct pprof {
	ProtobufCBuffer base;	    /* first: protobuf-c hands us a pointer to it */
	struct out_file file, twin; /* twin: of a pair's second kind */
	z_stream z;
	bool failed; /* memory or zlib; file.error has the file's */
	const struct pprof_kind *kind, *twin_kind; /* NULL: no pair */
	/* Keys: hash of the text (with 64 bits a collision among a million strings is a
	 * matter of 1 in 10^7); address; string number + 1; module id + 1, with the
	 * number of the module's first mapping as its value. */
	struct table strings, locations, functions, modules;
	uint64_t nstrings, nlocations, nfunctions, nmappings;
	uint32_t nmodules; /* whose mappings have been sent */
	uint8_t tail[2 + MAX_VALUES * 10 + MAX_LABELS * LABEL_BYTES]; /* of one sample */
	char place[PLACE_MAX]; /* name of one unnamed location */
	size_t zlib_used, nstaged;
	struct recent {
		uintptr_t addr;
		uint32_t size;
		uint8_t id[ID_BYTES + 3];
	} recent[RECENT];			      /* in front of locations */
	struct slot first_slots[TABLES][TABLE_BEGIN]; /* of the tables */
	/* From here on nothing is cleared for the next file. */
	unsigned char staged[STAGED_BYTES]; /* not compressed yet */
	unsigned char out[OUT_BYTES];
	char zlib_memory[ZLIB_MEMORY];
	uint8_t stack[MAX_FRAMES * ID_BYTES]; /* of one sample: numbers as varints */
};

/* Memory for the next file: a process that ends writes up to seven of them, and pages
 * that are mapped anew cost a fault each. */
static struct {
	struct pprof *spare; /* atomic */
	bool keep;	     /* atomic */
} memory;

/* ---- bytes ---- */

static void drain(struct pprof *p)
{
	size_t n = OUT_BYTES - p->z.avail_out;

	if (n > 0)
		out_file_write(&p->file, (const char *)p->out, n);
	if (n > 0 && p->twin_kind)
		out_file_write(&p->twin, (const char *)p->out, n);
	p->z.next_out = p->out;
	p->z.avail_out = OUT_BYTES;
}

static void compress_staged(struct pprof *p)
{
	p->z.next_in = p->staged;
	p->z.avail_in = (uInt)p->nstaged;
	p->nstaged = 0;
	while (p->z.avail_in > 0 && !p->failed) {
		if (deflate(&p->z, Z_NO_FLUSH) != Z_OK)
			p->failed = true;
		if (p->z.avail_out == 0)
			drain(p);
	}
}

/* Most pieces are a few bytes: too little for a call of deflate. */
static void append(ProtobufCBuffer *buffer, size_t size, const uint8_t *bytes)
{
	struct pprof *p = (struct pprof *)buffer;

	while (size > 0) {
		size_t n = STAGED_BYTES - p->nstaged;

		n = size < n ? size : n;
		memcpy(p->staged + p->nstaged, bytes, n);
		p->nstaged += n;
		bytes += n;
		size -= n;
		if (p->nstaged == STAGED_BYTES)
			compress_staged(p);
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

static void zlib_free(voidpf arg, voidpf block)
{
	(void)arg; /* goes with the struct pprof */
	(void)block;
}

/* ---- wire format around the generated messages ---- */

/* Returns the end, at most ten bytes on. */
static inline uint8_t *encode(uint8_t *to, uint64_t v)
{
	for (; v > 0x7f; v >>= 7)
		*to++ = (uint8_t)v | 0x80;
	*to++ = (uint8_t)v;
	return to;
}

static void put_varint(struct pprof *p, uint64_t v)
{
	uint8_t bytes[10];

	append(&p->base, (size_t)(encode(bytes, v) - bytes), bytes);
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

/* ---- strings ---- */

/* The slot of key, with value 0 when it is new. NULL: out of memory. */
static struct slot *slot_of(struct pprof *p, struct table *t, uint64_t key)
{
	struct slot *s = table_at(t, key);

	if (!s)
		p->failed = true;
	return s;
}

/* A path or a command line may hold any bytes, a string of proto3 only UTF-8: others are
 * sent as question marks. */
static void send_string(struct pprof *p, const char *text)
{
	const unsigned char *s = (const unsigned char *)text, *run = s;
	size_t n;

	put_varint(p, 6u << 3 | 2);
	put_varint(p, strlen(text));
	for (; *s; s += n ? n : 1) {
		n = text_utf8_size(s);
		if (n)
			continue;
		append(&p->base, (size_t)(s - run), run);
		append(&p->base, 1, (const uint8_t *)"?");
		run = s + 1;
	}
	append(&p->base, (size_t)(s - run), run);
}

static int64_t string_id(struct pprof *p, const char *text)
{
	struct slot *s;

	if (!text || !*text)
		return 0;
	s = slot_of(p, &p->strings, text_hash(text));
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
	struct slot *s = slot_of(p, &p->functions, (uint64_t)text + 1);
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

/* Numbers and sends the executable segments of the modules that are new to this file: all
 * of them at the start (the program's first), then what another thread has loaded since.
 */
static void send_mappings(struct pprof *p)
{
	uint32_t count = module_count();

	for (; p->nmodules < count; p->nmodules++) {
		const struct module *m = module_at(p->nmodules);
		struct slot *s = slot_of(p, &p->modules, (uint64_t)m->id + 1);

		if (!s)
			return;
		s->value = p->nmappings + 1;
		for (uint32_t k = 0; k < m->nsegments; k++)
			if (m->segments[k].executable)
				send_mapping(p, ++p->nmappings, m, &m->segments[k]);
	}
}

/* 0: not in an executable segment. */
static uint64_t mapping_id(struct pprof *p, const struct module *m, uintptr_t addr)
{
	const struct slot *s;
	uint64_t id;

	if (m->id >= p->nmodules)
		send_mappings(p);
	s = slot_of(p, &p->modules, (uint64_t)m->id + 1);
	if (!s || s->value == 0)
		return 0;
	id = s->value;
	for (uint32_t k = 0; k < m->nsegments; k++) {
		if (!m->segments[k].executable)
			continue;
		if (addr >= m->segments[k].start && addr < m->segments[k].end)
			return id;
		id++;
	}
	return 0;
}

static const char *pseudo_name(uintptr_t pc)
{
	if (pc == FRAME_JIT_PC)
		return "[jit]";
	return pc == UNSAMPLED_PC ? "[stack not sampled]" : "[truncated]";
}

/* What to call the code at addr, or NULL. An unnamed function of a module that has names
 * is called by its place, "libc.so.6+0x27249": pprof would lump all of a module's into
 * one node "[libc.so.6]", which seems to call itself through everything else. Where a
 * module has no names at all, that node is right, and readers may yet find names by the
 * build-id. */
static const char *code_name(uintptr_t addr, const struct symbol *sym, char *buf,
			     size_t size)
{
	if (sym->function || !sym->module || !symbol_module_has_names(sym->module))
		return sym->function;
	symbol_describe(addr, buf, size);
	return buf;
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
		name = code_name(addr, &sym, p->place, sizeof(p->place));
		if (sym.module)
			l.mapping_id = mapping_id(p, sym.module, addr);
		else
			name = pseudo_name(FRAME_JIT_PC); /* pprof: "<unknown>" */
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
	struct slot *s = slot_of(p, &p->locations, addr ? addr : FRAME_TRUNCATED_PC);
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

static void send_head(struct pprof *p, int64_t period, const char *const *comments)
{
	p->nstrings = 1;
	send_string(p, "");
	for (int i = 0; i < p->kind->ntypes; i++)
		send_value_type(p, 1, &p->kind->types[i]);
	send_value_type(p, 11, &p->kind->period_type);
	put_number(p, 12, (uint64_t)period);
	put_number(p, 9, os_realtime_ns());
	put_number(p, 7, (uint64_t)string_id(p, pprof_drop_frames));
	if (!p->twin_kind)
		put_number(p, DEFAULT_TYPE,
			   (uint64_t)string_id(p, p->kind->default_type));
	for (; comments && *comments; comments++)
		put_number(p, 13, (uint64_t)string_id(p, *comments));
	send_mappings(p);
}

static struct table *table_number(struct pprof *p, size_t i)
{
	return (struct table *[TABLES]){ &p->strings, &p->locations, &p->functions,
					 &p->modules }[i];
}

static void release(struct pprof *p)
{
	for (size_t i = 0; i < TABLES; i++)
		table_free(table_number(p, i));
	if (atomic_load_relaxed(&memory.keep))
		p = atomic_exchange_acq_rel(&memory.spare, p);
	if (p)
		meta_unmap(p, sizeof(*p), META_PPROF);
}

static int open_kind(struct out_file *f, const char *prefix,
		     const struct pprof_kind *kind)
{
	char suffix[32];

	fmt_string(suffix, sizeof(suffix), "%s.pb.gz", kind->name);
	return out_file_open(f, prefix, suffix);
}

/* fd negative: PREFIX.KIND.pb.gz. */
static int open_file(struct pprof *p, const char *prefix, int fd)
{
	if (fd >= 0) {
		out_file_adopt(&p->file, fd);
		return 0;
	}
	if (p->twin_kind)
		p->twin.error = open_kind(&p->twin, prefix, p->twin_kind);
	return open_kind(&p->file, prefix, p->kind);
}

static void abandon_files(struct pprof *p)
{
	out_file_abandon(&p->file);
	if (p->twin_kind)
		out_file_abandon(&p->twin);
}

static int begin(struct pprof **out, struct pprof *p, const char *prefix, int fd)
{
	int error;

	p->file.fd = -1;
	error = open_file(p, prefix, fd);
	p->z.zalloc = zlib_alloc;
	p->z.zfree = zlib_free;
	p->z.opaque = p;
	/* 15 + 16: the largest window, with gzip's header. */
	if (error == 0 && deflateInit2(&p->z, LEVEL, Z_DEFLATED, 15 + 16, 8,
				       Z_DEFAULT_STRATEGY) != Z_OK)
		error = -ENOMEM;
	if (error) {
		abandon_files(p);
		release(p);
		return error;
	}
	p->base.append = append;
	p->z.next_out = p->out;
	p->z.avail_out = OUT_BYTES;
	*out = p;
	return 0;
}

static struct pprof *get_memory(void)
{
	struct pprof *p = atomic_exchange_acq_rel(&memory.spare, NULL);

	if (p)
		memset(p, 0, offsetof(struct pprof, staged));
	else
		p = meta_map(sizeof(*p), META_PPROF);
	for (size_t i = 0; p && i < TABLES; i++)
		table_begin(table_number(p, i), p->first_slots[i]);
	return p;
}

void pprof_keep_memory(void)
{
	atomic_store_relaxed(&memory.keep, true);
}

static int begin_profile(struct pprof **out, const struct pprof_kind *kind,
			 const struct pprof_kind *twin_kind, const char *prefix, int fd,
			 int64_t period, const char *const *comments)
{
	struct pprof *p = get_memory();
	int error;

	*out = NULL;
	if (!p)
		return -ENOMEM;
	p->kind = kind;
	p->twin_kind = twin_kind;
	error = begin(out, p, prefix, fd);
	if (error == 0)
		send_head(p, period, comments);
	return error;
}

int pprof_begin(struct pprof **out, const struct pprof_kind *kind, const char *prefix,
		int64_t period, const char *const *comments)
{
	return begin_profile(out, kind, NULL, prefix, -1, period, comments);
}

int pprof_begin_pair(struct pprof **out, const struct pprof_kind *const kinds[2],
		     const char *prefix, int64_t period, const char *const *comments)
{
	return begin_profile(out, kinds[0], kinds[1], prefix, -1, period, comments);
}

int pprof_begin_fd(struct pprof **out, const struct pprof_kind *kind, int fd,
		   int64_t period, const char *const *comments)
{
	return begin_profile(out, kind, NULL, NULL, fd, period, comments);
}

void pprof_duration(struct pprof *p, uint64_t ns)
{
	put_number(p, 10, ns);
}

/* A field that is 0 is left out, as proto3 has it. */
static uint8_t *encode_field(uint8_t *to, unsigned field, int64_t v)
{
	if (v == 0)
		return to;
	*to++ = (uint8_t)(field << 3);
	return encode(to, (uint64_t)v);
}

static uint8_t *encode_label(struct pprof *p, uint8_t *to, const struct pprof_label *in)
{
	uint8_t *at = to + 2; /* a tag, and a length below 128 */

	_Static_assert(LABEL_BYTES >= 2 + 4 * 11, "three or four fields");
	at = encode_field(at, 1, string_id(p, in->key));
	if (in->text) {
		at = encode_field(at, 2, string_id(p, in->text));
	} else {
		at = encode_field(at, 3, in->number);
		at = encode_field(at, 4, string_id(p, in->unit));
	}
	to[0] = 3u << 3 | 2;
	to[1] = (uint8_t)(at - to - 2);
	return at;
}

static NOINLINE void find_recent(struct pprof *p, uintptr_t addr, struct recent *r)
{
	uint64_t id = location_id(p, addr);
	uint8_t bytes[10];
	size_t n = (size_t)(encode(bytes, id) - bytes);

	if (n > ID_BYTES) { /* 2^35 locations */
		p->failed = true;
		n = ID_BYTES;
	}
	r->addr = addr;
	r->size = (uint32_t)n;
	memcpy(r->id, bytes, ID_BYTES);
}

static inline uint8_t *encode_location(struct pprof *p, uint8_t *to, uintptr_t addr)
{
	struct recent *r = &p->recent[(addr ^ addr >> 9) % RECENT];

	if (UNLIKELY(r->addr != addr || r->size == 0))
		find_recent(p, addr, r);
	memcpy(to, r->id, ID_BYTES);
	return to + r->size;
}

/* The mark behind code that is in no module: that is called so itself. */
static bool says_the_same(const uintptr_t *pcs, int i)
{
	return pcs[i] == FRAME_JIT_PC && i > 0 && pcs[i - 1] > FRAME_PSEUDO_MAX &&
	       !module_find(pcs[i - 1] - 1);
}

/* The locations of a stack, without tag and length. */
static size_t encode_stack(struct pprof *p, const uintptr_t *pcs, int count,
			   bool precise_leaf)
{
	uint8_t *at = p->stack;

	if (count > MAX_FRAMES)
		count = MAX_FRAMES;
	if (count == 0)
		at = encode_location(p, at, UNSAMPLED_PC);
	for (int i = 0; i < count; i++) {
		bool exact = pcs[i] <= FRAME_PSEUDO_MAX || (i == 0 && precise_leaf);

		if (UNLIKELY(says_the_same(pcs, i)))
			continue;
		at = encode_location(p, at, exact ? pcs[i] : pcs[i] - 1);
	}
	return (size_t)(at - p->stack);
}

void pprof_sample(struct pprof *p, const uintptr_t *pcs, int count, bool precise_leaf,
		  const int64_t *values, const struct pprof_label *labels, int nlabels)
{
	uint8_t head[11], *at, *out = p->tail;
	size_t stack;

	if (p->failed || p->file.error || p->kind->ntypes > MAX_VALUES)
		return;
	stack = encode_stack(p, pcs, count, precise_leaf);
	at = out + 2; /* a tag, and a length below 128 */
	for (int i = 0; i < p->kind->ntypes; i++)
		at = encode(at, (uint64_t)values[i]);
	out[0] = 2u << 3 | 2;
	out[1] = (uint8_t)(at - out - 2);
	for (int i = 0; i < nlabels && i < MAX_LABELS; i++)
		at = encode_label(p, at, &labels[i]);
	out = head;
	*out++ = 1u << 3 | 2;
	out = encode(out, stack);
	put_varint(p, 2u << 3 | 2);
	put_varint(p, (size_t)(out - head) + stack + (size_t)(at - p->tail));
	append(&p->base, (size_t)(out - head), head);
	append(&p->base, stack, p->stack);
	append(&p->base, (size_t)(at - p->tail), p->tail);
}

/* What is not compressed yet, and the mark that how stands for. */
static void flush(struct pprof *p, int how)
{
	bool more;
	int ret;

	compress_staged(p);
	do {
		ret = p->failed ? Z_STREAM_END : deflate(&p->z, how);
		more = how == Z_FINISH ? ret == Z_OK || ret == Z_BUF_ERROR
				       : !p->failed && p->z.avail_out == 0;
		drain(p);
	} while (more);
}

/* The end of one of a pair, of which all before is the same: its default type, in a block
 * that is stored, and gzip's trailer. */
static void end_twin(struct pprof *p, struct out_file *f, const struct pprof_kind *kind)
{
	uint8_t bytes[48], *at = bytes + 5, *field = at;
	uint32_t size, trailer[2];

	*at++ = DEFAULT_TYPE << 3;
	at = encode(at, (uint64_t)string_id(p, kind->default_type));
	size = (uint32_t)(at - field);
	bytes[0] = 1; /* the last block, stored */
	bytes[1] = (uint8_t)size;
	bytes[2] = 0;
	bytes[3] = (uint8_t)~size;
	bytes[4] = 0xff;
	trailer[0] = (uint32_t)crc32(p->z.adler, field, size);
	trailer[1] = (uint32_t)p->z.total_in + size;
	memcpy(at, trailer, sizeof(trailer));
	at += sizeof(trailer);
	out_file_write(f, (const char *)bytes, (size_t)(at - bytes));
}

static int finish_pair(struct pprof *p)
{
	int error, twin_error;

	flush(p, Z_FULL_FLUSH);
	end_twin(p, &p->file, p->kind);
	end_twin(p, &p->twin, p->twin_kind);
	if (p->twin.error == 0) /* nothing more was sent since */
		p->twin.error = p->file.error;
	if (p->failed && p->file.error == 0)
		p->file.error = p->twin.error = -ENOMEM;
	error = out_file_close(&p->file);
	twin_error = out_file_close(&p->twin);
	release(p);
	return error ? error : twin_error;
}

int pprof_finish(struct pprof *p)
{
	int error;

	if (p->twin_kind)
		return finish_pair(p);
	flush(p, Z_FINISH);
	if (p->failed && p->file.error == 0)
		p->file.error = -ENOMEM;
	error = out_file_close(&p->file);
	release(p);
	return error;
}

void pprof_abandon(struct pprof *p)
{
	abandon_files(p);
	release(p);
}
