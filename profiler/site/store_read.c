/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_read: a file that somebody left, see store.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/base/os.h"
#include "profiler/site/store.h"

uint64_t *store_directory(struct store_header *h, enum store_kind kind)
{
	switch (kind) {
	case STORE_NODES:
		return h->node_chunks;
	case STORE_FEW:
		return h->few_chunks;
	case STORE_COUNTERS:
		return h->counter_chunks;
	case STORE_PCS:
		return h->pc_chunks;
	default:
		return h->module_chunks;
	}
}

uint32_t store_directory_size(enum store_kind kind)
{
	static const uint32_t sizes[STORE_KINDS] = {
		[STORE_NODES] = STORE_NODE_CHUNKS,	 [STORE_FEW] = STORE_FEW_CHUNKS,
		[STORE_COUNTERS] = STORE_COUNTER_CHUNKS, [STORE_PCS] = STORE_PC_CHUNKS,
		[STORE_MODULES] = STORE_MODULE_CHUNKS,
	};

	return sizes[kind];
}

const uint64_t *store_offsets(const struct store_header *h, enum store_kind kind)
{
	return store_directory((void *)(uintptr_t)h, kind);
}

uint32_t store_counted(const struct store_header *h, enum store_kind kind)
{
	const uint64_t *offsets = store_offsets(h, kind);
	uint32_t n = store_directory_size(kind), chunk = h->shapes[kind].chunk;
	uint32_t count = h->counts[kind];

	for (uint32_t i = 0; i < n && i <= count / chunk; i++)
		if (offsets[i] == 0)
			return i ? i * chunk - 1 : 0;
	return count < n * chunk ? count : n * chunk - 1;
}

static bool chunks_lie_inside(const struct store_header *h, size_t size)
{
	for (enum store_kind kind = 0; kind < STORE_KINDS; kind++) {
		const struct store_shape shape = h->shapes[kind];
		const uint64_t bytes = (uint64_t)shape.chunk * shape.bytes;

		if (bytes == 0 || bytes > size)
			return false;
		for (uint64_t i = 0; i < store_directory_size(kind); i++)
			if (store_offsets(h, kind)[i] % 8 ||
			    store_offsets(h, kind)[i] > size - bytes)
				return false;
	}
	return true;
}

/* Each block was put before those that are older: no list is endless. */
static bool list_lies_inside(const struct store_header *h, size_t size, int list)
{
	uint64_t n = 0, bytes = h->lists[list].bytes;

	if (bytes < sizeof(uint64_t) || bytes > size)
		return h->lists[list].head == 0;
	for (uint64_t at = h->lists[list].head; at; n++) {
		if (at % 8 || at > size - bytes || n > size / bytes)
			return false;
		memcpy(&at, (const char *)h + at, sizeof(at));
	}
	return true;
}

static bool is_sound(const struct store_header *h, size_t size)
{
	const struct store_shape modules = h->shapes[STORE_MODULES];

	return h->magic == STORE_MAGIC && h->version == STORE_VERSION &&
	       h->header_bytes == sizeof(*h) &&
	       modules.bytes == sizeof(struct store_module) &&
	       modules.chunk == STORE_MODULE_CHUNK && chunks_lie_inside(h, size) &&
	       list_lies_inside(h, size, STORE_SHARES) &&
	       list_lies_inside(h, size, STORE_LIVES);
}

struct store_header *store_load(const char *path, size_t *out_size)
{
	int fd = os_open(path, O_RDONLY | O_NOFOLLOW, 0);
	long size = fd >= 0 ? os_file_size(fd) : -1, ret = -1;
	struct store_header *h;

	if (size >= (long)sizeof(*h))
		ret = os_call(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd,
			      0);
	if (fd >= 0)
		os_close(fd);
	if (ret < 0 && ret > -4096)
		return NULL;
	h = (struct store_header *)ret;
	if (!is_sound(h, (size_t)size)) {
		os_unmap(h, align_up((size_t)size, OS_PAGE));
		return NULL;
	}
	h->name[sizeof(h->name) - 1] = '\0';
	h->command[sizeof(h->command) - 1] = '\0';
	h->out[sizeof(h->out) - 1] = '\0';
	*out_size = (size_t)size;
	return h;
}
