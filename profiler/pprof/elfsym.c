/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfsym: see elf.h. Format: System V ABI, chapters "Object files" and "Dynamic linking".
 */
#include "profiler/pprof/elfsym.h"

#include <elf.h>
#include <string.h>

#include "preload/base/meta.h"

/* ---- a growing list ---- */

static bool add(struct elf_symbols *s, struct elf_symbol sym)
{
	if (s->count == s->capacity) {
		size_t capacity = s->capacity ? s->capacity * 2 : 1024;
		size_t old_bytes = s->capacity * sizeof(sym);
		void *list = s->list ? meta_remap(s->list, old_bytes,
						  capacity * sizeof(sym), META_PPROF)
				     : meta_map(capacity * sizeof(sym), META_PPROF);

		if (!list)
			return false;
		s->list = list;
		s->capacity = capacity;
	}
	s->list[s->count++] = sym;
	return true;
}

static uint8_t rank_of(const Elf64_Sym *sym, const char *name)
{
	unsigned bind = ELF64_ST_BIND(sym->st_info);
	uint8_t rank = bind == STB_GLOBAL ? 0 : bind == STB_WEAK ? 1 : 2;

	return (uint8_t)(rank + (name[0] == '_' ? 4 : 0));
}

static bool is_function(const Elf64_Sym *sym)
{
	unsigned type = ELF64_ST_TYPE(sym->st_info);

	return (type == STT_FUNC || type == STT_GNU_IFUNC) &&
	       sym->st_shndx != SHN_UNDEF && sym->st_value != 0;
}

/* strings[0..size) must end with a NUL for its last name to count. */
static size_t add_table(struct elf_symbols *out, const Elf64_Sym *syms, size_t n,
			const char *strings, size_t strings_size)
{
	size_t before = out->count;

	if (strings_size == 0 || strings[strings_size - 1] != '\0')
		return 0;
	for (size_t i = 0; i < n; i++) {
		Elf64_Sym sym;
		const char *name;

		memcpy(&sym, &syms[i], sizeof(sym)); /* may be unaligned in a bad file */
		if (!is_function(&sym) || sym.st_name >= strings_size)
			continue;
		name = strings + sym.st_name;
		if (*name == '\0')
			continue;
		if (!add(out, (struct elf_symbol){ sym.st_value, sym.st_size, name,
						   rank_of(&sym, name) }))
			break;
	}
	return out->count - before;
}

/* ---- files ---- */

static bool inside(size_t size, uint64_t offset, uint64_t length)
{
	return offset <= size && length <= size - offset;
}

static bool header(const char *image, size_t size, Elf64_Ehdr *h)
{
	if (size < sizeof(*h))
		return false;
	memcpy(h, image, sizeof(*h));
	return memcmp(h->e_ident, ELFMAG, SELFMAG) == 0 &&
	       h->e_ident[EI_CLASS] == ELFCLASS64;
}

static bool section(const char *image, size_t size, const Elf64_Ehdr *h, size_t i,
		    Elf64_Shdr *out)
{
	if (i >= h->e_shnum || h->e_shentsize != sizeof(*out) ||
	    !inside(size, h->e_shoff, (uint64_t)h->e_shnum * sizeof(*out)))
		return false;
	memcpy(out, image + h->e_shoff + i * sizeof(*out), sizeof(*out));
	return out->sh_type == SHT_NOBITS || inside(size, out->sh_offset, out->sh_size);
}

size_t elf_read_image(struct elf_symbols *out, const char *image, size_t size)
{
	Elf64_Ehdr h;
	size_t found = 0;

	if (!header(image, size, &h))
		return 0;
	for (size_t i = 0; i < h.e_shnum; i++) {
		Elf64_Shdr sh, str;

		if (!section(image, size, &h, i, &sh) ||
		    (sh.sh_type != SHT_SYMTAB && sh.sh_type != SHT_DYNSYM) ||
		    !section(image, size, &h, sh.sh_link, &str) ||
		    str.sh_type != SHT_STRTAB)
			continue;
		found += add_table(out, (const void *)(image + sh.sh_offset),
				   sh.sh_size / sizeof(Elf64_Sym), image + str.sh_offset,
				   str.sh_size);
	}
	return found;
}

/* Looks for the GNU build-id note in image[offset..offset+length). */
static bool note_matches(const char *image, size_t length, const struct module *m)
{
	while (length >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		size_t all;

		memcpy(&n, image, sizeof(n));
		if (n.n_namesz > length || n.n_descsz > length)
			return false;
		all = sizeof(n) + align_up(n.n_namesz, 4) + align_up(n.n_descsz, 4);
		if (all > length)
			return false;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4)
			return n.n_descsz == m->build_id_size &&
			       memcmp(image + sizeof(n) + 4, m->build_id,
				      m->build_id_size) == 0;
		image += all;
		length -= all;
	}
	return false;
}

bool elf_has_build_id(const char *image, size_t size, const struct module *m)
{
	Elf64_Ehdr h;

	if (m->build_id_size == 0)
		return true;
	if (!header(image, size, &h) || h.e_phentsize != sizeof(Elf64_Phdr) ||
	    !inside(size, h.e_phoff, (uint64_t)h.e_phnum * sizeof(Elf64_Phdr)))
		return false;
	for (size_t i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, image + h.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_NOTE && inside(size, ph.p_offset, ph.p_filesz) &&
		    note_matches(image + ph.p_offset, ph.p_filesz, m))
			return true;
	}
	return false;
}

/* ---- loaded images ---- */

/* Symbols in a GNU hash table: the highest chain's end. */
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
	return last + 1;
}

/* The loader has relocated most addresses in .dynamic, but not the vDSO's. */
static uintptr_t address(const struct module *m, uint64_t value)
{
	return value >= m->start && value < m->end ? value : m->bias + value;
}

size_t elf_read_loaded(struct elf_symbols *out, const struct module *m)
{
	const Elf64_Dyn *d = (const Elf64_Dyn *)m->dynamic;
	uintptr_t syms = 0, strings = 0;
	size_t n = 0, strings_size = 0;

	if (!d || m->unloaded)
		return 0;
	for (; d->d_tag != DT_NULL; d++) {
		if (d->d_tag == DT_SYMTAB)
			syms = address(m, d->d_un.d_ptr);
		else if (d->d_tag == DT_STRTAB)
			strings = address(m, d->d_un.d_ptr);
		else if (d->d_tag == DT_STRSZ)
			strings_size = d->d_un.d_val;
		else if (d->d_tag == DT_HASH)
			n = ((const uint32_t *)address(m, d->d_un.d_ptr))[1];
		else if (d->d_tag == DT_GNU_HASH && n == 0)
			n = count_gnu_hash((const uint32_t *)address(m, d->d_un.d_ptr));
	}
	if (!syms || !strings)
		return 0;
	return add_table(out, (const Elf64_Sym *)syms, n, (const char *)strings,
			 strings_size);
}

/* ---- sorting: heap sort, in place ---- */

static bool before(const struct elf_symbol *a, const struct elf_symbol *b)
{
	if (a->start != b->start)
		return a->start < b->start;
	if (a->rank != b->rank)
		return a->rank < b->rank;
	return strcmp(a->name, b->name) < 0;
}

static void sift(struct elf_symbol *list, size_t root, size_t n)
{
	struct elf_symbol moving = list[root];

	for (;;) {
		size_t child = 2 * root + 1;

		if (child >= n)
			break;
		if (child + 1 < n && before(&list[child], &list[child + 1]))
			child++;
		if (!before(&moving, &list[child]))
			break;
		list[root] = list[child];
		root = child;
	}
	list[root] = moving;
}

void elf_sort(struct elf_symbols *s)
{
	size_t n = s->count, kept = 0;

	for (size_t i = n / 2; i > 0; i--)
		sift(s->list, i - 1, n);
	for (size_t i = n; i > 1; i--) {
		struct elf_symbol last = s->list[i - 1];

		s->list[i - 1] = s->list[0];
		s->list[0] = last;
		sift(s->list, 0, i - 1);
	}
	for (size_t i = 0; i < n; i++)
		if (kept == 0 || s->list[kept - 1].start != s->list[i].start)
			s->list[kept++] = s->list[i];
	s->count = kept;
}
