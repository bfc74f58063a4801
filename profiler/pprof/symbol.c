/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbol: names of code addresses, see symbol.h.
 *
 * Structure: one sorted table per module, made at the module's first lookup.
 * Concurrency: used by one thread at a time (reports); no locks.
 */
#include "profiler/pprof/symbol.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/pprof/elfsym.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define CHUNK  64
#define CHUNKS 64 /* as many modules as module.c keeps */

struct table {
	struct elf_symbols symbols;
	bool made;
};

static struct {
	struct table *chunks[CHUNKS];
} names;

static bool map_file(const char *path, struct elf_symbols *s)
{
	int fd = os_open(path, O_RDONLY, 0);
	long size = fd >= 0 ? os_file_size(fd) : -1;

	s->image = size > 0 ? os_map_file(fd, (size_t)size, false) : NULL;
	s->image_size = s->image ? (size_t)size : 0;
	if (fd >= 0)
		os_close(fd);
	return s->image != NULL;
}

static void unmap_file(struct elf_symbols *s)
{
	if (s->image)
		os_unmap((void *)(uintptr_t)s->image, s->image_size);
	s->image = NULL;
}

/* The file at the module's path may be another one by now. */
static bool read_file(struct table *t, const struct module *m)
{
	if (m->id != 0 || !map_file("/proc/self/exe", &t->symbols))
		if (!map_file(m->path, &t->symbols))
			return false;
	if (elf_has_build_id(t->symbols.image, t->symbols.image_size, m) &&
	    elf_read_image(&t->symbols, t->symbols.image, t->symbols.image_size) > 0)
		return true;
	unmap_file(&t->symbols);
	return false;
}

static struct table *table_of(const struct module *m)
{
	struct table **chunk = &names.chunks[m->id / CHUNK];
	struct table *t;

	if (m->id >= CHUNK * CHUNKS)
		return NULL;
	if (!*chunk)
		*chunk = meta_alloc(CHUNK * sizeof(**chunk), 8, META_PPROF);
	if (!*chunk)
		return NULL;
	t = &(*chunk)[m->id % CHUNK];
	if (!t->made) {
		t->made = true;
		if (!read_file(t, m))
			elf_read_loaded(&t->symbols, m);
		elf_sort(&t->symbols);
	}
	return t;
}

bool symbol_module_has_names(const struct module *m)
{
	const struct table *t = table_of(m);

	return t && t->symbols.count > 0;
}

/* The last symbol that starts at or before addr, if addr is in it. */
static const struct elf_symbol *search(const struct elf_symbols *s, uint64_t addr)
{
	size_t lo = 0, hi = s->count;
	const struct elf_symbol *sym;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (s->list[mid].start <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == 0)
		return NULL;
	sym = &s->list[lo - 1];
	if (sym->size != 0 && addr - sym->start >= sym->size)
		return NULL;
	return sym;
}

bool symbol_lookup(uintptr_t pc, struct symbol *out)
{
	const struct module *m = module_find(pc);
	const struct table *t;
	const struct elf_symbol *sym;

	memset(out, 0, sizeof(*out));
	if (!m)
		return false;
	out->module = m;
	out->offset = pc - m->bias;
	t = table_of(m);
	sym = t ? search(&t->symbols, out->offset) : NULL;
	if (sym) {
		out->function = sym->name;
		out->start = m->bias + sym->start;
		out->size = sym->size;
	}
	return true;
}

typedef char *(*demangler)(const char *, char *, size_t *, int *);

const char *symbol_demangle(const char *name, char *buf, size_t size)
{
	demangler fn;
	char *text;
	int status = -1;

	if (name[0] != '_' || name[1] != 'Z')
		return name;
	fn = (demangler)(uintptr_t)dlsym(RTLD_DEFAULT, "__cxa_demangle");
	if (!fn)
		return name;
	thread_internal_enter();
	text = fn(name, NULL, NULL, &status);
	if (text && status == 0)
		fmt_string(buf, size, "%s", text);
	free(text);
	thread_internal_leave();
	return status == 0 ? buf : name;
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

void symbol_describe(uintptr_t pc, char *buf, size_t size)
{
	struct symbol s;
	char text[512];

	if (pc <= FRAME_PSEUDO_MAX)
		fmt_string(buf, size, "%s", pc == FRAME_JIT_PC ? "[jit]" : "[truncated]");
	else if (!symbol_lookup(pc, &s))
		fmt_string(buf, size, "%#lx", (unsigned long)pc);
	else if (!s.function)
		fmt_string(buf, size, "%s+%#lx", last_part(s.module->path), s.offset);
	else
		fmt_string(buf, size, "%s+%#lx (%s)",
			   symbol_demangle(s.function, text, sizeof(text)),
			   (unsigned long)(pc - s.start), last_part(s.module->path));
}
