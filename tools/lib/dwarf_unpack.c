/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf_unpack: compressed debug information, unpacked for libdw.
 *
 * libdw unpacks every debug section of a file when it opens it, one after the other, and
 * that is most of the time which the lines of a short run take. Here only the sections
 * that are needed for functions and lines are unpacked, by several threads, into an ELF
 * file in memory that has nothing else:
 *
 *	header | section headers | their names | sections
 *
 * Whatever is odd about a file: it is left to libdw as it is.
 */
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef SEEP_LIBDEFLATE
#include <libdeflate.h>
#else
#include <zlib.h>
#endif

#include "tools/lib/dwarf_int.h"
#include "tools/lib/say.h"

#define MAX_THREADS  4
#define MAX_RATIO    1032 /* of deflate */
#define MAX_UNPACKED ((uint64_t)2 << 30)
#define SMALL	     ((uint64_t)64 << 10) /* packed: not worth a thread */
#define MAX_SECTIONS 16
#define HUGE_PAGE    ((size_t)2 << 20)

struct section {
	const char *name;
	const uint8_t *from;
	uint64_t packed, size, align;
	uint64_t to; /* offset in the new file */
	bool is_packed;
};

struct image {
	const uint8_t *file;
	uint64_t file_size;
	struct section sections[MAX_SECTIONS]; /* what is most to unpack first */
	size_t count;
	uint8_t *bytes;
	uint64_t size;
	atomic_size_t next; /* section */
	atomic_bool failed;
};

/* What libdw reads for functions, lines and types; not the places of variables. */
static bool is_needed(const char *name)
{
	static const char *const names[] = { ".debug_info",	".debug_abbrev",
					     ".debug_line",	".debug_str",
					     ".debug_line_str", ".debug_ranges",
					     ".debug_rnglists", ".debug_aranges",
					     ".debug_types",	".debug_str_offsets" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

/* ---- looking at the file ---- */

static const Elf64_Shdr *section_table(const struct image *c,
				       const Elf64_Ehdr **out_header)
{
	const Elf64_Ehdr *h = (const void *)c->file;

	*out_header = h;
	if (c->file_size < sizeof(*h) || memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 ||
	    h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB ||
	    h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shoff % 8 != 0 ||
	    h->e_shoff > c->file_size ||
	    (c->file_size - h->e_shoff) / sizeof(Elf64_Shdr) < h->e_shnum ||
	    h->e_shstrndx >= h->e_shnum)
		return NULL;
	return (const void *)(c->file + h->e_shoff);
}

/* NULL: out of the file. */
static const char *name_of(const struct image *c, const Elf64_Shdr *names,
			   const Elf64_Shdr *section)
{
	uint64_t at = section->sh_name, left;

	if (names->sh_type == SHT_NOBITS || names->sh_offset > c->file_size ||
	    names->sh_size > c->file_size - names->sh_offset || at >= names->sh_size)
		return NULL;
	left = names->sh_size - at;
	return memchr(c->file + names->sh_offset + at, 0, left)
		       ? (const char *)c->file + names->sh_offset + at
		       : NULL;
}

/* False: it is not as it should be. */
static bool add_section(struct image *c, const Elf64_Shdr *sh, const char *name)
{
	struct section s = { .name = name,
			     .packed = sh->sh_size,
			     .size = sh->sh_size,
			     .align = sh->sh_addralign };
	Elf64_Chdr header;

	if (sh->sh_type == SHT_NOBITS || sh->sh_offset > c->file_size ||
	    sh->sh_size > c->file_size - sh->sh_offset || c->count == MAX_SECTIONS)
		return false;
	s.from = c->file + sh->sh_offset;
	if (sh->sh_flags & SHF_COMPRESSED) {
		if (sh->sh_size < sizeof(header))
			return false;
		memcpy(&header, s.from, sizeof(header));
		s.is_packed = true;
		s.from += sizeof(header);
		s.packed -= sizeof(header);
		s.size = header.ch_size;
		s.align = header.ch_addralign;
		if (header.ch_type != ELFCOMPRESS_ZLIB ||
		    s.size / MAX_RATIO > sh->sh_size)
			return false;
	}
	c->sections[c->count++] = s;
	return s.size <= MAX_UNPACKED;
}

/* False: nothing is compressed, or libdw is to see the file itself. Units in files of
 * their own (.debug_addr) and what is shared (.gnu_debugaltlink) are found from the path
 * of this one; .zdebug_ is the older way. */
static bool find_sections(struct image *c)
{
	const Elf64_Ehdr *h;
	const Elf64_Shdr *table = section_table(c, &h);
	bool any = false;

	for (uint32_t i = 0; table && i < h->e_shnum; i++)
		any |= (table[i].sh_flags & SHF_COMPRESSED) != 0;
	if (!any)
		return false;
	for (uint32_t i = 0; i < h->e_shnum; i++) {
		const char *name = name_of(c, &table[h->e_shstrndx], &table[i]);

		if (!name || strcmp(name, ".debug_addr") == 0 ||
		    strcmp(name, ".gnu_debugaltlink") == 0 ||
		    strncmp(name, ".zdebug_", 8) == 0)
			return false;
		if (is_needed(name) && !add_section(c, &table[i], name))
			return false;
	}
	return c->count > 0;
}

/* ---- making the image ---- */

static int most_work_first(const void *a, const void *b)
{
	const struct section *x = a, *y = b;

	if (x->is_packed != y->is_packed)
		return x->is_packed ? -1 : 1;
	return x->packed > y->packed ? -1 : x->packed < y->packed ? 1 : 0;
}

static uint64_t aligned(uint64_t n, uint64_t align)
{
	return (n + align - 1) & ~(align - 1);
}

/* Where everything will be. False: too large. */
static bool lay_out(struct image *c)
{
	uint64_t at = sizeof(Elf64_Ehdr) + (c->count + 2) * sizeof(Elf64_Shdr);

	qsort(c->sections, c->count, sizeof(*c->sections), most_work_first);
	at += sizeof(".shstrtab") + 1;
	for (size_t i = 0; i < c->count; i++)
		at += strlen(c->sections[i].name) + 1;
	for (size_t i = 0; i < c->count && at <= MAX_UNPACKED; i++) {
		at = c->sections[i].to = aligned(at, 64);
		at += c->sections[i].size;
	}
	c->size = at;
	return at <= MAX_UNPACKED;
}

static uint32_t add_name(char *names, uint64_t *used, const char *name)
{
	uint32_t at = (uint32_t)*used;

	memcpy(names + at, name, strlen(name) + 1);
	*used += strlen(name) + 1;
	return at;
}

static void write_headers(struct image *c)
{
	Elf64_Ehdr *h = (void *)c->bytes;
	Elf64_Shdr *table = (void *)(c->bytes + sizeof(*h));
	size_t n = c->count + 2, last = n - 1;
	char *names = (char *)(table + n);
	uint64_t used = 1;

	memcpy(h, c->file, sizeof(*h));
	h->e_phoff = h->e_phnum = 0;
	h->e_shoff = sizeof(*h);
	h->e_shnum = (Elf64_Half)n;
	h->e_shstrndx = (Elf64_Half)last;
	for (size_t i = 0; i < c->count; i++)
		table[i + 1] = (Elf64_Shdr){
			.sh_name = add_name(names, &used, c->sections[i].name),
			.sh_type = SHT_PROGBITS,
			.sh_offset = c->sections[i].to,
			.sh_size = c->sections[i].size,
			.sh_addralign = c->sections[i].align,
		};
	table[last] = (Elf64_Shdr){
		.sh_name = add_name(names, &used, ".shstrtab"),
		.sh_type = SHT_STRTAB,
		.sh_offset = (uint64_t)(names - (char *)c->bytes),
		.sh_size = used,
		.sh_addralign = 1,
	};
}

#ifdef SEEP_LIBDEFLATE
static bool unpack(const struct section *s, uint8_t *to)
{
	struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
	bool ok = d && libdeflate_zlib_decompress(d, s->from, s->packed, to, s->size,
						  NULL) == LIBDEFLATE_SUCCESS;

	if (d)
		libdeflate_free_decompressor(d);
	return ok;
}
#else
static bool unpack(const struct section *s, uint8_t *to)
{
	uLongf size = s->size;

	return uncompress(to, &size, s->from, s->packed) == Z_OK && size == s->size;
}
#endif

static void *fill_some(void *arg)
{
	struct image *c = arg;
	size_t i;

	while ((i = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed)) <
	       c->count) {
		const struct section *s = &c->sections[i];
		uint8_t *to = c->bytes + s->to;

		if (!s->is_packed)
			memcpy(to, s->from, s->size);
		else if (!unpack(s, to))
			atomic_store_explicit(&c->failed, true, memory_order_relaxed);
	}
	return NULL;
}

static size_t threads_for(const struct image *c)
{
	cpu_set_t cpus;
	size_t n = 0, usable;

	while (n < c->count && n < MAX_THREADS && c->sections[n].is_packed &&
	       c->sections[n].packed >= SMALL)
		n++;
	if (n < 2 || sched_getaffinity(0, sizeof(cpus), &cpus) != 0)
		return 1;
	usable = (size_t)CPU_COUNT(&cpus);
	return n < usable ? n : usable;
}

static bool fill(struct image *c)
{
	pthread_t threads[MAX_THREADS];
	size_t n = threads_for(c), started = 0;

	while (started + 1 < n &&
	       pthread_create(&threads[started], NULL, fill_some, c) == 0)
		started++;
	fill_some(c);
	while (started > 0)
		pthread_join(threads[--started], NULL);
	return !atomic_load_explicit(&c->failed, memory_order_relaxed);
}

/* In huge pages where they may be had: it is all written at once. */
static uint8_t *map_image(uint64_t size, struct dwarf_image *out)
{
	uint8_t *start;

	out->size = size + HUGE_PAGE;
	out->memory = mmap(NULL, out->size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (out->memory == MAP_FAILED)
		return NULL;
	start = (uint8_t *)aligned((uintptr_t)out->memory, HUGE_PAGE);
	if (size >= HUGE_PAGE)
		madvise(start, size & ~(HUGE_PAGE - 1), MADV_HUGEPAGE);
	return start;
}

Dwarf *dwarf_unpack(const void *file, size_t size, struct dwarf_image *out)
{
	struct image c = { .file = file, .file_size = size };
	Dwarf *dwarf = NULL;

	*out = (struct dwarf_image){ 0 };
	if (!find_sections(&c) || !lay_out(&c) || !(c.bytes = map_image(c.size, out)))
		return NULL;
	write_headers(&c);
	if (fill(&c))
		out->elf = elf_memory((char *)c.bytes, c.size);
	if (out->elf)
		dwarf = dwarf_begin_elf(out->elf, DWARF_C_READ, NULL);
	if (!dwarf)
		dwarf_image_free(out);
	return dwarf;
}

void dwarf_image_free(struct dwarf_image *image)
{
	if (image->elf)
		elf_end(image->elf);
	if (image->size)
		munmap(image->memory, image->size);
	*image = (struct dwarf_image){ 0 };
}
