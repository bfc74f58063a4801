/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store: see store.h.
 *
 * Structure: the file grows by regions, each mapped on its own and never moved; chunks
 * are cut from the last region. No descriptor is kept: to grow, the file is opened again
 * by its path, and must still be the same one.
 *
 * A forked child puts copies in the place of all regions, at the same addresses. Nodes
 * and modules are never changed once they count, so they are copied in the child;
 * counters come from a copy that the parent made before the fork. A child of a raw fork
 * system call records nothing: its regions are still the parent's.
 *
 * Concurrency: one lock guards everything but the counts.
 */
#include "profiler/site/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"

#define FIRST_BYTES (256 * KIB) /* one chunk of each kind; tmpfs takes 0.3 ms a MiB */
#define NEXT_BYTES  (512 * KIB)
#define LG_LARGEST  7 /* regions double so often */
#define MAX_REGIONS 64
#define CHUNK_ALIGN CACHE_LINE
#define MILLISECOND 1000000u

struct region {
	char *addr;
	uint64_t offset; /* in the file */
	size_t size;
};

static struct {
	struct lock lock;
	/* guarded by lock */
	struct store_header *header; /* NULL: not open */
	struct region regions[MAX_REGIONS];
	uint32_t nregions;
	size_t used;	 /* of the last region */
	bool is_parents; /* in a child that had no memory to move to */
	uint64_t heads[STORE_LISTS];
	uint64_t device, inode;
	char path[OPT_PATH_MAX + 32];
	/* From before a fork, for the child: copies of what changes, NULL where there is
	 * none, and how many there were. */
	struct {
		char *list;
		size_t bytes;
	} copies[STORE_KINDS];
	uint32_t counts[STORE_KINDS];
} store = { .lock = LOCK_INIT(LOCK_RANK_STORE) };

static const uint8_t always = 1;
const uint8_t *store_own_mark = &always;

/* Without a kernel that clears pages at fork, no child is found out. */
static void mark_as_own(void)
{
	uint8_t *page;

	if (store_own_mark == &always) {
		page = meta_map(OS_PAGE, META_SITE);
		if (!page)
			return;
		if (!os_wipe_on_fork(page, OS_PAGE)) {
			meta_unmap(page, OS_PAGE, META_SITE);
			return;
		}
		store_own_mark = page;
	}
	memcpy(&page, &store_own_mark, sizeof(page)); /* the only writer */
	*page = 1;
}

/* ---- the file ---- */

static bool within_limit(uint64_t size)
{
	uint64_t lim[2] = { UINT64_MAX, UINT64_MAX };

	os_call(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, (long)lim, 0, 0);
	return size <= lim[0]; /* more would raise SIGXFSZ */
}

/* A file system without fallocate: zeros are written. */
static bool write_zeros(int fd, uint64_t offset, size_t size)
{
	const char zeros[512] = { 0 };

	for (size_t at = 0; at < size; at += sizeof(zeros))
		if (os_call(SYS_pwrite64, fd, (long)zeros, sizeof(zeros),
			    (long)(offset + at), 0, 0) != sizeof(zeros))
			return false;
	return true;
}

static char *map_region(int fd, uint64_t offset, size_t size)
{
	long ret;

	if (!within_limit(offset + size))
		return NULL;
	ret = os_call(SYS_fallocate, fd, 0, (long)offset, (long)size, 0, 0);
	if (ret == -EOPNOTSUPP && write_zeros(fd, offset, size))
		ret = 0;
	if (ret != 0)
		return NULL;
	ret = os_call(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		      (long)offset);
	return ret < 0 && ret > -4096 ? NULL : (char *)ret;
}

static bool identify(int fd, uint64_t *out_device, uint64_t *out_inode)
{
	struct stat st = { 0 };

	/* The kernel's layout is libc's on x86-64. */
	if (os_stat(fd, &st) != 0)
		return false;
	*out_device = st.st_dev;
	*out_inode = st.st_ino;
	return true;
}

static int create(const char *path)
{
	int fd;

	if (fmt_string(store.path, sizeof(store.path), "%s", path) >= sizeof(store.path))
		return -ENAMETOOLONG;
	fd = os_open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd >= 0)
		identify(fd, &store.device, &store.inode);
	else
		store.path[0] = '\0';
	return fd;
}

static int open_again(void)
{
	uint64_t device = 0, inode = 0;
	int fd = store.path[0] ? os_open(store.path, O_RDWR | O_NOFOLLOW, 0) : -ENOENT;

	if (fd >= 0 && (!identify(fd, &device, &inode) || device != store.device ||
			inode != store.inode)) {
		os_close(fd);
		return -ENOENT;
	}
	return fd;
}

/* ---- regions and chunks ---- */

static bool add_region(int fd, size_t size)
{
	struct region *r = &store.regions[store.nregions];

	if (store.nregions == MAX_REGIONS)
		return false;
	r->offset = store.nregions ? r[-1].offset + r[-1].size : 0;
	r->size = size;
	r->addr = map_region(fd, r->offset, size);
	if (r->addr && !meta_register_range((uintptr_t)r->addr, size)) {
		os_unmap(r->addr, size);
		r->addr = NULL;
	}
	if (!r->addr)
		return false;
	os_dontdump(r->addr, size);
	store.nregions++;
	store.used = 0;
	return true;
}

static bool grow(size_t least)
{
	uint32_t doubled = store.nregions - 1;
	size_t size = NEXT_BYTES << (doubled < LG_LARGEST ? doubled : LG_LARGEST);
	int fd = open_again();
	bool ok = false;

	if (fd >= 0)
		ok = add_region(fd, least > size ? align_up(least, OS_PAGE) : size);
	if (fd >= 0)
		os_close(fd);
	return ok;
}

static void *cut(size_t size, uint64_t *out_offset)
{
	struct region *r = &store.regions[store.nregions - 1];
	size_t at = align_up(store.used, CHUNK_ALIGN);

	if (at + size > r->size) {
		if (!grow(size))
			return NULL;
		r = &store.regions[store.nregions - 1];
		at = 0;
	}
	store.used = at + size;
	*out_offset = r->offset + at;
	return r->addr + at;
}

static void *chunk_locked(enum store_kind kind, uint32_t index, size_t size)
{
	struct store_header *h = store.header;
	uint64_t offset;
	void *p;

	if (!h || index >= store_directory_size(kind))
		return NULL;
	p = cut(size, &offset);
	if (p)
		atomic_store_release(&store_directory(h, kind)[index], offset);
	else
		atomic_add_relaxed(&h->lost, 1u);
	return p;
}

void *store_chunk(enum store_kind kind, uint32_t index, size_t size)
{
	void *p;

	if (!store.header)
		return NULL;
	lock_acquire(&store.lock);
	p = chunk_locked(kind, index, size);
	lock_release(&store.lock);
	return p;
}

void *store_block(enum store_list list, size_t size)
{
	uint64_t offset, *p = NULL;

	if (!store.header)
		return NULL;
	lock_acquire(&store.lock);
	p = cut(size, &offset);
	if (p) {
		*p = store.heads[list];
		store.heads[list] = offset;
		store.header->lists[list].bytes = size;
		atomic_store_release(&store.header->lists[list].head, offset);
	} else {
		atomic_add_relaxed(&store.header->lost, 1u);
	}
	lock_release(&store.lock);
	return p;
}

void store_note_time(uint64_t now_ns)
{
	struct store_header *h = store.header;

	if (h && now_ns > atomic_load_relaxed(&h->latest_ns) + MILLISECOND)
		atomic_store_relaxed(&h->latest_ns, now_ns);
}

void store_set_count(enum store_kind kind, uint32_t count)
{
	struct store_header *h = store.header;

	if (h)
		atomic_store_release(&h->counts[kind], count);
}

void store_put_region(uint32_t number, uint64_t region)
{
	struct store_header *h = store.header;

	if (h)
		atomic_store_release(&h->regions[number], region);
}

/* The memory behind an offset. */
static char *address_of(uint64_t offset)
{
	for (uint32_t i = 0; i < store.nregions; i++)
		if (offset - store.regions[i].offset < store.regions[i].size)
			return store.regions[i].addr + (offset - store.regions[i].offset);
	return NULL;
}

/* ---- modules ---- */

static void fill_module(struct store_module *s, const struct module *m)
{
	s->bias = m->bias;
	s->start = m->start;
	s->end = m->end;
	for (uint32_t i = 0; i < m->nsegments; i++) {
		s->segments[i].start = m->segments[i].start;
		s->segments[i].end = m->segments[i].end;
		s->segments[i].file_offset = m->segments[i].file_offset;
		s->segments[i].executable = m->segments[i].executable;
		s->segments[i].writable = m->segments[i].writable;
	}
	memcpy(s->build_id, m->build_id, sizeof(s->build_id));
	s->build_id_size = m->build_id_size;
	fmt_string(s->path, sizeof(s->path), "%s", m->path);
	s->unloaded = m->unloaded;
	s->nsegments = m->nsegments;
}

void store_put_module(const struct module *m)
{
	uint32_t index = m->id / STORE_MODULE_CHUNK;
	struct store_module *chunk;

	if (!store.header || index >= STORE_MODULE_CHUNKS)
		return;
	lock_acquire(&store.lock);
	if (store.header->module_chunks[index])
		chunk = (void *)address_of(store.header->module_chunks[index]);
	else
		chunk = chunk_locked(STORE_MODULES, index,
				     STORE_MODULE_CHUNK * sizeof(*chunk));
	if (chunk) {
		fill_module(&chunk[m->id % STORE_MODULE_CHUNK], m);
		if (m->id >= store.header->counts[STORE_MODULES])
			store_set_count(STORE_MODULES, m->id + 1);
	}
	lock_release(&store.lock);
}

/* ---- life ---- */

/* "argv[0] argv[1] ..." */
static void read_command(char *buf, size_t size)
{
	int fd = os_open("/proc/thread-self/cmdline", O_RDONLY, 0);
	long n = fd >= 0 ? os_read(fd, buf, size - 1) : 0;

	if (fd >= 0)
		os_close(fd);
	while (n > 0 && buf[n - 1] == '\0')
		n--;
	for (long i = 0; i < n; i++)
		if (buf[i] == '\0')
			buf[i] = ' ';
	buf[n > 0 ? n : 0] = '\0';
}

static void set_owner(struct store_header *h, const struct store_owner *owner)
{
	h->pid = owner->pid;
	h->row = owner->row;
	h->started_ns = os_realtime_ns();
	fmt_string(h->name, sizeof(h->name), "%s", owner->name);
}

bool store_open(const struct store_owner *owner, uint64_t period,
		const struct store_shape shapes[STORE_KINDS])
{
	int fd = owner->path ? create(owner->path) : -ENOENT;
	struct store_header *h;

	if (fd < 0)
		return false;
	if (!add_region(fd, FIRST_BYTES)) {
		os_close(fd);
		store_remove();
		return false;
	}
	os_close(fd);
	store.used = sizeof(*h);
	h = (void *)store.regions[0].addr;
	h->header_bytes = sizeof(*h);
	memcpy(h->shapes, shapes, sizeof(h->shapes));
	h->shapes[STORE_MODULES] = STORE_MODULE_SHAPE;
	h->period = period;
	h->version = STORE_VERSION;
	set_owner(h, owner);
	read_command(h->command, sizeof(h->command));
	fmt_string(h->out, sizeof(h->out), "%s", opt_get()->out);
	store.header = h;
	mark_as_own();
	atomic_store_release(&h->magic, STORE_MAGIC);
	return true;
}

bool store_is_open(void)
{
	return store.header != NULL;
}

void store_remove(void)
{
	if (store.path[0])
		os_unlink(store.path);
	store.path[0] = '\0';
}

/* ---- fork ---- */

/* Of the chunk with that index: numbers begin with 1, the last one is count itself. */
static size_t bytes_in_chunk(struct store_shape shape, uint32_t count, uint32_t index)
{
	uint64_t first = (uint64_t)index * shape.chunk, n;

	if (count < first)
		return 0;
	n = count - first + 1;
	return (size_t)(n < shape.chunk ? n : shape.chunk) * shape.bytes;
}

/* Entries of the directory that there were before the fork. Those behind them may be the
 * parent's by now. */
static uint32_t chunks_before(const struct store_header *h, enum store_kind kind)
{
	const uint32_t most = store_directory_size(kind), count = store.counts[kind];
	uint32_t last = kind == STORE_MODULES ? count - 1 : count, n;

	n = count ? last / h->shapes[kind].chunk + 1 : 0;
	return n < most ? n : most;
}

static void copy_list(struct store_header *h, enum store_kind kind)
{
	const struct store_shape shape = h->shapes[kind];
	const uint64_t *offsets = store_directory(h, kind);
	char *to = store.copies[kind].list;

	for (uint32_t i = 0; i < chunks_before(h, kind); i++) {
		size_t bytes = bytes_in_chunk(shape, store.counts[kind], i);

		if (offsets[i])
			memcpy(to, address_of(offsets[i]), bytes);
		to += bytes;
	}
}

static void make_copy(struct store_header *h, enum store_kind kind)
{
	size_t need = ((size_t)store.counts[kind] + 1) * h->shapes[kind].bytes;

	if (need > store.copies[kind].bytes) {
		meta_unmap(store.copies[kind].list, store.copies[kind].bytes, META_SITE);
		store.copies[kind].bytes = align_up(2 * need, OS_PAGE);
		store.copies[kind].list = meta_map(store.copies[kind].bytes, META_SITE);
		if (!store.copies[kind].list)
			store.copies[kind].bytes = 0;
	}
	if (store.copies[kind].list)
		copy_list(h, kind);
}

NO_LOCK_CHECK void store_fork_prepare(void)
{
	struct store_header *h = store.header;

	lock_acquire(&store.lock);
	if (!h)
		return;
	memcpy(store.counts, h->counts, sizeof(store.counts));
	make_copy(h, STORE_FEW);
	make_copy(h, STORE_COUNTERS);
}

void *store_fork_counters(void)
{
	return store.header ? store.copies[STORE_COUNTERS].list : NULL;
}

NO_LOCK_CHECK void store_fork_done(bool child)
{
	if (child)
		lock_reset(&store.lock);
	else
		lock_release(&store.lock);
}

/* Copies n bytes from `from` to the place of offset in r's copy, if it lies in r. */
static void copy_piece(const struct region *r, char *fresh, uint64_t offset,
		       const void *from, size_t n)
{
	if (offset - r->offset < r->size)
		memcpy(fresh + (offset - r->offset), from, n);
}

static void copy_header(struct store_header *to, struct store_header *from)
{
	memcpy(to, from, offsetof(struct store_header, node_chunks));
	for (enum store_kind kind = 0; kind < STORE_KINDS; kind++)
		memcpy(store_directory(to, kind), store_directory(from, kind),
		       chunks_before(from, kind) * sizeof(uint64_t));
	memcpy(to->counts, store.counts, sizeof(to->counts));
	/* Shares are in the counters now. */
	to->lists[STORE_LIVES].head = store.heads[STORE_LIVES];
	to->lists[STORE_LIVES].bytes = from->lists[STORE_LIVES].bytes;
	to->latest_ns = from->latest_ns;
}

/* Things that do not change any more. */
static void copy_constant(const struct region *r, char *fresh, enum store_kind kind)
{
	struct store_header *h = store.header;
	const struct store_shape shape = h->shapes[kind];
	const uint64_t *offsets = store_directory(h, kind);
	for (uint32_t i = 0; i < chunks_before(h, kind); i++)
		if (offsets[i])
			copy_piece(r, fresh, offsets[i], address_of(offsets[i]),
				   bytes_in_chunk(shape, store.counts[kind], i));
}

static void copy_changing(const struct region *r, char *fresh, enum store_kind kind)
{
	struct store_header *h = store.header;
	const struct store_shape shape = h->shapes[kind];
	const uint64_t *offsets = store_directory(h, kind);
	const char *from = store.copies[kind].list;

	for (uint32_t i = 0; from && i < chunks_before(h, kind); i++) {
		size_t bytes = bytes_in_chunk(shape, store.counts[kind], i);

		if (offsets[i])
			copy_piece(r, fresh, offsets[i], from, bytes);
		from += bytes;
	}
}

static void copy_chunks(const struct region *r, char *fresh)
{
	const struct store_header *h = store.header;

	copy_constant(r, fresh, STORE_NODES);
	copy_constant(r, fresh, STORE_PCS);
	copy_changing(r, fresh, STORE_FEW);
	copy_changing(r, fresh, STORE_COUNTERS);
	for (uint32_t i = 0; i < chunks_before(h, STORE_MODULES); i++)
		if (h->module_chunks[i])
			copy_piece(r, fresh, h->module_chunks[i],
				   address_of(h->module_chunks[i]),
				   STORE_MODULE_CHUNK * sizeof(struct store_module));
}

/* Blocks of lifetimes stay where they are, on their list, but empty. Those that the
 * parent has made since are not on ours. */
static void copy_lives(const struct region *r, char *fresh)
{
	for (uint64_t at = store.heads[STORE_LIVES]; at;) {
		const char *block = address_of(at);

		if (!block)
			return;
		copy_piece(r, fresh, at, block, sizeof(at));
		memcpy(&at, block, sizeof(at));
	}
}

/* Copies go in the place of the regions one after the other, the header's last, since
 * the others are copied with its help. */
static bool replace_region(struct region *r, int fd)
{
	char *fresh = fd >= 0 ? map_region(fd, r->offset, r->size) : NULL;

	if (!fresh) {
		fresh = os_map(r->size);
		store.path[0] = '\0'; /* of no use with a hole in it */
	}
	if (!fresh)
		return false;
	if (r == &store.regions[0])
		copy_header((void *)fresh, store.header);
	copy_chunks(r, fresh);
	copy_lives(r, fresh);
	return os_call(SYS_mremap, (long)fresh, (long)r->size, (long)r->size,
		       MREMAP_MAYMOVE | MREMAP_FIXED, (long)r->addr, 0) == (long)r->addr;
}

void store_fork_move(const struct store_owner *owner)
{
	bool all = true;
	int fd;

	if (!store.header || store.is_parents)
		return;
	store.path[0] = '\0'; /* the parent's */
	store.heads[STORE_SHARES] = 0;
	fd = owner->path ? create(owner->path) : -ENOENT;
	for (uint32_t i = store.nregions; all && i > 0; i--)
		all = replace_region(&store.regions[i - 1], fd);
	if (fd >= 0)
		os_close(fd);
	if (owner->path && !store.path[0])
		os_unlink(owner->path);
	store.is_parents = !all;
	if (!all)
		return; /* no memory: it records nothing, as a child of a raw fork */
	set_owner(store.header, owner);
	mark_as_own();
}
