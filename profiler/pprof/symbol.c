/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbol: names of code addresses, see symbol.h.
 *
 * Structure: one sorted table per module, made at the first lookup in that module; the
 * file stays mapped then, because the names are in it. Whether a module has names at all
 * is answered without a table.
 *
 * Concurrency: one lock; a table that was made is not changed again. Reports of the
 * process's end and of the live agent may run at the same time.
 */
#include "profiler/pprof/symbol.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/pprof/elfsym.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define CHUNK		  64
#define CHUNKS		  64 /* as many modules as module.c keeps */
#define MAX_PLAIN	  1024
#define DESCRIBE_NAME_MAX 512
#define MAX_LOG_FRAMES	  40

enum known { KNOWN_NOT, KNOWN_NO, KNOWN_YES };

struct file {
	char *bytes; /* NULL: not open */
	size_t size;
};

struct names {
	struct elf_symbols symbols;
	struct file file; /* that the names are in */
	bool made;
	uint8_t has_names; /* enum known */
};

/* A name that the file spells with a version, foo@@V1, without it. */
struct plain {
	const struct plain *next;
	const char *versioned;
	char text[];
};

typedef char *(*demangler)(const char *, char *, size_t *, int *);

static struct {
	demangler demangle; /* of the copy; written under the lock of all checks */
	bool copied;
	struct lock lock; /* guards the rest */
	struct names *chunks[CHUNKS];
	const struct plain *plain;
	uint32_t nplain;
} state = { .lock = LOCK_INIT(LOCK_RANK_PROFILE) };

/* ---- files ---- */

static struct file file_map(const char *path)
{
	int fd = os_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	long size = fd >= 0 ? os_file_size(fd) : -1;
	struct file f = { 0 };

	if (size > 0)
		f.bytes = os_map_file(fd, (size_t)size, false);
	if (f.bytes)
		f.size = (size_t)size;
	if (fd >= 0)
		os_close(fd);
	return f;
}

static void file_unmap(struct file *f)
{
	if (f->bytes)
		os_unmap(f->bytes, align_up(f->size, OS_PAGE));
	f->bytes = NULL;
}

/* The file m was loaded from; the one at its path may be another by now. */
static struct file file_of(const struct module *m)
{
	bool is_program = m->id == 0 && !m->foreign;
	const char *paths[] = { is_program ? "/proc/thread-self/exe" : m->path, m->path };

	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		struct file f = { 0 };

		if (paths[i][0] == '/')
			f = file_map(paths[i]);
		if (f.bytes && elf_is_file_of(f.bytes, f.size, m))
			return f;
		file_unmap(&f);
	}
	return (struct file){ 0 };
}

/* ---- tables ---- */

static struct names *names_of(const struct module *m)
{
	struct names **chunk;

	if (m->id >= CHUNK * CHUNKS)
		return NULL;
	chunk = &state.chunks[m->id / CHUNK];
	if (!*chunk)
		*chunk = meta_alloc(CHUNK * sizeof(**chunk), 8, META_PPROF);
	return *chunk ? &(*chunk)[m->id % CHUNK] : NULL;
}

static void read_symbols(struct names *n, const struct module *m)
{
	struct file f = file_of(m);

	if (f.bytes && (elf_read_packed(&n->symbols, f.bytes, f.size) ||
			elf_read_image(&n->symbols, f.bytes, f.size) == 0)) {
		file_unmap(&f);
		if (n->symbols.count > 0)
			return;
	}
	n->file = f;
	if (!f.bytes && !m->foreign)
		elf_read_loaded(&n->symbols, m);
}

static void make(struct names *n, const struct module *m)
{
	n->made = true;
	n->symbols.base = m->start - m->bias;
	read_symbols(n, m);
	elf_sort(&n->symbols);
	n->has_names = n->symbols.count > 0 ? KNOWN_YES : KNOWN_NO;
}

static struct names *table_of(const struct module *m)
{
	struct names *n = names_of(m);

	if (n && !n->made)
		make(n, m);
	return n;
}

static bool has_names(const struct module *m)
{
	struct names *n = names_of(m);
	struct file f;

	if (!n)
		return false;
	if (n->has_names == KNOWN_NOT && m->permanent && elf_loaded_has_functions(m))
		n->has_names = KNOWN_YES; /* without opening the file */
	if (n->has_names == KNOWN_NOT) {
		f = file_of(m);
		if (f.bytes && elf_has_functions(f.bytes, f.size))
			n->has_names = KNOWN_YES;
		file_unmap(&f);
	}
	if (n->has_names == KNOWN_NOT)
		table_of(m); /* small: a loaded image's dynamic symbols, or nothing */
	return n->has_names == KNOWN_YES;
}

bool symbol_module_has_names(const struct module *m)
{
	bool has;

	lock_acquire(&state.lock);
	has = has_names(m);
	lock_release(&state.lock);
	return has;
}

void symbol_rest(void)
{
	lock_acquire(&state.lock);
	for (size_t i = 0; i < CHUNKS; i++) {
		const struct names *n = state.chunks[i];

		for (size_t k = 0; n && k < CHUNK; k++)
			if (n[k].file.bytes)
				os_purge(n[k].file.bytes,
					 align_up(n[k].file.size, OS_PAGE));
	}
	lock_release(&state.lock);
}

/* What another thread was changing at the fork is forgotten, not repaired. */
void symbol_fork_child(void)
{
	if (!lock_is_held(&state.lock))
		return;
	memset(state.chunks, 0, sizeof(state.chunks));
	state.plain = NULL;
	state.nplain = 0;
	lock_reset(&state.lock);
}

/* ---- lookups ---- */

static const char *without_version(const char *name)
{
	const char *at = strchr(name, '@');
	size_t size = at ? (size_t)(at - name) : 0;
	struct plain *p;

	if (size == 0 || state.nplain == MAX_PLAIN)
		return name;
	for (const struct plain *old = state.plain; old; old = old->next)
		if (old->versioned == name)
			return old->text;
	p = meta_alloc(sizeof(*p) + size + 1, 8, META_PPROF);
	if (!p)
		return name;
	memcpy(p->text, name, size);
	p->versioned = name;
	p->next = state.plain;
	state.plain = p;
	state.nplain++;
	return p->text;
}

static void look_up(const struct module *m, uintptr_t pc, struct symbol *out)
{
	const struct names *n;
	const struct elf_symbol *sym;

	out->module = m;
	out->offset = pc - m->bias;
	n = table_of(m);
	sym = n ? elf_search(&n->symbols, out->offset) : NULL;
	if (sym) {
		out->function = without_version(elf_name(&n->symbols, sym));
		out->start = m->bias + n->symbols.base + sym->start;
		out->size = sym->size;
	}
}

bool symbol_lookup(uintptr_t pc, struct symbol *out)
{
	const struct module *m = module_find(pc);

	memset(out, 0, sizeof(*out));
	if (!m)
		return false;
	lock_acquire(&state.lock);
	look_up(m, pc, out);
	lock_release(&state.lock);
	return true;
}

uintptr_t symbol_find(const char *function)
{
	const struct module *program = module_count() > 0 ? module_at(0) : NULL;
	const struct names *n;
	uintptr_t found = 0;

	lock_acquire(&state.lock);
	n = program ? table_of(program) : NULL;
	for (size_t i = 0; n && i < n->symbols.count && found == 0; i++) {
		const struct elf_symbol *sym = &n->symbols.list[i];

		if (strcmp(elf_name(&n->symbols, sym), function) == 0)
			found = program->bias + n->symbols.base + sym->start;
	}
	lock_release(&state.lock);
	return found;
}

/* ---- text ---- */

/* Where there is none dlsym() would keep a message for the calling thread, which for the
 * live agent nobody would ever free. */
static demangler find_demangler(void)
{
	for (uint32_t i = 0; i < module_count(); i++) {
		const struct module *m = module_at(i);

		if (!m->unloaded && (strstr(m->path, "/libstdc++.so") ||
				     strstr(m->path, "/libc++abi.so")))
			return (demangler)(uintptr_t)dlsym(RTLD_DEFAULT,
							   "__cxa_demangle");
	}
	return NULL;
}

void symbol_prepare_copy(void)
{
	state.demangle = find_demangler();
}

void symbol_copied(void)
{
	state.copied = true;
	symbol_fork_child();
}

const char *symbol_demangle(const char *name, char *buf, size_t size)
{
	demangler fn;
	char *text = NULL;
	int status = -1;

	if (name[0] != '_' || name[1] != 'Z' || size == 0)
		return name;
	thread_internal_enter();
	fn = state.copied ? state.demangle : find_demangler();
	if (fn)
		text = fn(name, NULL, NULL, &status);
	if (text && status == 0)
		fmt_string(buf, size, "%s", text);
	else
		buf = NULL;
	free(text);
	thread_internal_leave();
	return buf ? buf : name;
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

void symbol_describe(uintptr_t pc, char *buf, size_t size)
{
	struct symbol s;
	char text[DESCRIBE_NAME_MAX];

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

void symbol_log_stack(uint32_t site)
{
	char text[640];

	for (int i = 0; site && i < MAX_LOG_FRAMES; site = site_parent(site), i++) {
		uintptr_t pc = site_pc(site);

		symbol_describe(pc <= FRAME_PSEUDO_MAX ? pc : pc - 1, text, sizeof(text));
		log_line("    #%d %s", i, text);
	}
	if (site)
		log_line("    ... %u more frames", site_depth(site));
}
