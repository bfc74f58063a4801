/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store: the file that outlives the process. The tree's nodes, the counters and the table
 * of modules lie in a shared mapping of it, so that the kernel keeps them when the
 * process is killed, and profiles can be made of them afterwards.
 *
 * Format (version 6): struct store_header at offset 0, which says where the chunks lie:
 * arrays of the tree's cells, of struct site_few and struct site_counters (site.c,
 * site.h), of return addresses in full (code.h), and of struct store_module. All numbers
 * but those of modules count from 1; a chunk holds those with the same number / chunk.
 * Then lists of blocks, each of which begins with the offset of the next: struct
 * share_block (share.h) and struct life_block (sample/lifestore.h). Everything is x86-64
 * layout. Offsets of 0 are chunks that found no room in the file, and ends of lists.
 *
 * The file is allocated in full before it is mapped: no write can fail with SIGBUS. Where
 * it cannot be made or cannot grow, memory is anonymous, and `lost` counts.
 */
#ifndef PROFILER_SITE_STORE_H
#define PROFILER_SITE_STORE_H

#include "preload/base/base.h"
#include "preload/base/opt.h"
#include "profiler/stack/module.h"

#define STORE_MAGIC	     0x3165726f74736873ull
#define STORE_VERSION	     6
#define STORE_NODE_CHUNKS    4096
#define STORE_FEW_CHUNKS     2048
#define STORE_COUNTER_CHUNKS 8192
#define STORE_PC_CHUNKS	     1024
#define STORE_MODULE_CHUNKS  256
#define STORE_REGIONS	     127
#define STORE_MODULE_CHUNK   16
#define STORE_MODULE_SHAPE \
	((struct store_shape){ sizeof(struct store_module), STORE_MODULE_CHUNK })
#define STORE_MODULE_PATH 512

enum store_kind {
	STORE_NODES,
	STORE_FEW,
	STORE_COUNTERS,
	STORE_PCS,
	STORE_MODULES,
	STORE_KINDS
};
enum store_list { STORE_SHARES, STORE_LIVES, STORE_LISTS };

struct store_module {
	uint64_t bias, start, end;
	struct {
		uint64_t start, end, file_offset;
		uint32_t executable, writable;
	} segments[MODULE_MAX_SEGMENTS];
	uint32_t nsegments, build_id_size, unloaded, reserved;
	uint8_t build_id[MODULE_BUILD_ID_MAX];
	char path[STORE_MODULE_PATH];
};

/* What the chunks of a kind hold. */
struct store_shape {
	uint32_t bytes, chunk; /* size of one, number in a chunk */
};

struct store_header {
	uint64_t magic;
	uint32_t version, header_bytes;
	struct store_shape shapes[STORE_KINDS];
	int32_t pid;
	uint32_t row;	     /* in the tool's table */
	uint64_t period;     /* 1: exact */
	uint64_t started_ns; /* real time */
	uint32_t
		counts[STORE_KINDS]; /* the highest number; of modules one more; atomic */
	uint32_t lost;		     /* chunks without room; atomic */
	char name[256];		     /* of the program: last part of its path */
	char command[512];
	char out[OPT_PATH_MAX];			 /* pattern of the files to write */
	uint64_t regions[STORE_REGIONS];	 /* see code.h; atomic */
	uint64_t node_chunks[STORE_NODE_CHUNKS]; /* offsets; atomic */
	uint64_t few_chunks[STORE_FEW_CHUNKS];
	uint64_t counter_chunks[STORE_COUNTER_CHUNKS];
	uint64_t pc_chunks[STORE_PC_CHUNKS];
	uint64_t module_chunks[STORE_MODULE_CHUNKS];
	struct {
		uint64_t head;	/* offset of the latest; atomic */
		uint64_t bytes; /* size of a block */
	} lists[STORE_LISTS];
	/* os_now_ns(), to a millisecond, when a lifetime began or ended last; 0:
	 * lifetimes are not kept. Atomic. */
	uint64_t latest_ns;
};

/* Whose file it is. */
struct store_owner {
	const char *path; /* of the file; NULL: none, memory is anonymous */
	int pid;
	uint32_t row;
	const char *name;
};

/* INIT, before the first site. Makes the file. False: sites will be anonymous. */
bool store_open(const struct store_owner *owner, uint64_t period,
		const struct store_shape shapes[STORE_KINDS]);
bool store_is_open(void);
/* The word that the kernel clears in every kind of forked child, 1 before. */
HIDDEN extern const uint8_t *store_own_mark;
/* FAST. False: we are a child of a fork that no handler knew of (a raw system call). What
 * is open is the parent's: nothing may be recorded. */
static inline bool store_is_own(void)
{
	return LIKELY(*(const volatile uint8_t *)store_own_mark != 0);
}
/* SLOW. Zeroed memory of one chunk in the file; NULL: no file, or no room. */
void *store_chunk(enum store_kind kind, uint32_t index, size_t size);
/* The same for a block that goes on a list; all of one list are of one size. */
void *store_block(enum store_list list, size_t size);
/* FAST. Now. */
void store_note_time(uint64_t now_ns);
/* FAST. After the things themselves. */
void store_set_count(enum store_kind kind, uint32_t count);
/* FAST. */
void store_put_region(uint32_t number, uint64_t region);
/* SLOW. Enters a module, or what is new of it. For module_hook. */
void store_put_module(const struct module *m);
/* The reports are written: the file goes, the memory stays as it is. */
void store_remove(void);

/* fork: prepare copies the counters, which the parent's other threads go on to change;
 * the child then moves to a file of its own, with the counts that there were. */
void store_fork_prepare(void);
void *store_fork_counters(void); /* that copy, by number; NULL: none */
void store_fork_done(bool child);
void store_fork_move(const struct store_owner *owner);

/* DUMP. Maps a file that somebody left, privately and writable, after it was checked:
 * offsets lie inside, texts are terminated. NULL: not ours, or damaged. */
struct store_header *store_load(const char *path, size_t *out_size);
/* Offsets of the chunks of a kind, and how many there may be. */
uint64_t *store_directory(struct store_header *h, enum store_kind kind);
uint32_t store_directory_size(enum store_kind kind);
const uint64_t *store_offsets(const struct store_header *h, enum store_kind kind);
/* How many of a kind are in a file, as far as no chunk is missing. */
uint32_t store_counted(const struct store_header *h, enum store_kind kind);

#endif
