/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dynsym: see dynsym.h. The GNU hash table:
 *
 *   | nbuckets first nbloom shift | bloom .... | bucket .... | hash of each symbol .... |
 *
 * A bucket is the number of its first symbol; the hashes from there on belong to it, up
 * to one whose lowest bit is set. That bit does not count otherwise.
 */
#include "profiler/stack/dynsym.h"

#include <string.h>
#include <sys/auxv.h>

#define VERSION_HIDDEN 0x8000u

struct tables {
	const uint32_t *hash;
	const ElfW(Sym) * symbols;
	const char *strings;
	const ElfW(Half) * versions; /* NULL: none */
};

static uint32_t hash_of(const char *name)
{
	uint32_t h = 5381;

	for (; *name; name++)
		h = h * 33 + (unsigned char)*name;
	return h;
}

/* The loader has made addresses of what is in the file, but not everywhere (vdso). */
static uintptr_t address(uintptr_t bias, uintptr_t value)
{
	return value < bias ? bias + value : value;
}

static bool find_tables(uintptr_t bias, const ElfW(Dyn) * d, struct tables *out)
{
	memset(out, 0, sizeof(*out));
	for (; d && d->d_tag != DT_NULL; d++) {
		uintptr_t at = address(bias, d->d_un.d_ptr);

		if (d->d_tag == DT_GNU_HASH)
			out->hash = (const uint32_t *)at;
		else if (d->d_tag == DT_SYMTAB)
			out->symbols = (const ElfW(Sym) *)at;
		else if (d->d_tag == DT_STRTAB)
			out->strings = (const char *)at;
		else if (d->d_tag == DT_VERSYM)
			out->versions = (const ElfW(Half) *)at;
	}
	return out->hash && out->symbols && out->strings;
}

static bool is_it(const struct tables *t, uint32_t i, const char *name)
{
	return t->symbols[i].st_shndx != SHN_UNDEF &&
	       !(t->versions && (t->versions[i] & VERSION_HIDDEN)) &&
	       strcmp(t->strings + t->symbols[i].st_name, name) == 0;
}

bool dynsym_find_at(uintptr_t bias, uintptr_t dynamic, const char *name,
		    uintptr_t *out_start, size_t *out_size)
{
	const uint32_t hash = hash_of(name);
	const uint32_t *buckets, *hashes;
	struct tables t;
	uint32_t i;

	if (!find_tables(bias, (const ElfW(Dyn) *)dynamic, &t) || t.hash[0] == 0)
		return false;
	buckets = t.hash + 4 + (size_t)t.hash[2] * (sizeof(ElfW(Addr)) / 4);
	hashes = buckets + t.hash[0];
	i = buckets[hash % t.hash[0]];
	if (i < t.hash[1])
		return false;
	for (;; i++) {
		uint32_t h = hashes[i - t.hash[1]];

		if ((h | 1) == (hash | 1) && is_it(&t, i, name)) {
			*out_start = bias + t.symbols[i].st_value;
			*out_size = t.symbols[i].st_size;
			return true;
		}
		if (h & 1)
			return false;
	}
}

bool dynsym_find(const struct dl_phdr_info *info, const char *name, uintptr_t *out_start,
		 size_t *out_size)
{
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			return dynsym_find_at(info->dlpi_addr,
					      info->dlpi_addr +
						      info->dlpi_phdr[i].p_vaddr,
					      name, out_start, out_size);
	return false;
}

uintptr_t dynsym_find_in_vdso(const char *name)
{
	const uintptr_t base = getauxval(AT_SYSINFO_EHDR);
	const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)base;
	const ElfW(Phdr) * p;
	uintptr_t bias = 0, dynamic = 0, start;
	size_t size;

	if (!base)
		return 0;
	p = (const ElfW(Phdr) *)(base + head->e_phoff);
	for (int i = 0; i < head->e_phnum; i++)
		if (p[i].p_type == PT_LOAD && bias == 0)
			bias = base + p[i].p_offset - p[i].p_vaddr;
		else if (p[i].p_type == PT_DYNAMIC)
			dynamic = p[i].p_vaddr;
	if (!bias || !dynamic ||
	    !dynsym_find_at(bias, bias + dynamic, name, &start, &size))
		return 0;
	return start;
}
