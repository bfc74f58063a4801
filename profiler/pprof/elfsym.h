/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfsym: the function symbols of an ELF file, or of a loaded image whose file is gone,
 * as one sorted table. The file is not trusted: every offset in it is checked.
 */
#ifndef PROFILER_PPROF_ELFSYM_H
#define PROFILER_PPROF_ELFSYM_H

#include "preload/base/base.h"
#include "profiler/stack/module.h"

/* Sixteen bytes, because large programs have a million of them. */
struct elf_symbol {
	uint32_t start; /* address in the file, less the table's base */
	uint32_t size;	/* bytes; where the file says 0, up to the next function */
	uint32_t name;	/* offset in the table's names */
	uint32_t rank;	/* of names for one address: lower is better */
};

struct elf_symbols {
	struct elf_symbol
		*list; /* sorted by start after elf_sort(), one for each start */
	size_t count, capacity;
	uint64_t base;	   /* file address that start counts from: the module's lowest */
	const char *names; /* the file's bytes, or a loaded image's string table */
};

/* DUMP. Appends the functions of .symtab and .dynsym of a file's bytes, which must stay
 * mapped as long as the table is used. Returns how many; not yet sorted. */
size_t elf_read_image(struct elf_symbols *out, const char *image, size_t size);
/* DUMP. The same for a file whose .symtab is packed in .gnu_debugdata, with what .dynsym
 * has beside it. The names are in memory of ours, for good. 0: nothing is packed there.
 */
size_t elf_read_packed(struct elf_symbols *out, const char *image, size_t size);
/* DUMP. Would elf_read_image() find any? Stops at the first. */
bool elf_has_functions(const char *image, size_t size);
/* DUMP. Is this the file that m was loaded from? Compares build-ids or, where m has none,
 * the places of the executable segments. */
bool elf_is_file_of(const char *image, size_t size, const struct module *m);
/* DUMP. Appends the dynamic symbols of a loaded module, read from its memory. */
size_t elf_read_loaded(struct elf_symbols *out, const struct module *m);
/* DUMP. Would elf_read_loaded() find any? */
bool elf_loaded_has_functions(const struct module *m);
/* DUMP. Sorts, keeps the best name of each address; call once, after the last read. */
void elf_sort(struct elf_symbols *s);
/* DUMP. The function that holds a file address, or NULL. Logarithmic. */
const struct elf_symbol *elf_search(const struct elf_symbols *s, uint64_t addr);
/* FAST. Its name, terminated. */
static inline const char *elf_name(const struct elf_symbols *s,
				   const struct elf_symbol *sym)
{
	return s->names + sym->name;
}

#endif
