/* SPDX-License-Identifier: Apache-2.0 */
/*
 * module: the program and its shared objects, as the loader mapped them. Modules are
 * never forgotten: one that was dlclosed keeps its record (and names) and is marked
 * unloaded.
 */
#ifndef PROFILER_STACK_MODULE_H
#define PROFILER_STACK_MODULE_H

#include "preload/base/base.h"

#define MODULE_MAX_SEGMENTS 8
#define MODULE_BUILD_ID_MAX 32

struct module_segment {
	uintptr_t start, end; /* addresses, page-rounded */
	uint64_t file_offset; /* of start */
	bool executable, writable;
};

struct module {
	uint32_t id;	      /* 0: the program itself */
	uintptr_t bias;	      /* added to the file's addresses */
	uintptr_t start, end; /* bounds of all segments */
	const char *path;     /* absolute, of the file; "[vdso]" for the vDSO */
	uint8_t build_id[MODULE_BUILD_ID_MAX];
	uint32_t build_id_size; /* 0: none */
	uint32_t nsegments;
	struct module_segment segments[MODULE_MAX_SEGMENTS];
	uintptr_t eh_frame_hdr;		  /* address, 0: none */
	uintptr_t dynamic;		  /* address of .dynamic, 0: none */
	uintptr_t relro_start, relro_end; /* PT_GNU_RELRO, 0: none */
	uint64_t generation;		  /* refresh in which it was last seen */
	bool unloaded;			  /* atomic: written by module_refresh() */
	bool is_seep;			  /* this library */
	bool is_loader;			  /* the dynamic loader */
	bool foreign;	/* of another process: only its file can be read */
	bool permanent; /* loaded with the program: never unloaded */
};

/* Called for every module that is new, loaded again or unloaded, with MODULE held; set
 * once in preload/api/init.c, NULL: nobody. */
extern void (*module_hook)(const struct module *m);

/* SLOW. Re-reads the loader's list (dl_iterate_phdr). Called at init, after dlopen and
 * dlclose and before reports. Never in a signal handler or with the world stopped. */
void module_refresh(void);

/* SLOW. Enters the object that holds pc, if it was loaded since the last refresh, without
 * the loader's lock: pc must lie in code that the calling thread returns to. False: not
 * known, as before glibc 2.35. */
bool module_learn(uintptr_t pc);

/* FAST, SIGNAL. The loaded module whose executable segment holds pc, or NULL. No lock. */
const struct module *module_find_code(uintptr_t pc);
/* FAST, SIGNAL. The same for code that was loaded since the last module_refresh(), too:
 * its .eh_frame_hdr, 0: none or no module. */
uintptr_t module_eh_frame_hdr(uintptr_t pc);
bool module_is_code(uintptr_t pc);
/* Like module_find_code(), but also unloaded ones (the latest that was there); any
 * segment. DUMP. */
const struct module *module_find(uintptr_t addr);
/* DUMP. All modules ever seen, by id, program first. */
uint32_t module_count(void);
const struct module *module_at(uint32_t id);

/* DUMP. Enters a module of a process that has ended, under the next id. */
void module_adopt(const struct module *m, const char *path);

void module_fork_prepare(void);
void module_fork_done(bool child);

#endif
