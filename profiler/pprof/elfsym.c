/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfsym: see elfsym.h. Format: System V ABI, chapters "Object files" and "Dynamic
 * linking".
 *
 * Structure: a symbol table is read twice, once to count its functions, so that the list
 * is made in its final size. A name is an offset in one block of bytes, since the string
 * tables of a file lie in one mapping.
 */
#include "profiler/pprof/elfsym.h"

#include <elf.h>
#include <string.h>

#include "preload/base/meta.h"
#include "profiler/pprof/xz.h"

/* Bits of rank, worst first. GUESSED is about the size, not the name. */
#define RANK_LOCAL	8u
#define RANK_UNDERSCORE 4u
#define RANK_WEAK	2u
#define RANK_GUESSED	1u

#define SEARCH_BACK	32 /* functions that start inside another, at most */

/* The bytes of a file, its checked header, and what a symbol table needs of both. */
struct image {
	const char *bytes; /* NULL: a loaded module */
	size_t size;
	Elf64_Ehdr header;
	const struct module *module; /* of a loaded image */
};

struct table {
	const char *symbols; /* count Elf64_Sym, perhaps unaligned */
	size_t count;
	const char *strings;
	size_t strings_size; /* the last byte is NUL */
};

/* ---- checked access ---- */

static bool inside(size_t size, uint64_t offset, uint64_t length)
{
	return offset <= size && length <= size - offset;
}

static bool image_open(struct image *im, const char *bytes, size_t size)
{
	const Elf64_Ehdr *h = &im->header;

	memset(im, 0, sizeof(*im));
	if (size < sizeof(*h))
		return false;
	im->bytes = bytes;
	im->size = size;
	memcpy(&im->header, bytes, sizeof(*h));
	return memcmp(h->e_ident, ELFMAG, SELFMAG) == 0 &&
	       h->e_ident[EI_CLASS] == ELFCLASS64 && h->e_ident[EI_DATA] == ELFDATA2LSB;
}

static bool section_at(const struct image *im, size_t i, Elf64_Shdr *out)
{
	const Elf64_Ehdr *h = &im->header;
	size_t all = (size_t)h->e_shnum * sizeof(*out);

	if (i >= h->e_shnum || h->e_shentsize != sizeof(*out) ||
	    !inside(im->size, h->e_shoff, all))
		return false;
	memcpy(out, im->bytes + h->e_shoff + i * sizeof(*out), sizeof(*out));
	return out->sh_type == SHT_NOBITS ||
	       inside(im->size, out->sh_offset, out->sh_size);
}

static bool segment_at(const struct image *im, size_t i, Elf64_Phdr *out)
{
	const Elf64_Ehdr *h = &im->header;
	size_t all = (size_t)h->e_phnum * sizeof(*out);

	if (i >= h->e_phnum || h->e_phentsize != sizeof(*out) ||
	    !inside(im->size, h->e_phoff, all))
		return false;
	memcpy(out, im->bytes + h->e_phoff + i * sizeof(*out), sizeof(*out));
	return inside(im->size, out->p_offset, out->p_filesz);
}

/* Section i as a symbol table with its strings. A file has one of each type; *seen keeps
 * a bad one from making us read thousands. */
static bool table_at(const struct image *im, size_t i, unsigned *seen, struct table *out)
{
	Elf64_Shdr sh, str;

	if (!section_at(im, i, &sh) ||
	    (sh.sh_type != SHT_SYMTAB && sh.sh_type != SHT_DYNSYM) ||
	    *seen & 1u << sh.sh_type || !section_at(im, sh.sh_link, &str) ||
	    str.sh_type != SHT_STRTAB)
		return false;
	*seen |= 1u << sh.sh_type;
	out->symbols = im->bytes + sh.sh_offset;
	out->count = sh.sh_size / sizeof(Elf64_Sym);
	out->strings = im->bytes + str.sh_offset;
	out->strings_size = str.sh_size;
	return str.sh_size > 0 && out->strings[str.sh_size - 1] == '\0';
}

/* The packed symbol table that a stripped file may have, the functions that .dynsym
 * lacks: its section's bytes; NULL: there is none, or .symtab is there. */
static const char *find_packed(const struct image *im, size_t *out_size)
{
	static const char name[] = ".gnu_debugdata";
	const char *found = NULL;
	Elf64_Shdr names, sh;

	if (!section_at(im, im->header.e_shstrndx, &names) || names.sh_type != SHT_STRTAB)
		return NULL;
	for (size_t i = 0; i < im->header.e_shnum; i++) {
		if (!section_at(im, i, &sh))
			continue;
		if (sh.sh_type == SHT_SYMTAB)
			return NULL;
		if (sh.sh_type != SHT_PROGBITS ||
		    !inside(names.sh_size, sh.sh_name, sizeof(name)) ||
		    memcmp(im->bytes + names.sh_offset + sh.sh_name, name,
			   sizeof(name)) != 0)
			continue;
		found = im->bytes + sh.sh_offset;
		*out_size = sh.sh_size;
	}
	return found;
}

/* ---- symbols ---- */

/* Symbol i of t, if it is a function with a name. */
static bool function_at(const struct table *t, size_t i, Elf64_Sym *out)
{
	unsigned type;

	memcpy(out, t->symbols + i * sizeof(*out), sizeof(*out));
	type = ELF64_ST_TYPE(out->st_info);
	return (type == STT_FUNC || type == STT_GNU_IFUNC) &&
	       out->st_shndx != SHN_UNDEF && out->st_value != 0 &&
	       out->st_name < t->strings_size && t->strings[out->st_name] != '\0';
}

static uint32_t rank_of(const Elf64_Sym *sym, const char *name)
{
	unsigned bind = ELF64_ST_BIND(sym->st_info);

	return (bind == STB_LOCAL ? RANK_LOCAL : 0) | (bind == STB_WEAK ? RANK_WEAK : 0) |
	       (name[0] == '_' ? RANK_UNDERSCORE : 0) | (sym->st_size ? 0 : RANK_GUESSED);
}

/* Where a function of unknown size must end: with its section, or with its segment. */
static uint64_t last_end(const struct image *im, const Elf64_Sym *sym)
{
	const struct module *m = im->module;
	uint64_t addr = sym->st_value;
	Elf64_Shdr sh;

	if (im->bytes && section_at(im, sym->st_shndx, &sh) && addr >= sh.sh_addr &&
	    addr - sh.sh_addr < sh.sh_size)
		return sh.sh_addr + sh.sh_size;
	for (uint32_t i = 0; m && i < m->nsegments; i++)
		if (m->segments[i].executable && addr >= m->segments[i].start - m->bias &&
		    addr < m->segments[i].end - m->bias)
			return m->segments[i].end - m->bias;
	return addr + 1;
}

static bool reserve(struct elf_symbols *s, size_t more)
{
	size_t item = sizeof(*s->list), capacity = s->capacity + more;
	void *list = s->list ? meta_remap(s->list, s->capacity * item, capacity * item,
					  META_PPROF)
			     : meta_map(capacity * item, META_PPROF);

	if (!list)
		return false;
	s->list = list;
	s->capacity = capacity;
	return true;
}

static void append(struct elf_symbols *s, const struct image *im, const struct table *t,
		   const Elf64_Sym *sym)
{
	const char *name = t->strings + sym->st_name;
	uint64_t size = sym->st_size, start = sym->st_value - s->base;
	uint64_t offset = (uint64_t)(name - s->names);

	if (size == 0)
		size = last_end(im, sym) - sym->st_value;
	if (sym->st_value < s->base || start > UINT32_MAX || offset > UINT32_MAX)
		return;
	s->list[s->count++] = (struct elf_symbol){
		.start = (uint32_t)start,
		.size = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size,
		.name = (uint32_t)offset,
		.rank = rank_of(sym, name),
	};
}

static size_t add_table(struct elf_symbols *s, const struct image *im,
			const struct table *t)
{
	size_t before = s->count, found = 0;
	Elf64_Sym sym;

	for (size_t i = 0; i < t->count; i++)
		found += function_at(t, i, &sym);
	if (found == 0 || !reserve(s, found))
		return 0;
	/* The file may change as we read it: never more than there is room for. */
	for (size_t i = 0; i < t->count && s->count < s->capacity; i++)
		if (function_at(t, i, &sym))
			append(s, im, t, &sym);
	return s->count - before;
}

/* ---- files ---- */

/* Of all tables in im. room: where names are copied to, or NULL: they stay. */
static size_t add_tables(struct elf_symbols *out, const struct image *im, char *room,
			 size_t room_size)
{
	struct table t;
	size_t found = 0;
	unsigned seen = 0;

	for (size_t i = 0; i < im->header.e_shnum; i++) {
		if (!table_at(im, i, &seen, &t))
			continue;
		if (room && t.strings_size > room_size)
			continue;
		if (room) {
			memcpy(room, t.strings, t.strings_size);
			room[t.strings_size - 1] = '\0';
			t.strings = room;
			room += t.strings_size;
			room_size -= t.strings_size;
		}
		found += add_table(out, im, &t);
	}
	return found;
}

size_t elf_read_image(struct elf_symbols *out, const char *image, size_t size)
{
	struct image im;

	if (!image_open(&im, image, size))
		return 0;
	out->names = image;
	return add_tables(out, &im, NULL, 0);
}

static size_t strings_of(const struct image *im)
{
	struct table t;
	size_t size = 0;
	unsigned seen = 0;

	for (size_t i = 0; i < im->header.e_shnum; i++)
		if (table_at(im, i, &seen, &t))
			size += t.strings_size;
	return size;
}

size_t elf_read_packed(struct elf_symbols *out, const char *image, size_t size)
{
	struct image im, inner;
	size_t packed_size, plain, extra, found = 0;
	const char *packed;
	char *bytes;

	if (!image_open(&im, image, size) || !(packed = find_packed(&im, &packed_size)))
		return 0;
	plain = xz_unpacked_size(packed, packed_size);
	extra = strings_of(&im);
	bytes = plain ? meta_map(plain + extra, META_PPROF) : NULL;
	if (!bytes)
		return 0;
	out->names = bytes;
	if (xz_unpack(packed, packed_size, bytes, plain) &&
	    image_open(&inner, bytes, plain))
		found = add_tables(out, &inner, NULL, 0);
	if (found == 0) {
		meta_unmap(bytes, plain + extra, META_PPROF);
		return 0;
	}
	return found + add_tables(out, &im, bytes + plain, extra);
}

bool elf_has_functions(const char *image, size_t size)
{
	struct image im;
	struct table t;
	Elf64_Sym sym;
	size_t packed;
	unsigned seen = 0;

	if (!image_open(&im, image, size))
		return false;
	if (find_packed(&im, &packed))
		return true;
	for (size_t i = 0; i < im.header.e_shnum; i++)
		if (table_at(&im, i, &seen, &t))
			for (size_t k = 0; k < t.count; k++)
				if (function_at(&t, k, &sym))
					return true;
	return false;
}

/* Does a segment of notes hold m's build-id? */
static bool note_matches(const char *notes, size_t length, const struct module *m)
{
	while (length >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		size_t name, all;

		memcpy(&n, notes, sizeof(n));
		name = align_up(n.n_namesz, 4);
		all = sizeof(n) + name + align_up(n.n_descsz, 4);
		if (all > length)
			return false;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 &&
		    n.n_descsz == m->build_id_size &&
		    memcmp(notes + sizeof(n) + name, m->build_id, n.n_descsz) == 0)
			return true;
		notes += all;
		length -= all;
	}
	return false;
}

static bool has_build_id(const struct image *im, const struct module *m)
{
	Elf64_Phdr ph;

	for (size_t i = 0; i < im->header.e_phnum; i++)
		if (segment_at(im, i, &ph) && ph.p_type == PT_NOTE &&
		    note_matches(im->bytes + ph.p_offset, ph.p_filesz, m))
			return true;
	return false;
}

static bool is_loaded(const struct module *m, const Elf64_Phdr *ph)
{
	for (uint32_t i = 0; i < m->nsegments; i++)
		if (m->segments[i].executable &&
		    m->segments[i].start == align_down(m->bias + ph->p_vaddr, OS_PAGE) &&
		    m->segments[i].file_offset == align_down(ph->p_offset, OS_PAGE))
			return true;
	return false;
}

bool elf_is_file_of(const char *image, size_t size, const struct module *m)
{
	struct image im;
	Elf64_Phdr ph;
	bool any = false;

	if (!image_open(&im, image, size))
		return false;
	if (m->build_id_size != 0)
		return has_build_id(&im, m);
	for (size_t i = 0; i < im.header.e_phnum; i++) {
		if (!segment_at(&im, i, &ph) || ph.p_type != PT_LOAD ||
		    !(ph.p_flags & PF_X))
			continue;
		any = true;
		if (!is_loaded(m, &ph))
			return false;
	}
	return any;
}

/* ---- loaded images ---- */

/* Symbols in a GNU hash table: the end of the highest chain. */
static size_t count_gnu_hash(const uint32_t *table)
{
	uint32_t nbuckets = table[0], first = table[1], nbloom = table[2], last = 0;
	const uint32_t *buckets = table + 4 + 2 * (size_t)nbloom;
	const uint32_t *chains = buckets + nbuckets;

	for (uint32_t i = 0; i < nbuckets; i++)
		if (buckets[i] > last)
			last = buckets[i];
	if (last < first)
		return first;
	while (!(chains[last - first] & 1))
		last++;
	return (size_t)last + 1;
}

/* The loader has relocated most addresses in .dynamic, but not the vDSO's. */
static uintptr_t address(const struct module *m, uint64_t value)
{
	return value >= m->start && value < m->end ? value : m->bias + value;
}

/* The dynamic symbols of a module that is loaded. */
static bool loaded_table(const struct module *m, struct table *t)
{
	const Elf64_Dyn *d = (const Elf64_Dyn *)m->dynamic;

	memset(t, 0, sizeof(*t));
	if (!d || m->unloaded)
		return false;
	for (; d->d_tag != DT_NULL; d++) {
		uintptr_t addr = address(m, d->d_un.d_ptr);

		if (d->d_tag == DT_SYMTAB)
			t->symbols = (const char *)addr;
		else if (d->d_tag == DT_STRTAB)
			t->strings = (const char *)addr;
		else if (d->d_tag == DT_STRSZ)
			t->strings_size = d->d_un.d_val;
		else if (d->d_tag == DT_HASH)
			t->count = ((const uint32_t *)addr)[1];
		else if (d->d_tag == DT_GNU_HASH && t->count == 0)
			t->count = count_gnu_hash((const uint32_t *)addr);
	}
	return t->symbols && t->strings && t->strings_size != 0 &&
	       t->strings[t->strings_size - 1] == '\0';
}

size_t elf_read_loaded(struct elf_symbols *out, const struct module *m)
{
	struct image im = { .module = m };
	struct table t;

	if (!loaded_table(m, &t))
		return 0;
	out->names = t.strings;
	return add_table(out, &im, &t);
}

bool elf_loaded_has_functions(const struct module *m)
{
	struct table t;
	Elf64_Sym sym;

	if (!loaded_table(m, &t))
		return false;
	/* What a module defines comes last: its symbols are sorted for the hash table. */
	for (size_t i = t.count; i > 0; i--)
		if (function_at(&t, i - 1, &sym))
			return true;
	return false;
}

/* ---- sorting: heap sort, in place ---- */

/* For one address: the better rank, the shorter name (foo before foo@@V1), the alphabet.
 */
static bool is_better(const struct elf_symbols *s, const struct elf_symbol *a,
		      const struct elf_symbol *b)
{
	const char *a_name = elf_name(s, a), *b_name = elf_name(s, b);
	uint32_t a_rank = a->rank & ~RANK_GUESSED, b_rank = b->rank & ~RANK_GUESSED;
	size_t a_size, b_size;

	if (a_rank != b_rank)
		return a_rank < b_rank;
	a_size = strlen(a_name);
	b_size = strlen(b_name);
	if (a_size != b_size)
		return a_size < b_size;
	return memcmp(a_name, b_name, a_size) < 0;
}

static bool comes_before(const struct elf_symbols *s, const struct elf_symbol *a,
			 const struct elf_symbol *b)
{
	return a->start != b->start ? a->start < b->start : is_better(s, a, b);
}

static void sift(const struct elf_symbols *s, size_t root, size_t n)
{
	struct elf_symbol *list = s->list, moving = list[root];

	for (;;) {
		size_t child = 2 * root + 1;

		if (child >= n)
			break;
		if (child + 1 < n && comes_before(s, &list[child], &list[child + 1]))
			child++;
		if (!comes_before(s, &moving, &list[child]))
			break;
		list[root] = list[child];
		root = child;
	}
	list[root] = moving;
}

/* The kept symbol takes the size of an alias, if that is known better. */
static void merge_size(struct elf_symbol *kept, const struct elf_symbol *alias)
{
	bool known = !(kept->rank & RANK_GUESSED),
	     alias_known = !(alias->rank & RANK_GUESSED);

	if (alias_known && (!known || alias->size > kept->size)) {
		kept->size = alias->size;
		kept->rank &= ~RANK_GUESSED;
	}
}

static void remove_aliases(struct elf_symbols *s)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->count; i++)
		if (kept > 0 && s->list[kept - 1].start == s->list[i].start)
			merge_size(&s->list[kept - 1], &s->list[i]);
		else
			s->list[kept++] = s->list[i];
	s->count = kept;
	for (size_t i = 0; i + 1 < kept; i++) {
		struct elf_symbol *sym = &s->list[i];

		if (sym->rank & RANK_GUESSED && sym->size > sym[1].start - sym->start)
			sym->size = sym[1].start - sym->start;
	}
}

void elf_sort(struct elf_symbols *s)
{
	size_t n = s->count;

	for (size_t i = n / 2; i > 0; i--)
		sift(s, i - 1, n);
	for (size_t i = n; i > 1; i--) {
		struct elf_symbol last = s->list[i - 1];

		s->list[i - 1] = s->list[0];
		s->list[0] = last;
		sift(s, 0, i - 1);
	}
	remove_aliases(s);
}

const struct elf_symbol *elf_search(const struct elf_symbols *s, uint64_t addr)
{
	size_t lo = 0, hi = s->count;
	uint64_t at = addr - s->base;

	if (addr < s->base)
		return NULL;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (s->list[mid].start <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* The nearest may end before addr, inside a larger one (entry points in
	 * assembly). */
	for (size_t i = lo; i > 0 && lo - i < SEARCH_BACK; i--)
		if (at - s->list[i - 1].start < s->list[i - 1].size)
			return &s->list[i - 1];
	return NULL;
}
