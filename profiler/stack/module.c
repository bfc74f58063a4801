/* SPDX-License-Identifier: Apache-2.0 */
/*
 * module: the table of loaded objects, see module.h.
 *
 * Structure: records in an append-only array of chunks, and a sorted array of code
 * segments that module_find_code() searches. A change publishes another array; old ones
 * stay, since a signal handler may be searching one, and are published again when the
 * same set of objects is back: a program that loads and unloads for ever needs no more of
 * them.
 *
 * Concurrency: writers hold the loader's lock (they run inside dl_iterate_phdr) and then
 * ours, in this order; nobody calls the loader with ours held. module_learn() does
 * without the loader's lock: what it enters cannot go away meanwhile, as its caller
 * returns there.
 */
#include "profiler/stack/module.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

#include "preload/base/atomic.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/stack/loader.h"

#pragma weak _dl_find_object

#define CHUNK_MODULES 64
#define CHUNKS	      64 /* 4096 modules; later ones stay unknown */

struct code_segment {
	uintptr_t start, end;
	const struct module *module;
};

struct code_map {
	const struct code_map *older; /* published before */
	uint32_t count;
	struct code_segment segments[];
};

static struct {
	struct lock lock;
	struct module *chunks[CHUNKS]; /* atomic publication through count */
	uint32_t count;		       /* atomic, release */
	const struct code_map *map;    /* atomic, release */
	const struct code_map *newest; /* guarded by lock: of all arrays, through older */
	struct code_map *draft;	       /* guarded by lock: the next array is made here */
	uint32_t draft_room;	       /* segments */
	uint64_t generation;	       /* guarded by lock */
	bool changed;		       /* guarded by lock: map is out of date */
	uintptr_t own;		       /* an address inside this library */
	uintptr_t vdso;		       /* where the kernel's own object is */
	uintptr_t loader;	       /* where the dynamic loader is; 0: none */
} modules = { .lock = LOCK_INIT(LOCK_RANK_MODULE) };

void (*module_hook)(const struct module *m);

static void tell(const struct module *m)
{
	if (module_hook)
		module_hook(m);
}

uint32_t module_count(void)
{
	return atomic_load_acquire(&modules.count);
}

static struct module *at(uint32_t id)
{
	return &modules.chunks[id / CHUNK_MODULES][id % CHUNK_MODULES];
}

const struct module *module_at(uint32_t id)
{
	return at(id);
}

/* ---- reading one object's program headers ---- */

static void read_notes(struct module *m, uintptr_t addr, size_t size)
{
	while (size >= sizeof(ElfW(Nhdr))) {
		const ElfW(Nhdr) *n = (const void *)addr;
		size_t name = align_up(n->n_namesz, 4), desc = align_up(n->n_descsz, 4);
		size_t all = sizeof(*n) + name + desc;

		if (all > size)
			return;
		if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 &&
		    memcmp(n + 1, "GNU", 4) == 0 && n->n_descsz <= MODULE_BUILD_ID_MAX) {
			memcpy(m->build_id, (const char *)(n + 1) + name, n->n_descsz);
			m->build_id_size = n->n_descsz;
			return;
		}
		addr += all;
		size -= all;
	}
}

static void read_load(struct module *m, const ElfW(Phdr) * ph)
{
	struct module_segment *s = &m->segments[m->nsegments];
	uintptr_t start = align_down(m->bias + ph->p_vaddr, OS_PAGE);

	if (m->nsegments == MODULE_MAX_SEGMENTS)
		return;
	s->start = start;
	s->end = align_up(m->bias + ph->p_vaddr + ph->p_memsz, OS_PAGE);
	s->file_offset = align_down(ph->p_offset, OS_PAGE);
	s->executable = ph->p_flags & PF_X;
	s->writable = ph->p_flags & PF_W;
	if (m->nsegments == 0 || start < m->start)
		m->start = start;
	if (s->end > m->end)
		m->end = s->end;
	m->nsegments++;
}

static void read_headers(struct module *m, const struct dl_phdr_info *info)
{
	m->bias = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t addr = m->bias + ph->p_vaddr;

		switch (ph->p_type) {
		case PT_LOAD:
			read_load(m, ph);
			break;
		case PT_NOTE:
			if (m->build_id_size == 0)
				read_notes(m, addr, ph->p_memsz);
			break;
		case PT_GNU_EH_FRAME:
			m->eh_frame_hdr = addr;
			break;
		case PT_DYNAMIC:
			m->dynamic = addr;
			break;
		case PT_GNU_RELRO:
			m->relro_start = addr;
			m->relro_end = addr + ph->p_memsz;
			break;
		default:
			break;
		}
	}
	m->is_seep = modules.own >= m->start && modules.own < m->end;
	m->is_loader = modules.loader != 0 && m->bias == modules.loader;
}

/* ---- the table ---- */

static bool same(const struct module *a, const struct module *b, const char *path)
{
	return a->bias == b->bias && a->start == b->start && a->end == b->end &&
	       a->build_id_size == b->build_id_size &&
	       memcmp(a->build_id, b->build_id, a->build_id_size) == 0 &&
	       strcmp(a->path, path) == 0;
}

static const char *keep_string(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = meta_alloc(size, 1, META_STACK);

	return copy ? memcpy(copy, text, size) : "[unknown]";
}

static bool append(struct module *m, const char *path)
{
	uint32_t id = modules.count;

	if (id == CHUNKS * CHUNK_MODULES)
		return false;
	if (id % CHUNK_MODULES == 0) {
		void *chunk = meta_alloc(CHUNK_MODULES * sizeof(*m), 8, META_STACK);

		if (!chunk)
			return false;
		modules.chunks[id / CHUNK_MODULES] = chunk;
	}
	m->id = id;
	m->path = keep_string(path);
	*at(id) = *m;
	atomic_store_release(&modules.count, id + 1);
	modules.changed = true;
	tell(at(id));
	return true;
}

static void enter(struct module *m, const char *path)
{
	for (uint32_t i = modules.count; i > 0; i--) {
		struct module *old = at(i - 1);

		if (!same(old, m, path))
			continue;
		old->generation = modules.generation;
		if (old->unloaded) {
			atomic_store_release(&old->unloaded, false);
			modules.changed = true;
			tell(old);
		}
		return;
	}
	m->generation = modules.generation;
	m->permanent = modules.generation == 1;
	append(m, path);
}

/* The file of an object; the program's name in the loader's list is empty. */
static const char *path_of(const struct dl_phdr_info *info, char *buf, size_t size)
{
	if (info->dlpi_name[0] == '/')
		return info->dlpi_name;
	if (info->dlpi_phnum > 0 && modules.vdso == info->dlpi_addr)
		return "[vdso]";
	if (info->dlpi_name[0] != '\0')
		return strstr(info->dlpi_name, "vdso") ? "[vdso]" : info->dlpi_name;
	os_program(buf, size);
	return buf[0] ? buf : "[program]";
}

static int see(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct module m = { 0 };
	char buf[512];

	(void)size;
	(void)arg;
	read_headers(&m, info);
	if (m.nsegments == 0)
		return 0;
	lock_acquire(&modules.lock);
	enter(&m, path_of(info, buf, sizeof(buf)));
	lock_release(&modules.lock);
	return 0;
}

/* ---- the code map ---- */

static void sort_insert(struct code_map *map, const struct module_segment *s,
			const struct module *m)
{
	uint32_t i = map->count++;

	for (; i > 0 && map->segments[i - 1].start > s->start; i--)
		map->segments[i] = map->segments[i - 1];
	map->segments[i] = (struct code_segment){ s->start, s->end, m };
}

static size_t map_bytes(uint32_t count)
{
	return sizeof(struct code_map) + count * sizeof(struct code_segment);
}

static bool make_draft(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < modules.count; i++)
		n += at(i)->unloaded ? 0 : at(i)->nsegments;
	if (n > modules.draft_room || !modules.draft) {
		modules.draft_room = 2 * n;
		modules.draft = meta_alloc(map_bytes(2 * n), 8, META_STACK);
	}
	if (!modules.draft)
		return false;
	modules.draft->count = 0;
	for (uint32_t i = 0; i < modules.count; i++) {
		const struct module *m = at(i);

		for (uint32_t k = 0; !m->unloaded && k < m->nsegments; k++)
			if (m->segments[k].executable)
				sort_insert(modules.draft, &m->segments[k], m);
	}
	return true;
}

static const struct code_map *find_published(const struct code_map *draft)
{
	const struct code_map *map = modules.newest;

	while (map && (map->count != draft->count ||
		       memcmp(map->segments, draft->segments,
			      draft->count * sizeof(draft->segments[0])) != 0))
		map = map->older;
	return map;
}

static void publish_map(void)
{
	const struct code_map *known;
	struct code_map *map;

	if (!make_draft())
		return;
	known = find_published(modules.draft);
	if (!known) {
		map = meta_alloc(map_bytes(modules.draft->count), 8, META_STACK);
		if (!map)
			return;
		memcpy(map, modules.draft, map_bytes(modules.draft->count));
		map->older = modules.newest;
		modules.newest = map;
		known = map;
	}
	atomic_store_release(&modules.map, known);
	modules.changed = false;
}

void module_refresh(void)
{
	/* Not from inside the walk: who interposes it may call the loader. */
	uintptr_t vdso = getauxval(AT_SYSINFO_EHDR), loader = getauxval(AT_BASE);
	uint64_t mine;

	if (!loader_is_usable())
		return;
	lock_acquire(&modules.lock);
	modules.own = (uintptr_t)&module_refresh;
	modules.vdso = vdso;
	modules.loader = loader;
	mine = ++modules.generation;
	lock_release(&modules.lock);
	dl_iterate_phdr(see, NULL);
	lock_acquire(&modules.lock);
	for (uint32_t i = 0; i < modules.count; i++) {
		struct module *m = at(i);

		/* Another thread's refresh may have begun, and seen some, meanwhile. */
		if (m->generation < mine && !m->unloaded) {
			atomic_store_release(&m->unloaded, true);
			modules.changed = true;
			tell(m);
		}
	}
	if (modules.changed)
		publish_map();
	lock_release(&modules.lock);
}

const struct module *module_find_code(uintptr_t pc)
{
	const struct code_map *map = atomic_load_acquire(&modules.map);
	uint32_t lo = 0, hi = map ? map->count : 0;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (pc < map->segments[mid].start)
			hi = mid;
		else if (pc >= map->segments[mid].end)
			lo = mid + 1;
		else
			return map->segments[mid].module;
	}
	return NULL;
}

/* The loader's own answer, which takes no lock and is there since glibc 2.35. */
static bool ask_loader(uintptr_t pc, uintptr_t *out_hdr)
{
	struct dl_find_object found;

	if (!_dl_find_object || _dl_find_object((void *)pc, &found) != 0)
		return false;
	*out_hdr = (uintptr_t)found.dlfo_eh_frame;
	return true;
}

/* The program headers of a loaded object, which lie in its first page, as they would be
 * told by dl_iterate_phdr(). */
static bool find_headers(const struct dl_find_object *found, struct dl_phdr_info *out)
{
	const ElfW(Ehdr) *h = found->dlfo_map_start;

	if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 ||
	    h->e_phentsize != sizeof(ElfW(Phdr)) ||
	    h->e_phoff + (size_t)h->e_phnum * sizeof(ElfW(Phdr)) > OS_PAGE)
		return false;
	*out = (struct dl_phdr_info){
		.dlpi_addr = found->dlfo_link_map->l_addr,
		.dlpi_name = found->dlfo_link_map->l_name,
		.dlpi_phdr = (const void *)((const char *)h + h->e_phoff),
		.dlpi_phnum = h->e_phnum,
	};
	return true;
}

bool module_learn(uintptr_t pc)
{
	struct dl_find_object found;
	struct dl_phdr_info info;

	if (module_find_code(pc))
		return true;
	if (!_dl_find_object || _dl_find_object((void *)pc, &found) != 0 ||
	    !found.dlfo_link_map || !find_headers(&found, &info))
		return false;
	see(&info, sizeof(info), NULL);
	lock_acquire(&modules.lock);
	if (modules.changed)
		publish_map();
	lock_release(&modules.lock);
	return module_find_code(pc) != NULL;
}

uintptr_t module_eh_frame_hdr(uintptr_t pc)
{
	const struct module *m = module_find_code(pc);
	uintptr_t hdr;

	if (LIKELY(m != NULL))
		return m->eh_frame_hdr;
	return ask_loader(pc, &hdr) ? hdr : 0;
}

bool module_is_code(uintptr_t pc)
{
	uintptr_t hdr;

	return module_find_code(pc) || ask_loader(pc, &hdr);
}

static bool holds(const struct module *m, uintptr_t addr)
{
	for (uint32_t i = 0; i < m->nsegments; i++)
		if (addr >= m->segments[i].start && addr < m->segments[i].end)
			return true;
	return false;
}

const struct module *module_find(uintptr_t addr)
{
	const struct module *gone = NULL;

	for (uint32_t i = module_count(); i > 0; i--) {
		const struct module *m = at(i - 1);

		if (!holds(m, addr))
			continue;
		if (!atomic_load_acquire(&m->unloaded))
			return m;
		if (!gone)
			gone = m;
	}
	return gone;
}

void module_adopt(const struct module *m, const char *path)
{
	struct module copy = *m;

	copy.foreign = true;
	lock_acquire(&modules.lock);
	append(&copy, path);
	lock_release(&modules.lock);
}

NO_LOCK_CHECK void module_fork_prepare(void)
{
	lock_acquire(&modules.lock);
}

NO_LOCK_CHECK void module_fork_done(bool child)
{
	if (child)
		lock_reset(&modules.lock);
	else
		lock_release(&modules.lock);
}
