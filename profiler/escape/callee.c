/* SPDX-License-Identifier: Apache-2.0 */
/*
 * callee: see callee.h. A call to another module goes through an entry of the global
 * offset table, directly or by a stub of the procedure linkage table; the relocation of
 * that entry has the name. A call inside the module is looked up like any address.
 */
#include "profiler/escape/callee.h"

#include <elf.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "profiler/pprof/symbol.h"
#include "profiler/stack/module.h"

#define CALL_REL   5  /* bytes: e8 and a displacement */
#define CALL_GOT   6  /* ff 15 and a displacement */
#define STUB_BYTES 16 /* of a linkage table's entry */

struct dynamic {
	const Elf64_Rela *lists[2];
	size_t counts[2];
	size_t nrelative; /* of lists[1], at its start: these have no symbol */
	const Elf64_Sym *symbols;
	const char *strings;
	size_t strings_size;
};

/* A displacement is from the instruction's end. */
static uintptr_t relative(uintptr_t end)
{
	int32_t d;

	memcpy(&d, (const void *)(end - sizeof(d)), sizeof(d));
	return end + (uintptr_t)(intptr_t)d;
}

static bool starts_with(uintptr_t at, const char *bytes, size_t n)
{
	return memcmp((const void *)at, bytes, n) == 0;
}

/* The entry of the offset table that a linkage stub jumps through; 0: it is no stub. */
static uintptr_t entry_of_stub(uintptr_t at)
{
	if (!module_find_code(at) || !module_find_code(at + STUB_BYTES - 1))
		return 0;
	if (starts_with(at, "\xf3\x0f\x1e\xfa", 4)) /* endbr64 */
		at += 4;
	if (starts_with(at, "\xf2", 1)) /* bnd */
		at++;
	return starts_with(at, "\xff\x25", 2) ? relative(at + CALL_GOT) : 0;
}

/* The loader has made some of these addresses absolute. */
static uintptr_t address(const struct module *m, uint64_t value)
{
	return value >= m->start && value < m->end ? value : m->bias + value;
}

static void read_dynamic(struct dynamic *out, const struct module *m)
{
	*out = (struct dynamic){ .strings = NULL };
	for (const Elf64_Dyn *d = (const Elf64_Dyn *)m->dynamic; d->d_tag != DT_NULL;
	     d++) {
		const void *at = (const void *)address(m, d->d_un.d_ptr);

		if (d->d_tag == DT_JMPREL)
			out->lists[0] = at;
		else if (d->d_tag == DT_PLTRELSZ)
			out->counts[0] = d->d_un.d_val / sizeof(Elf64_Rela);
		else if (d->d_tag == DT_RELA)
			out->lists[1] = at;
		else if (d->d_tag == DT_RELASZ)
			out->counts[1] = d->d_un.d_val / sizeof(Elf64_Rela);
		else if (d->d_tag == DT_RELACOUNT)
			out->nrelative = d->d_un.d_val;
		else if (d->d_tag == DT_SYMTAB)
			out->symbols = at;
		else if (d->d_tag == DT_STRTAB)
			out->strings = at;
		else if (d->d_tag == DT_STRSZ)
			out->strings_size = d->d_un.d_val;
	}
}

/* The symbol whose address the loader puts into the word at entry. */
static const char *bound_name(uintptr_t entry)
{
	const struct module *m = module_find(entry);
	struct dynamic d;

	if (!m || !m->dynamic || m->foreign || atomic_load_relaxed(&m->unloaded))
		return NULL;
	read_dynamic(&d, m);
	if (!d.symbols || !d.strings)
		return NULL;
	for (size_t i = 0; i < ARRAY_LEN(d.lists); i++)
		for (size_t k = i ? d.nrelative : 0; d.lists[i] && k < d.counts[i]; k++) {
			const Elf64_Rela *r = &d.lists[i][k];
			uint64_t symbol = ELF64_R_SYM(r->r_info);

			if (r->r_offset + m->bias == entry && symbol != 0 &&
			    d.symbols[symbol].st_name < d.strings_size)
				return d.strings + d.symbols[symbol].st_name;
		}
	return NULL;
}

const char *callee_name(uintptr_t ra)
{
	struct symbol sym;
	uintptr_t target, entry;

	if (!module_find_code(ra - 1) || !module_find_code(ra - CALL_GOT))
		return NULL;
	if (starts_with(ra - CALL_GOT, "\xff\x15", 2))
		return bound_name(relative(ra));
	if (!starts_with(ra - CALL_REL, "\xe8", 1))
		return NULL;
	target = relative(ra);
	entry = entry_of_stub(target);
	if (entry)
		return bound_name(entry);
	return symbol_lookup(target, &sym) && sym.start == target ? sym.function : NULL;
}
