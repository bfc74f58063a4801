/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roots: where a pointer that keeps an object alive can stand, outside the heap.
 */
#ifndef PROFILER_LEAK_ROOTS_H
#define PROFILER_LEAK_ROOTS_H

#include "preload/base/base.h"
#include "profiler/leak/absent.h"
#include "profiler/leak/stop.h"
#include "profiler/leak/unreadable.h"
#include "profiler/stack/thread.h"

struct root_range {
	uintptr_t lo, hi;
};

/* What takes a lock to know, for a look beside the running program. */
struct roots_known {
	struct thread_info *threads; /* copies, linked; NULL: there are none */
	struct thread_info *room;
	size_t room_bytes;
	struct root_range *own; /* our own memory */
	size_t nown;
	uint64_t locked_ns; /* the registry was, for so long */
};

struct roots {
	struct root_range *include, *exclude, *code;
	/* code: of include, what the program has made itself (JIT): a pointer stands
	 * anywhere in an instruction. */
	size_t ninclude, nexclude, ncode, capacity;
	struct root_range *before; /* what was excluded before roots_restack() */
	size_t nbefore;
	/* The list of mappings could not be read: known are modules, registered stacks
	 * and the calling thread's TLS. Who is found lost may not be; who is found
	 * reached, is. */
	bool no_maps;
	bool is_copy;  /* set before: in a snapshot nothing waits for being supplied */
	bool is_late;  /* in a snapshot: some was read where it is, which goes on */
	bool hidden;   /* in a snapshot: some memory of the program could not be seen */
	bool closed;   /* some memory without the right to read could not be opened */
	bool shut;     /* some that the program names as roots cannot be read */
	bool full;     /* more ranges than there was room for */
	bool supplied; /* a page that is not there might be waited for for ever ... */
	bool unseen;   /* ... and which are there cannot be told */
	int pagemap; /* of roots_collect(): 1 + the descriptor; 0: none yet; or -errno */
	struct unreadable unreadable; /* open until roots_close() */
	struct absent absent;	      /* of the heap */
	/* Beside a running program: nothing is changed of it; NULL: it stands. */
	const struct roots_known *known;
};

/* DUMP. Room for the ranges; before the world is stopped. */
bool roots_init(struct roots *r);
void roots_free(struct roots *r);
/* Before roots_collect(): what shall be no root. */
void roots_exclude(struct roots *r, uintptr_t lo, uintptr_t hi);
void roots_include(struct roots *r, uintptr_t lo, uintptr_t hi); /* in between */
/* Excludes what no thread of the list has on its stack, and without a list of mappings
 * includes what one has. own_sp: of the calling thread, or 0. */
void roots_see_stacks(struct roots *r, const struct world *w, uintptr_t own_sp,
		      const struct thread_info *list);
/* STW. Finds the ranges, and opens objects and other memory that the program has closed:
 * what is done to objects comes after it. own_sp: where the calling thread's live stack
 * begins. False: nothing may be looked at. */
bool roots_collect(struct roots *r, const struct world *w, uintptr_t own_sp);
/*
 * Beside a running program: roots_know() by the agent, when all memory of ours is mapped;
 * then roots_collect() with r->known, by a process that may die of it (look.h), as often
 * as is liked. NULL, or what a look cannot see as it must (a reason).
 */
bool roots_know(struct roots *r, struct roots_known *out); /* false: out of memory */
void roots_forget(struct roots *r, struct roots_known *k);
const char *roots_unfit(const struct roots *r);
/* STW, with r->known, after roots_collect() and with the registry locked. Stacks are
 * those of now, and end where they do in w; the rest is as before. */
void roots_restack(struct roots *r, const struct world *w);
/* STW. Then every piece that was excluded until then and is not now. Who knows whether it
 * is still mapped. */
void roots_each_bared(const struct roots *r,
		      void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* Every piece of the pages in list, by address, that is neither included nor excluded and
 * no part of the heap, and can be read at this moment. */
void roots_each_other(const struct roots *r, const struct root_range *list, size_t n,
		      void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* By address. */
void roots_sort(struct root_range *list, size_t n);
/* Is there a userfaultfd, or may there be? Then pages must not be touched. By the agent.
 */
bool roots_are_supplied(void);
/* All threads that are known, finished ones included. */
const struct thread_info *roots_threads(const struct roots *r);
/* STW. The program's memory is as it was. */
void roots_close(struct roots *r);
/* STW. Every readable piece that is not excluded. */
void roots_each(const struct roots *r, void (*fn)(uintptr_t lo, uintptr_t hi, void *arg),
		void *arg);
/* STW. Every piece of code among them. */
void roots_each_code(const struct roots *r,
		     void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* Ranges that the program named through the LSan interface. */
void roots_add_region(uintptr_t lo, size_t size);
void roots_remove_region(uintptr_t lo, size_t size);
/* Where those begin that lie in an object, perhaps one that nothing else holds. */
void roots_each_region_in_heap(void (*fn)(uintptr_t addr, void *arg), void *arg);

#endif
