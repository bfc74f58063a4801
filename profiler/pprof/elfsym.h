/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfsym: the function symbols of an ELF file, or of a loaded image whose file is gone.
 * The file is not trusted: every offset is checked.
 */
#ifndef PROFILER_PPROF_ELFSYM_H
#define PROFILER_PPROF_ELFSYM_H

#include "preload/base/base.h"
#include "profiler/stack/module.h"

struct elf_symbol {
	uint64_t start, size; /* address in the file; size 0: up to the next */
	const char *name;     /* terminated; lives as long as the mapping */
	uint8_t rank;	      /* of names for one address: lower is better */
};

struct elf_symbols {
	struct elf_symbol *list; /* sorted by start, one for each start */
	size_t count, capacity;
	const char *image; /* the mapped file, kept for the names; NULL: none */
	size_t image_size;
};

/* DUMP. Reads .symtab and .dynsym of the bytes of a file. Returns symbols found; they are
 * appended, not yet sorted. */
size_t elf_read_image(struct elf_symbols *out, const char *image, size_t size);
/* DUMP. Does the file carry this build-id? True when the module has none. */
bool elf_has_build_id(const char *image, size_t size, const struct module *m);
/* DUMP. Reads the dynamic symbols of a loaded module from memory. */
size_t elf_read_loaded(struct elf_symbols *out, const struct module *m);
/* DUMP. Sorts and removes duplicates; call once, at the end. */
void elf_sort(struct elf_symbols *s);

#endif
