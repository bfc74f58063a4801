/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of addresses: of this program, of libraries, of files that are gone or replaced;
 * the choice among symbols in ELF files made here; and files that are damaged, which lie
 * against a page that cannot be read.
 */
#include "tests/unit/cm.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload/base/meta.h"
#include "profiler/pprof/elfsym.h"
#include "profiler/pprof/symbol.h"
#include "profiler/stack/module.h"
#include "profiler/stack/unwind.h"

#define SEED   20261121u
#define ROUNDS 3000

/* ---- this program and its libraries ---- */

static __attribute__((noinline)) int static_function(int a)
{
	__asm__ volatile("" : "+r"(a));
	return a * 3 + 1;
}

int symbol_test_exported(int a);
__attribute__((noinline)) int symbol_test_exported(int a)
{
	__asm__ volatile("" : "+r"(a));
	return a * 5 + 1;
}

static int mangled_function(int a) __asm__("_ZN3foo3barEi")
	__attribute__((noinline, used));
static int mangled_function(int a)
{
	__asm__ volatile("" : "+r"(a));
	return a * 7 + 1;
}

static int setup(void **state)
{
	(void)state;
	module_refresh();
	return static_function(0) + symbol_test_exported(0) + mangled_function(0) == 3
		       ? 0
		       : -1;
}

static void check_name(uintptr_t pc, const char *name)
{
	struct symbol s;

	assert_true(symbol_lookup(pc, &s));
	assert_non_null(s.function);
	assert_string_equal(s.function, name);
	assert_true(pc >= s.start);
	assert_true(s.size == 0 || pc < s.start + s.size);
	assert_ptr_equal(s.module, module_find(pc));
	assert_int_equal(s.offset, pc - s.module->bias);
}

static void test_program(void **state)
{
	(void)state;
	for (size_t i = 0; i < 4; i++) {
		check_name((uintptr_t)static_function + i, "static_function");
		check_name((uintptr_t)symbol_test_exported + i, "symbol_test_exported");
		check_name((uintptr_t)mangled_function + i, "_ZN3foo3barEi");
	}
	assert_true(symbol_module_has_names(module_at(0)));
}

static void test_library(void **state)
{
	/* puts is also _IO_puts, write also __write: the plain one is what a caller
	 * wrote. */
	static const char *const names[] = { "qsort", "puts", "write", "strtol" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);

		check_name((uintptr_t)dlsym(libc, names[i]) + 2, names[i]);
		dlclose(libc);
	}
}

/* Against the loader's own answer, for everything that libc exports. */
static void test_against_dladdr(void **state)
{
	/* Not from RTLD_DEFAULT: a sanitizer has functions of the same names. */
	void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
	const struct module *m = module_find((uintptr_t)dlsym(libc, "qsort"));
	size_t compared = 0;

	(void)state;
	assert_non_null(m);
	for (uintptr_t pc = m->start; pc < m->end; pc += 4099) {
		struct symbol s;
		Dl_info info;

		symbol_lookup(pc, &s);
		if (!dladdr((void *)pc, &info) || !info.dli_sname || !s.function)
			continue;
		if ((uintptr_t)info.dli_saddr != s.start) /* .symtab knows a nearer one */
			assert_true(s.start > (uintptr_t)info.dli_saddr);
		compared++;
	}
	assert_true(compared > 50);
	dlclose(libc);
}

static void test_vdso(void **state)
{
	void *h = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
	void *fn = h ? dlsym(h, "__vdso_clock_gettime") : NULL;
	struct symbol s;

	(void)state;
	if (!fn)
		skip();
	assert_true(symbol_lookup((uintptr_t)fn + 1, &s));
	assert_non_null(s.function);
	assert_non_null(strstr(s.function, "clock_gettime"));
	assert_true(symbol_module_has_names(s.module));
}

static void test_describe(void **state)
{
	static int data = 1;
	char buf[256], tiny[4];
	struct symbol s;
	int local = 0;

	(void)state;
	symbol_describe((uintptr_t)static_function + 3, buf, sizeof(buf));
	assert_ptr_equal(strstr(buf, "static_function+0x3"), buf);
	symbol_describe(FRAME_TRUNCATED_PC, buf, sizeof(buf));
	assert_string_equal(buf, "[truncated]");
	symbol_describe(FRAME_JIT_PC, buf, sizeof(buf));
	assert_string_equal(buf, "[jit]");
	symbol_describe(0x12345, buf, sizeof(buf));
	assert_string_equal(buf, "0x12345");
	symbol_describe((uintptr_t)&data, buf, sizeof(buf));
	assert_non_null(strstr(buf, "+0x")); /* module and offset */
	symbol_describe((uintptr_t)static_function, tiny, sizeof(tiny));
	assert_string_equal(tiny, "sta");
	assert_false(symbol_lookup(0, &s));
	assert_null(s.module);
	assert_false(symbol_lookup((uintptr_t)&local, &s));
	assert_true(symbol_lookup((uintptr_t)&data, &s)); /* a module, but no function */
	assert_null(s.function);
}

static void test_demangle(void **state)
{
	static const char mangled[] = "_ZN3foo3barEi", broken[] = "_ZZZZ",
			  plain[] = "malloc";
	char buf[64], small[6];

	(void)state;
	if (!dlsym(RTLD_DEFAULT, "__cxa_demangle"))
		assert_ptr_equal(symbol_demangle(mangled, buf, sizeof(buf)), mangled);
	if (!dlopen("libstdc++.so.6", RTLD_NOW | RTLD_GLOBAL))
		skip();
	module_refresh();
	assert_string_equal(symbol_demangle(mangled, buf, sizeof(buf)), "foo::bar(int)");
	assert_ptr_equal(symbol_demangle(mangled, small, sizeof(small)), small);
	assert_string_equal(small, "foo::");
	assert_ptr_equal(symbol_demangle(broken, buf, sizeof(buf)), broken);
	assert_ptr_equal(symbol_demangle(plain, buf, sizeof(buf)), plain);
	assert_ptr_equal(symbol_demangle("", buf, sizeof(buf)), "");
}

/* ---- files that are gone or others by now ---- */

static char *read_file(const char *path, size_t *out_size)
{
	FILE *f = fopen(path, "rb");
	char *bytes;
	long size;

	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	size = ftell(f);
	rewind(f);
	bytes = malloc((size_t)size);
	assert_int_equal(fread(bytes, 1, (size_t)size, f), size);
	fclose(f);
	*out_size = (size_t)size;
	return bytes;
}

static void write_file(const char *path, const char *bytes, size_t size)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, size, f), size);
	assert_int_equal(fclose(f), 0);
}

/* Loads a copy of a library, replaces or removes it, and asks for an exported name. */
static void check_lost_file(const char *other)
{
	const char *tmp = getenv("TMPDIR");
	void *real = dlopen("libresolv.so.2", RTLD_NOW | RTLD_LOCAL), *copy;
	struct link_map *map;
	char dir[300], path[320], *bytes;
	uintptr_t pc;
	size_t size;

	if (!real)
		skip();
	assert_int_equal(dlinfo(real, RTLD_DI_LINKMAP, &map), 0);
	bytes = read_file(map->l_name, &size);
	snprintf(dir, sizeof(dir), "%s/seep-symbol-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/lib.so", dir);
	write_file(path, bytes, size);
	free(bytes);
	copy = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	assert_non_null(copy);
	module_refresh();
	pc = (uintptr_t)dlsym(copy, "ns_parserr") + 4;
	assert_string_equal(module_find(pc)->path, path);
	assert_int_equal(unlink(path), 0);
	if (other) {
		bytes = read_file(other, &size);
		write_file(path, bytes, size);
		free(bytes);
	}
	check_name(pc, "ns_parserr");
	assert_true(symbol_module_has_names(module_find(pc)));
	dlclose(copy);
	dlclose(real);
	unlink(path);
	assert_int_equal(rmdir(dir), 0);
}

static void test_file_gone(void **state)
{
	(void)state;
	check_lost_file(NULL);
}

static void test_file_replaced(void **state)
{
	(void)state;
	check_lost_file("/proc/self/exe");
}

/* ---- ELF files made here ---- */

#define TEXT_ADDR 0x1000u
#define TEXT_SIZE 0x1000u

struct wanted {
	const char *name;
	unsigned char bind, type;
	uint16_t section;
	uint64_t value, size;
};

struct made {
	Elf64_Ehdr header;
	Elf64_Shdr sections[5]; /* none, .text, .symtab, .strtab, .init */
	Elf64_Sym symbols[32];
	char strings[1024];
};

static void make_elf(struct made *e, const struct wanted *w, size_t n)
{
	size_t used = 1;

	memset(e, 0, sizeof(*e));
	memcpy(e->header.e_ident, ELFMAG, SELFMAG);
	e->header.e_ident[EI_CLASS] = ELFCLASS64;
	e->header.e_ident[EI_DATA] = ELFDATA2LSB;
	e->header.e_shoff = offsetof(struct made, sections);
	e->header.e_shentsize = sizeof(Elf64_Shdr);
	e->header.e_shnum = 5;
	e->sections[1] = (Elf64_Shdr){ .sh_type = SHT_NOBITS,
				       .sh_addr = TEXT_ADDR,
				       .sh_size = TEXT_SIZE };
	e->sections[2] = (Elf64_Shdr){ .sh_type = SHT_SYMTAB,
				       .sh_link = 3,
				       .sh_offset = offsetof(struct made, symbols),
				       .sh_size = (n + 1) * sizeof(Elf64_Sym) };
	e->sections[3] = (Elf64_Shdr){ .sh_type = SHT_STRTAB,
				       .sh_offset = offsetof(struct made, strings),
				       .sh_size = sizeof(e->strings) };
	e->sections[4] =
		(Elf64_Shdr){ .sh_type = SHT_NOBITS, .sh_addr = 0x800, .sh_size = 0x20 };
	for (size_t i = 0; i < n; i++) {
		e->symbols[i + 1] = (Elf64_Sym){ .st_name = (uint32_t)used,
						 .st_info = (unsigned char)ELF64_ST_INFO(
							 w[i].bind, w[i].type),
						 .st_shndx = w[i].section,
						 .st_value = w[i].value,
						 .st_size = w[i].size };
		strcpy(e->strings + used, w[i].name);
		used += strlen(w[i].name) + 1;
	}
}

static const char *found(const struct elf_symbols *s, uint64_t addr)
{
	const struct elf_symbol *sym = elf_search(s, addr);

	return sym ? elf_name(s, sym) : "-";
}

static void drop(struct elf_symbols *s)
{
	if (s->list)
		meta_unmap(s->list, s->capacity * sizeof(*s->list), META_PPROF);
	memset(s, 0, sizeof(*s));
}

static void test_choice(void **state)
{
	static const struct wanted w[] = {
		{ "object", STB_GLOBAL, STT_OBJECT, 1, 0x1000, 64 },
		{ "absent", STB_GLOBAL, STT_FUNC, SHN_UNDEF, 0x1000, 64 },
		{ "", STB_GLOBAL, STT_FUNC, 1, 0x1000, 64 },
		/* the global name, whatever its order and however long */
		{ "a", STB_LOCAL, STT_FUNC, 1, 0x1100, 16 },
		{ "global_one", STB_GLOBAL, STT_FUNC, 1, 0x1100, 16 },
		/* no underscore, then not weak, then shorter, then the alphabet */
		{ "__write", STB_GLOBAL, STT_FUNC, 1, 0x1200, 16 },
		{ "write", STB_WEAK, STT_FUNC, 1, 0x1200, 16 },
		{ "versioned@@V1", STB_GLOBAL, STT_FUNC, 1, 0x1300, 16 },
		{ "versioned", STB_GLOBAL, STT_FUNC, 1, 0x1300, 16 },
		{ "zz", STB_GLOBAL, STT_GNU_IFUNC, 1, 0x1400, 16 },
		{ "yy", STB_GLOBAL, STT_FUNC, 1, 0x1400, 16 },
		/* the size of an alias */
		{ "sizeless", STB_GLOBAL, STT_FUNC, 1, 0x1500, 0 },
		{ "_sized", STB_LOCAL, STT_FUNC, 1, 0x1500, 0x20 },
		/* one inside another */
		{ "outer", STB_GLOBAL, STT_FUNC, 1, 0x1600, 0x100 },
		{ "inner", STB_GLOBAL, STT_FUNC, 1, 0x1640, 0x10 },
		/* no size: to the next, or to the end of the section */
		{ "tail", STB_GLOBAL, STT_FUNC, 1, 0x1800, 0 },
		{ "next", STB_GLOBAL, STT_FUNC, 1, 0x1900, 0 },
		{ "init", STB_GLOBAL, STT_FUNC, 4, 0x810, 0 },
	};
	static const struct {
		uint64_t addr;
		const char *name;
	} expected[] = {
		{ 0, "-" },
		{ 0x80f, "-" },
		{ 0x810, "init" },
		{ 0x81f, "init" },
		{ 0x820, "-" },
		{ 0x1000, "-" },
		{ 0x1100, "global_one" },
		{ 0x110f, "global_one" },
		{ 0x1110, "-" },
		{ 0x1205, "write" },
		{ 0x1301, "versioned" },
		{ 0x1401, "yy" },
		{ 0x151f, "sizeless" },
		{ 0x1520, "-" },
		{ 0x1600, "outer" },
		{ 0x1645, "inner" },
		{ 0x1650, "outer" },
		{ 0x16ff, "outer" },
		{ 0x1700, "-" },
		{ 0x18ff, "tail" },
		{ 0x1900, "next" },
		{ 0x1fff, "next" },
		{ 0x2000, "-" },
		{ UINT64_MAX, "-" },
	};
	struct elf_symbols s = { 0 };
	struct made e;

	(void)state;
	make_elf(&e, w, ARRAY_LEN(w));
	assert_true(elf_has_functions((const char *)&e, sizeof(e)));
	assert_int_equal(elf_read_image(&s, (const char *)&e, sizeof(e)),
			 ARRAY_LEN(w) - 3);
	elf_sort(&s);
	for (size_t i = 0; i < ARRAY_LEN(expected); i++)
		assert_string_equal(found(&s, expected[i].addr), expected[i].name);
	drop(&s);
}

static void test_no_functions(void **state)
{
	static const struct wanted w[] = { { "object", STB_GLOBAL, STT_OBJECT, 1, 0x1000,
					     64 } };
	struct elf_symbols s = { 0 };
	struct made e;

	(void)state;
	make_elf(&e, w, 1);
	assert_false(elf_has_functions((const char *)&e, sizeof(e)));
	assert_int_equal(elf_read_image(&s, (const char *)&e, sizeof(e)), 0);
	elf_sort(&s);
	assert_null(elf_search(&s, 0x1000));
	drop(&s);
	/* Every beginning of a good file. */
	for (size_t size = 0; size < sizeof(e); size += 7) {
		elf_read_image(&s, (const char *)&e, size);
		drop(&s);
	}
}

/* ---- damaged files ---- */

struct guarded {
	char *map, *end; /* the page at end cannot be touched */
	size_t map_size;
};

static struct guarded guarded_make(size_t size)
{
	struct guarded g;
	size_t whole = align_up(size, OS_PAGE);

	g.map_size = whole + OS_PAGE;
	g.map = mmap(NULL, g.map_size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(g.map != MAP_FAILED);
	g.end = g.map + whole;
	assert_int_equal(mprotect(g.end, OS_PAGE, PROT_NONE), 0);
	return g;
}

/* Reads the file and uses what came of it. */
static void exercise(const char *bytes, size_t size, const struct module *m)
{
	struct elf_symbols s = { .base = m->start - m->bias };
	size_t n = elf_read_image(&s, bytes, size);

	assert_int_equal(n, s.count);
	elf_has_functions(bytes, size);
	elf_is_file_of(bytes, size, m);
	elf_sort(&s);
	assert_true(s.count <= n);
	for (size_t i = 0; i < s.count; i++) {
		const char *name = elf_name(&s, &s.list[i]);

		assert_true(name > bytes && name + strlen(name) < bytes + size);
		assert_true(i == 0 || s.list[i - 1].start < s.list[i].start);
	}
	for (uint64_t addr = 0; addr < 1u << 20; addr += 997)
		elf_search(&s, addr);
	drop(&s);
}

static uint32_t next(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 4;
}

/* Somewhere in the headers more often than elsewhere. */
static size_t place(uint32_t *seed, const Elf64_Ehdr *h, size_t size)
{
	uint32_t r = next(seed);

	switch (r % 4) {
	case 0:
		return r / 4 % sizeof(*h);
	case 1:
		return h->e_phoff + r / 4 % (h->e_phnum * sizeof(Elf64_Phdr));
	case 2:
		return h->e_shoff + r / 4 % (h->e_shnum * sizeof(Elf64_Shdr));
	default:
		return r / 4 % size;
	}
}

/* Another byte: any, or one bit away. */
static unsigned damage(uint32_t *seed, unsigned byte)
{
	return next(seed) & 1 ? next(seed) & 0xff : byte ^ 1u << next(seed) % 8;
}

static void test_damaged(void **state)
{
	struct link_map *map;
	void *real = dlopen("libresolv.so.2", RTLD_NOW | RTLD_LOCAL);
	const struct module *m;
	uint32_t seed = SEED;
	char *good, *copy;
	struct guarded g;
	Elf64_Ehdr h;
	size_t size;

	(void)state;
	if (!real)
		skip();
	module_refresh();
	assert_int_equal(dlinfo(real, RTLD_DI_LINKMAP, &map), 0);
	m = module_find(map->l_addr);
	good = read_file(map->l_name, &size);
	memcpy(&h, good, sizeof(h));
	g = guarded_make(size);
	copy = g.end - size;
	memcpy(copy, good, size);
	assert_true(elf_is_file_of(copy, size, m));
	assert_true(elf_has_functions(copy, size));
	print_message("# seed %u, %d rounds\n", SEED, ROUNDS);
	for (int round = 0; round < ROUNDS; round++) {
		size_t at[8], n = 1 + next(&seed) % ARRAY_LEN(at);

		for (size_t i = 0; i < n; i++) {
			at[i] = place(&seed, &h, size);
			copy[at[i]] = (char)damage(&seed, (unsigned char)copy[at[i]]);
		}
		exercise(copy, size, m);
		for (size_t i = 0; i < n; i++)
			copy[at[i]] = good[at[i]];
	}
	assert_memory_equal(copy, good, size);
	/* Cut off anywhere: what follows the last byte is the guard. */
	for (int round = 0; round < 300; round++) {
		size_t cut = next(&seed) % size;

		memmove(g.end - cut, good, cut);
		exercise(g.end - cut, cut, m);
	}
	munmap(g.map, g.map_size);
	free(good);
	dlclose(real);
}

/* What chance alone does not hit: names without an end in a file's last bytes, and
 * offsets that wrap around. */
static void test_hostile(void **state)
{
	static const struct wanted w[] = { { "name", STB_GLOBAL, STT_FUNC, 1, 0x1000,
					     64 } };
	const uint64_t wrapped = (uint64_t)0 - 4096;
	struct guarded g = guarded_make(sizeof(struct made));
	struct made *e = (void *)(g.end - sizeof(*e));
	const struct module *m = module_at(0);

	(void)state;
	make_elf(e, w, 1);
	memset(e->strings + 1, 'x', sizeof(e->strings) - 1);
	exercise((const char *)e, sizeof(*e), m);
	assert_false(elf_has_functions((const char *)e, sizeof(*e)));
	for (size_t i = 2; i <= 3; i++) {
		make_elf(e, w, 1);
		e->sections[i].sh_offset = wrapped;
		e->sections[i].sh_size = 2 * 4096;
		exercise((const char *)e, sizeof(*e), m);
		assert_false(elf_has_functions((const char *)e, sizeof(*e)));
	}
	make_elf(e, w, 1);
	e->header.e_shoff = wrapped;
	e->header.e_shnum = 64 + 1;
	e->header.e_phoff = wrapped;
	e->header.e_phnum = 80;
	e->header.e_phentsize = sizeof(Elf64_Phdr);
	exercise((const char *)e, sizeof(*e), m);
	assert_false(elf_has_functions((const char *)e, sizeof(*e)));
	munmap(g.map, g.map_size);
}

static void test_noise(void **state)
{
	struct guarded g = guarded_make(8192);
	uint32_t seed = SEED;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		size_t size = next(&seed) % 8192;
		char *bytes = g.end - size;

		for (size_t i = 0; i < size; i++)
			bytes[i] = (char)(next(&seed) & next(&seed) & 0xff);
		if (size > 8) {
			memcpy(bytes, ELFMAG, SELFMAG);
			bytes[EI_CLASS] = ELFCLASS64;
			bytes[EI_DATA] = ELFDATA2LSB;
		}
		exercise(bytes, size, module_at(0));
	}
	munmap(g.map, g.map_size);
}

/* A module without a build-id is known by the places of its code. */
static void test_same_file(void **state)
{
	struct module m = *module_at(0);
	char *bytes;
	size_t size;

	(void)state;
	bytes = read_file("/proc/self/exe", &size);
	assert_true(elf_is_file_of(bytes, size, &m));
	m.build_id_size = 0;
	assert_true(elf_is_file_of(bytes, size, &m));
	for (uint32_t i = 0; i < m.nsegments; i++)
		m.segments[i].file_offset += OS_PAGE;
	assert_false(elf_is_file_of(bytes, size, &m));
	m.build_id_size = 20;
	memset(m.build_id, 0x5a, 20);
	assert_false(elf_is_file_of(bytes, size, &m));
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_program),
		cmocka_unit_test(test_library),
		cmocka_unit_test(test_against_dladdr),
		cmocka_unit_test(test_vdso),
		cmocka_unit_test(test_describe),
		cmocka_unit_test(test_demangle),
		cmocka_unit_test(test_file_gone),
		cmocka_unit_test(test_file_replaced),
		cmocka_unit_test(test_choice),
		cmocka_unit_test(test_no_functions),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_same_file),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
