/* SPDX-License-Identifier: Apache-2.0 */
/*
 * written: which pages of the program's memory are written from some moment on, as the
 * kernel tells: by a userfaultfd in its asynchronous mode, which only takes note, and
 * PAGEMAP_SCAN (Linux 6.7, and what 6.13 mended of it). The program notices nothing but
 * a fault at its first write to each page.
 *
 * For the process of a look (look.h), which shares the memory but not the descriptors:
 * when it ends, however, the kernel watches nothing any more.
 */
#ifndef PROFILER_LEAK_WRITTEN_H
#define PROFILER_LEAK_WRITTEN_H

#include "profiler/leak/roots.h"

struct written {
	struct root_range *known;   /* all mappings, by address; neighbours are one */
	struct root_range *watched; /* of them, what is not ours; the arenas are */
	struct root_range *apart;   /* our own memory, by address */
	struct root_range *dirty;   /* written_collect(): by address */
	size_t nknown, nwatched, napart, ndirty;
	size_t dirty_pages; /* of the system */
	size_t pages, huge; /* at the beginning: all, and of 2 MiB, which are not among
			     * them */
	bool full, refused;
	/* See written_weigh(): runs of pages that are not there, or were written soon. */
	struct root_range *doubtful;
	size_t ndoubtful, at_doubt;
	bool dense; /* there are few */
	bool told;
	int uffd, pagemap; /* of the process; negative: none */
};

/* By the agent, around it. False: out of memory. */
bool written_map(struct written *w);
void written_unmap(struct written *w);

/* All that follows by the process. Watches the program's private memory from now on, and
 * what it shares; own: our own memory. NULL, or why it cannot be. */
const char *written_begin(struct written *w, const struct roots_known *own);
/* Mappings that are new are watched, too; their pages count as written. False: some could
 * not be. */
bool written_follow(struct written *w);
/* Which pages were written since the beginning, or since the last time with `again`. What
 * is mapped anew in the place of something else counts as written, without `again`. */
bool written_collect(struct written *w, bool again);
/* Soon after a written_collect(): are the arenas' pages nearly all there? If so, the
 * next one without `again` takes half the time, and may count pages as written that have
 * gone in between. */
void written_weigh(struct written *w);
/* Is every page of the process in a mapping that is known? */
bool written_knows_all(const struct written *w);
/* In pieces, each short: who takes a fault meanwhile waits for one. */
void written_end(struct written *w);

#endif
