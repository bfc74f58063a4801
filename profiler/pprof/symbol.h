/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbol: names of code addresses from the ELF files' .symtab, .dynsym and .gnu_debugdata
 * (no DWARF). Tables are built once per module from a private mapping of the file,
 * in metadata memory; where the file is gone, .dynsym is read from the loaded image.
 */
#ifndef PROFILER_PPROF_SYMBOL_H
#define PROFILER_PPROF_SYMBOL_H

#include "preload/base/base.h"
#include "profiler/stack/module.h"

struct symbol {
	const char *function;  /* linkage name as in the file, or NULL; lives as long
				* as the process */
	uintptr_t start, size; /* of the function, in the process; 0: unknown */
	const struct module *module; /* NULL: no module is or was there */
	uint64_t offset;	     /* file address of pc: pc - bias, for reports */
};

/* DUMP. Looks pc up (pass return address - 1). False: no module; *out is cleared. */
bool symbol_lookup(uintptr_t pc, struct symbol *out);
/* DUMP. The program's own function of that name, exported or not; 0: it has none. Linear.
 */
uintptr_t symbol_find(const char *function);
/* DUMP. Human form of a linkage name in buf: through the process's own __cxa_demangle if
 * a C++ runtime is loaded, else the name as it is. Returns buf or name. */
const char *symbol_demangle(const char *name, char *buf, size_t size);
/* DUMP. "function+0x12" or "module+0x1234" for reports. */
void symbol_describe(uintptr_t pc, char *buf, size_t size);
/* DUMP. A site's frames to stderr, one a line. */
void symbol_log_stack(uint32_t site);
/* SLOW. A request is answered: the pages of the files go, and come back where names are
 * needed again. */
void symbol_rest(void);
/* In a forked child. */
void symbol_fork_child(void);
/* DUMP. Before the process is copied (not forked), and in the copy: from there on the
 * loader, whose locks others may have held, is not asked. */
void symbol_prepare_copy(void);
void symbol_copied(void);
/* DUMP. Does the module have any function names? */
bool symbol_module_has_names(const struct module *m);

#endif
