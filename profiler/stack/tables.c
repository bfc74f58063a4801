/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tables: see tables.h.
 *
 * Invariant: only whole pages are given back that the program cannot have changed: of a
 * file's read-only segment without relocations in it, and still mapped from the file: an
 * unpacker, or who moves code to huge pages, puts anonymous memory there. It is told
 * apart by MADV_WIPEONFORK, which the kernel refuses for files.
 *
 * Concurrency: counts and states are atomic; two threads that decide at once decide the
 * same.
 */
#include "profiler/stack/tables.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"
#include "profiler/stack/module.h"

#define MODULES 256 /* at start; of further ones the tables stay */
/* Rows of a module between two returns of its tables: at first as many as there were. */
#define ROWS_FIRST 8
#define ROWS_EVERY 64

#define HDR_PTR	   0x1b /* of .eh_frame_hdr: pcrel, sdata4 */
#define HDR_COUNT  0x03 /* udata4 */

struct pages {
	uintptr_t from, to;
};

enum state { UNKNOWN, RETURNS, STAYS };

static struct {
	uint32_t nmodules; /* frozen by tables_be_thrifty(); 0: nothing is returned */
	struct {
		uint32_t rows;	    /* atomic */
		uint32_t state;	    /* enum state; atomic, release after the bounds */
		struct pages pages; /* what is returned; atomic */
	} modules[MODULES];
} tables;

void tables_be_thrifty(void)
{
	uint32_t n = module_count();

	tables.nmodules = n < MODULES ? n : MODULES;
}

static bool has_text_relocations(const struct module *m)
{
	if (m->dynamic == 0)
		return true; /* not known */
	for (const ElfW(Dyn) *d = (const void *)m->dynamic; d->d_tag != DT_NULL; d++)
		if (d->d_tag == DT_TEXTREL ||
		    (d->d_tag == DT_FLAGS && (d->d_un.d_val & DF_TEXTREL)))
			return true;
	return false;
}

static long advise(uintptr_t page, int advice)
{
	return os_call(SYS_madvise, (long)page, OS_PAGE, advice, 0, 0, 0);
}

/* A kernel that knows the one knows the other. */
static bool is_file(uintptr_t page)
{
	if (advise(page, MADV_KEEPONFORK) != 0)
		return false;
	if (advise(page, MADV_WIPEONFORK) == -EINVAL)
		return true;
	advise(page, MADV_KEEPONFORK);
	return false;
}

/* Bounds of .eh_frame and .eh_frame_hdr, which are neighbours in either order: the header
 * names the start of the other. What follows both in the segment may be included. */
static bool find_tables(const struct module *m, uintptr_t end, struct pages *out)
{
	const uint8_t *hdr = (const uint8_t *)m->eh_frame_hdr;
	uint32_t count;
	int32_t offset;

	if (hdr[0] != 1 || hdr[1] != HDR_PTR || hdr[2] != HDR_COUNT)
		return false;
	memcpy(&offset, hdr + 4, sizeof(offset));
	memcpy(&count, hdr + 8, sizeof(count));
	out->from = m->eh_frame_hdr;
	out->to = end;
	if (offset < 0) {
		out->from = m->eh_frame_hdr + 4 + (uintptr_t)(intptr_t)offset;
		out->to = m->eh_frame_hdr + 12 + (uintptr_t)count * 8;
	}
	out->from = align_up(out->from, OS_PAGE);
	out->to = align_down(out->to, OS_PAGE);
	return out->from + OS_PAGE < out->to && out->to <= end;
}

static bool find_pages(const struct module *m, struct pages *out)
{
	for (uint32_t i = 0; i < m->nsegments; i++) {
		const struct module_segment *s = &m->segments[i];

		if (m->eh_frame_hdr < s->start || m->eh_frame_hdr >= s->end)
			continue;
		/* The segment's last page may hold other bytes, too. */
		return !s->writable && find_tables(m, s->end - OS_PAGE, out) &&
		       out->from >= s->start &&
		       (m->relro_end <= s->start || m->relro_start >= s->end) &&
		       !has_text_relocations(m);
	}
	return false;
}

static void give_back(const struct module *m)
{
	uint32_t state = atomic_load_acquire(&tables.modules[m->id].state);
	struct pages *pages = &tables.modules[m->id].pages;
	struct pages found = { 0 };

	if (state == UNKNOWN) {
		state = STAYS;
		if (find_pages(m, &found)) {
			atomic_store_relaxed(&pages->from, found.from);
			atomic_store_relaxed(&pages->to, found.to);
			state = RETURNS;
		}
		atomic_store_release(&tables.modules[m->id].state, state);
	}
	if (state != RETURNS)
		return;
	found.from = atomic_load_relaxed(&pages->from);
	found.to = atomic_load_relaxed(&pages->to);
	/* Every time: a program may move its code to huge pages at any moment. */
	if (is_file(found.from) && is_file(found.to - OS_PAGE))
		os_purge((void *)found.from, found.to - found.from);
}

/* Are the tables given back after so many rows? What is needed again costs a fault for
 * each place, so a program that compiles many rows does it less often. */
static bool is_due(uint32_t rows)
{
	if (rows < ROWS_EVERY)
		return rows >= ROWS_FIRST && (rows & (rows - 1)) == 0;
	return rows % ROWS_EVERY == 0;
}

void tables_note_row(uintptr_t pc)
{
	const struct module *m;

	if (tables.nmodules == 0)
		return;
	m = module_find_code(pc);
	if (!m || m->id >= tables.nmodules)
		return;
	if (is_due(atomic_add_relaxed(&tables.modules[m->id].rows, 1u) + 1))
		give_back(m);
}
