/* SPDX-License-Identifier: Apache-2.0 */
/*
 * datasym: see datasym.h. The file is not trusted: every offset in it is checked.
 */
#include "profiler/pprof/datasym.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"
#include "profiler/pprof/elfsym.h"
#include "profiler/stack/module.h"

struct image {
	const char *bytes;
	size_t size;
};

static bool has(const struct image *f, uint64_t offset, uint64_t size)
{
	return offset <= f->size && size <= f->size - offset;
}

static const Elf64_Shdr *section(const struct image *f, uint32_t i)
{
	const Elf64_Ehdr *h = (const void *)f->bytes;
	uint64_t at = h->e_shoff + (uint64_t)i * sizeof(Elf64_Shdr);

	if (i >= h->e_shnum || at % 8 != 0 || !has(f, h->e_shoff, 0) ||
	    !has(f, at, sizeof(Elf64_Shdr)))
		return NULL;
	return (const void *)(f->bytes + at);
}

/* A terminated name in a string section, or NULL. */
static const char *name_in(const struct image *f, const Elf64_Shdr *strings, uint32_t at)
{
	if (!strings || !has(f, strings->sh_offset, strings->sh_size) ||
	    at >= strings->sh_size ||
	    !memchr(f->bytes + strings->sh_offset + at, 0, strings->sh_size - at))
		return NULL;
	return f->bytes + strings->sh_offset + at;
}

/* The variable of a symbol section that holds addr, an address of the file. */
static const char *search(const struct image *f, const Elf64_Shdr *table, uint64_t addr,
			  uint64_t *out_start)
{
	const Elf64_Sym *list = (const void *)(f->bytes + table->sh_offset);

	if (table->sh_offset % 8 != 0 || !has(f, table->sh_offset, table->sh_size))
		return NULL;
	for (size_t i = 0; i < table->sh_size / sizeof(*list); i++) {
		const char *name;

		if (ELF64_ST_TYPE(list[i].st_info) != STT_OBJECT ||
		    addr - list[i].st_value >= list[i].st_size)
			continue;
		name = name_in(f, section(f, table->sh_link), list[i].st_name);
		if (!name || !*name)
			continue;
		*out_start = list[i].st_value;
		return name;
	}
	return NULL;
}

static const char *search_all(const struct image *f, uint64_t addr, uint64_t *out_start)
{
	static const uint32_t types[] = { SHT_SYMTAB, SHT_DYNSYM };
	const Elf64_Ehdr *h = (const void *)f->bytes;

	for (unsigned t = 0; t < ARRAY_LEN(types); t++)
		for (uint32_t i = 0; i < h->e_shnum; i++) {
			const Elf64_Shdr *s = section(f, i);
			const char *name = NULL;

			if (s && s->sh_type == types[t])
				name = search(f, s, addr, out_start);
			if (name)
				return name;
		}
	return NULL;
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool describe_in_file(const struct module *m, uint64_t addr, char *text,
			     size_t size)
{
	int fd = os_open(m->path, O_RDONLY, 0);
	long bytes = fd >= 0 ? os_file_size(fd) : -1;
	struct image f = { .size = bytes > 0 ? (size_t)bytes : 0 };
	const char *name = NULL;
	uint64_t start = 0;

	if (f.size > sizeof(Elf64_Ehdr))
		f.bytes = os_map_file(fd, f.size, false);
	if (fd >= 0)
		os_close(fd);
	if (!f.bytes)
		return false;
	if (elf_is_file_of(f.bytes, f.size, m))
		name = search_all(&f, addr, &start);
	if (name)
		fmt_string(text, size, "%.200s+0x%lx (%s)", name, addr - start,
			   last_part(m->path));
	os_unmap((void *)(uintptr_t)f.bytes, align_up(f.size, OS_PAGE));
	return name != NULL;
}

bool datasym_describe(uintptr_t addr, char *text, size_t size)
{
	const struct module *m = module_find(addr);

	if (!m)
		return false;
	if (!describe_in_file(m, addr - m->bias, text, size))
		fmt_string(text, size, "data of %s+0x%lx", last_part(m->path),
			   addr - m->bias);
	return true;
}
