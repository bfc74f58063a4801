/* SPDX-License-Identifier: Apache-2.0 */
/*
 * foreign: pointers that are not ours but reach our free, realloc or malloc_usable_size:
 * blocks of libc's own allocator (made through another namespace, or by code that found
 * libc's malloc behind our back) go to libc; anything else is a mistake of the program.
 */
#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "preload/api/api.h"
#include "preload/base/check.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"

#pragma weak _dl_find_object

static struct {
	void (*free)(void *p); /* libc's; NULL: not found */
	size_t (*usable_size)(void *p);
} libc;

void *api_next_symbol(const char *name)
{
	void *fn = dlsym(RTLD_NEXT, name);
	void *handle;

	if (fn)
		return fn;
	/* A C++ runtime that came with dlopen(RTLD_LOCAL). */
	handle = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD);
	if (!handle)
		return NULL;
	fn = dlsym(handle, name);
	dlclose(handle);
	return fn;
}

/* Of a program that is not position-independent: its references to other modules. */
struct references {
	const Elf64_Sym *symbols;
	const char *names;
	const Elf64_Rela *lists[2]; /* of calls, of data */
	size_t sizes[2];	    /* bytes */
};

static void read_references(const Elf64_Dyn *d, struct references *out)
{
	*out = (struct references){ .symbols = NULL };
	for (; d->d_tag != DT_NULL; d++) {
		const void *at = (const void *)d->d_un.d_ptr;

		if (d->d_tag == DT_SYMTAB)
			out->symbols = at;
		else if (d->d_tag == DT_STRTAB)
			out->names = at;
		else if (d->d_tag == DT_JMPREL)
			out->lists[0] = at;
		else if (d->d_tag == DT_PLTRELSZ)
			out->sizes[0] = d->d_un.d_val;
		else if (d->d_tag == DT_RELA)
			out->lists[1] = at;
		else if (d->d_tag == DT_RELASZ)
			out->sizes[1] = d->d_un.d_val;
	}
}

static bool has_plt_entry(const struct references *r, uintptr_t fn)
{
	for (unsigned k = 0; k < ARRAY_LEN(r->lists) && r->symbols && r->names; k++)
		for (size_t i = 0; i < r->sizes[k] / sizeof(Elf64_Rela); i++) {
			const uint64_t n = ELF64_R_SYM(r->lists[k][i].r_info);
			const Elf64_Sym *symbol = &r->symbols[n];

			if (symbol->st_value == fn && symbol->st_shndx == SHN_UNDEF &&
			    strcmp(r->names + symbol->st_name, "malloc") == 0)
				return true;
		}
	return false;
}

/* The program comes first, and is all that is looked at. */
static int find_plt_entry(struct dl_phdr_info *info, size_t size, void *arg)
{
	const uintptr_t fn = *(const uintptr_t *)arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum && info->dlpi_addr == 0; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC) {
			struct references r;

			read_references((const void *)info->dlpi_phdr[i].p_vaddr, &r);
			return has_plt_entry(&r, fn) ? 2 : 1;
		}
	return 1;
}

/* The answer is our own malloc; or, in a program that is not position-independent and
 * takes malloc's address (python3 is one), the program's PLT entry, whose symbol is not
 * defined there: calls of it reach us. dladdr() would go through all of the program's
 * symbols, which takes node a millisecond. */
bool api_is_bound(void)
{
	uintptr_t fn = (uintptr_t)dlsym(RTLD_DEFAULT, "malloc");

	return fn && (fn == (uintptr_t)api_own_malloc ||
		      dl_iterate_phdr(find_plt_entry, &fn) == 2);
}

/* What is mapped at the address that is searched for. */
struct where {
	uintptr_t addr;
	uintptr_t lo, hi; /* of the mapping */
	char kind; /* 0 unmapped, 's' stack, 'f' file (code, data), 'a' anonymous */
	bool readable;
};

static char kind_of(const struct os_mapping *m)
{
	if (m->path && strncmp(m->path, "[stack", 6) == 0)
		return 's';
	return m->path && m->path[0] == '/' ? 'f' : 'a';
}

static bool look_at_line(char *line, void *arg)
{
	struct where *w = arg;
	struct os_mapping m;

	if (!os_parse_mapping(line, &m))
		return true;
	if (w->addr >= m.hi)
		return true;
	if (w->addr < m.lo)
		return false;
	w->lo = m.lo;
	w->hi = m.hi;
	w->readable = m.readable;
	w->kind = kind_of(&m);
	return false;
}

/* The public layout of glibc's chunks: two words before the block. */
struct chunk {
	size_t previous;       /* of a mapped chunk: bytes in front of it */
	size_t size_and_flags; /* size, a multiple of 16, and the flags below */
};
#define CHUNK_PREVIOUS_INUSE 1u
#define CHUNK_MAPPED	     2u
#define CHUNK_OTHER_ARENA    4u
#define CHUNK_ARENA_ALIGN    (64 * MIB)

/* Does the word before p say that a block of libc's starts there? */
static bool is_chunk(const struct where *w)
{
	uintptr_t start = w->addr - sizeof(struct chunk), end;
	const struct chunk *c = (const void *)start;
	size_t size;

	if (!w->readable || start < w->lo)
		return false;
	size = c->size_and_flags & ~(size_t)15;
	if (size < 2 * sizeof(*c) || size > w->hi - start)
		return false;
	end = start + size;
	if (c->size_and_flags & CHUNK_MAPPED) {
		const size_t before = c->previous & ~(size_t)15;

		/* From glibc 2.43 on without two words at the mapping's end. */
		return before <= start - w->lo && (start - before) % OS_PAGE == 0 &&
		       (end % OS_PAGE == 0 || (end + sizeof(*c)) % OS_PAGE == 0);
	}
	if (c->size_and_flags & CHUNK_OTHER_ARENA &&
	    align_down(start, CHUNK_ARENA_ALIGN) < w->lo)
		return false;
	/* The chunk behind it knows that it is in use. */
	return w->hi - end >= sizeof(*c) &&
	       ((const struct chunk *)end)->size_and_flags & CHUNK_PREVIOUS_INUSE;
}

/* In what the loader has mapped, also for what is zero at start (glibc 2.35 tells). */
static bool is_in_module(const void *p)
{
	struct dl_find_object found;

	return _dl_find_object && _dl_find_object((void *)(uintptr_t)p, &found) == 0;
}

/* Dies unless p may be a block of libc's: aligned, in anonymous memory, and with a header
 * that looks like libc's. */
static void require_plausible(const void *p, const char *what)
{
	struct where w = { .addr = (uintptr_t)p };

	if ((uintptr_t)p % 16 != 0)
		fatal("invalid %s of %p: not aligned", what, p);
	if (os_each_line("/proc/thread-self/maps", look_at_line, &w) < 0)
		return; /* no /proc: libc will judge */
	if (w.kind == 0)
		fatal("invalid %s of %p: nothing is there", what, p);
	if (w.kind == 's' || ((uintptr_t)p >= (uintptr_t)__builtin_frame_address(0) &&
			      (uintptr_t)p < (uintptr_t)__builtin_thread_pointer()))
		fatal("invalid %s of %p: on the stack", what, p);
	if (w.kind == 'a' && is_chunk(&w))
		return;
	if (w.kind == 'f' || is_in_module(p))
		fatal("invalid %s of %p: in a program's or library's own memory", what,
		      p);
	fatal("invalid %s of %p: no block of any malloc", what, p);
}

static void foreign_free(void *p)
{
	require_plausible(p, "free");
	if (libc.free)
		libc.free(p);
}

static size_t libc_usable_size(const void *p)
{
	void *q;

	memcpy(&q, &p, sizeof(q)); /* libc's prototype has no const */
	return libc.usable_size ? libc.usable_size(q) : 0;
}

static size_t foreign_usable_size(const void *p)
{
	require_plausible(p, "malloc_usable_size");
	return libc_usable_size(p);
}

/* The block moves to our heap. */
static void *foreign_realloc(void *p, size_t size)
{
	size_t old_size;
	void *fresh;

	require_plausible(p, "realloc");
	old_size = libc_usable_size(p);
	fresh = heap_malloc(size);
	if (!fresh)
		return NULL;
	memcpy(fresh, p, old_size < size ? old_size : size);
	foreign_free(p);
	return fresh;
}

void foreign_init(void)
{
	void *p;

	p = dlsym(RTLD_NEXT, "free");
	memcpy(&libc.free, &p, sizeof(p));
	p = dlsym(RTLD_NEXT, "malloc_usable_size");
	memcpy(&libc.usable_size, &p, sizeof(p));
	heap_foreign = (struct heap_foreign){ .free = foreign_free,
					      .realloc = foreign_realloc,
					      .usable_size = foreign_usable_size };
}
