/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dataname: see dataname.h. The variables of a file are looked up one at a time, without
 * a table of their own: a report names few of them. The file mapped last stays mapped.
 */
#include "profiler/escape/dataname.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"
#include "profiler/escape/tls_block.h"
#include "profiler/pprof/elfsym.h"
#include "profiler/stack/module.h"

static struct {
	const struct module *module; /* of the mapping, also when it failed */
	const char *bytes;	     /* NULL: cannot be read */
	size_t size;
} file;

static void open_file(const struct module *m)
{
	const char *path = m->id == 0 ? "/proc/thread-self/exe" : m->path;
	int fd;
	long size;
	char *bytes;

	if (file.module == m)
		return;
	if (file.bytes)
		os_unmap((void *)(uintptr_t)file.bytes, align_up(file.size, OS_PAGE));
	file.module = m;
	file.bytes = NULL;
	if (path[0] != '/')
		return;
	fd = os_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	size = fd >= 0 ? os_file_size(fd) : -1;
	bytes = size > 0 ? os_map_file(fd, (size_t)size, false) : NULL;
	if (fd >= 0)
		os_close(fd);
	if (bytes && !elf_is_file_of(bytes, (size_t)size, m)) {
		os_unmap(bytes, align_up((uintptr_t)size, OS_PAGE));
		bytes = NULL;
	}
	file.bytes = bytes;
	file.size = bytes ? (size_t)size : 0;
}

static bool inside(uint64_t offset, uint64_t length)
{
	return offset <= file.size && length <= file.size - offset;
}

static bool section(const Elf64_Ehdr *h, size_t i, Elf64_Shdr *out)
{
	if (i >= h->e_shnum || h->e_shentsize != sizeof(*out) ||
	    !inside(h->e_shoff, (uint64_t)h->e_shnum * sizeof(*out)))
		return false;
	memcpy(out, file.bytes + h->e_shoff + i * sizeof(*out), sizeof(*out));
	return out->sh_type == SHT_NOBITS || inside(out->sh_offset, out->sh_size);
}

/* In one symbol table: the variable of this type that value lies in. */
static const char *search(const Elf64_Shdr *table, const Elf64_Shdr *strings,
			  unsigned type, uint64_t value, uint64_t *out_offset)
{
	const char *text = file.bytes + strings->sh_offset;

	if (strings->sh_size == 0 || text[strings->sh_size - 1] != '\0')
		return NULL;
	for (uint64_t i = 0; i < table->sh_size / sizeof(Elf64_Sym); i++) {
		Elf64_Sym s;

		memcpy(&s, file.bytes + table->sh_offset + i * sizeof(s), sizeof(s));
		if (ELF64_ST_TYPE(s.st_info) != type || s.st_shndx == SHN_UNDEF ||
		    value - s.st_value >= s.st_size || s.st_name >= strings->sh_size)
			continue;
		*out_offset = value - s.st_value;
		return text + s.st_name;
	}
	return NULL;
}

static const char *find(const struct module *m, unsigned type, uint64_t value,
			uint64_t *out_offset)
{
	Elf64_Ehdr h;
	Elf64_Shdr table, strings;
	const char *name = NULL;

	open_file(m);
	if (!file.bytes || file.size < sizeof(h))
		return NULL;
	memcpy(&h, file.bytes, sizeof(h));
	for (size_t i = 0; i < h.e_shnum && !name; i++)
		if (section(&h, i, &table) &&
		    (table.sh_type == SHT_SYMTAB || table.sh_type == SHT_DYNSYM) &&
		    section(&h, table.sh_link, &strings) && strings.sh_type == SHT_STRTAB)
			name = search(&table, &strings, type, value, out_offset);
	return name;
}

static void say(const struct module *m, unsigned type, uint64_t value, char *buf,
		size_t size)
{
	uint64_t offset;
	const char *name = find(m, type, value, &offset), *base = strrchr(m->path, '/');

	if (name && offset == 0)
		fmt_string(buf, size, "%s", name);
	else if (name)
		fmt_string(buf, size, "%s+%llu", name, (unsigned long long)offset);
	else
		fmt_string(buf, size, "%s+0x%llx", base ? base + 1 : m->path,
			   (unsigned long long)value);
}

void dataname_global(uintptr_t addr, char *buf, size_t size)
{
	const struct module *m = module_find(addr);

	buf[0] = '\0';
	if (m)
		say(m, STT_OBJECT, addr - m->bias, buf, size);
}

void dataname_tls(uintptr_t below, char *buf, size_t size)
{
	buf[0] = '\0';
	for (size_t i = 0; i < tls_block_count(); i++) {
		const struct tls_block *b = tls_block_at(i);
		const struct module *m = module_find(b->code);

		if (m && b->below - below < b->size)
			say(m, STT_TLS, b->below - below, buf, size);
	}
}
