/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handler: see handler.h. Follows the handler's code instruction by instruction, and that
 * of all functions of its module that the code branches to or names. A call through a
 * slot of the global offset table is one of the function whose name the slot's relocation
 * bears: it must be one of those listed here, none of which calls back. Any other
 * indirect branch is uncertain, and so is a function whose bounds no table tells.
 */
#include "profiler/thread/handler.h"

#include <elf.h>
#include <string.h>

#include "profiler/stack/cfi_int.h"
#include "profiler/stack/module.h"
#include "profiler/thread/insn.h"

#define MAX_FUNCTIONS 64
#define MAX_BYTES     65536 /* of a function */
#define STUB_BYTES    16

/* They return, or end the process. */
static const char *const harmless[] = {
	"_Exit",
	"__errno_location",
	"__fprintf_chk",
	"__memcpy_chk",
	"__memset_chk",
	"__printf_chk",
	"__read_chk",
	"__snprintf_chk",
	"__sprintf_chk",
	"__stack_chk_fail",
	"__strcpy_chk",
	"_exit",
	"abort",
	"alarm",
	"clock_gettime",
	"close",
	"fflush",
	"fprintf",
	"fputc",
	"fputs",
	"fwrite",
	"getpid",
	"gettimeofday",
	"kill",
	"memcpy",
	"memset",
	"open",
	"perror",
	"printf",
	"pthread_cond_broadcast",
	"pthread_cond_signal",
	"pthread_kill",
	"pthread_mutex_lock",
	"pthread_mutex_unlock",
	"pthread_self",
	"putchar",
	"puts",
	"raise",
	"read",
	"sem_post",
	"setitimer",
	"sigaction",
	"sigaddset",
	"sigemptyset",
	"signal",
	"sigprocmask",
	"snprintf",
	"sprintf",
	"strlen",
	"strsignal",
	"time",
	"unlink",
	"wait",
	"waitpid",
	"write",
};

struct walk_code {
	const struct module *module;
	uintptr_t functions[MAX_FUNCTIONS];
	uint32_t n;
	bool uncertain;
};

/* ---- names of slots ---- */

struct tables {
	const Elf64_Rela *calls, *data;
	size_t ncalls, ndata;
	const Elf64_Sym *symbols;
	const char *names;
};

static const void *loaded(const struct module *m, uint64_t value)
{
	return (const void *)(value < m->start ? value + m->bias : value);
}

static struct tables read_dynamic(const struct module *m)
{
	struct tables t = { 0 };

	for (const Elf64_Dyn *d = (const void *)m->dynamic; d && d->d_tag; d++) {
		if (d->d_tag == DT_JMPREL)
			t.calls = loaded(m, d->d_un.d_ptr);
		else if (d->d_tag == DT_PLTRELSZ)
			t.ncalls = d->d_un.d_val / sizeof(Elf64_Rela);
		else if (d->d_tag == DT_RELA)
			t.data = loaded(m, d->d_un.d_ptr);
		else if (d->d_tag == DT_RELASZ)
			t.ndata = d->d_un.d_val / sizeof(Elf64_Rela);
		else if (d->d_tag == DT_SYMTAB)
			t.symbols = loaded(m, d->d_un.d_ptr);
		else if (d->d_tag == DT_STRTAB)
			t.names = loaded(m, d->d_un.d_ptr);
	}
	return t;
}

static const char *name_in(const struct tables *t, const Elf64_Rela *r, size_t n,
			   uint64_t offset)
{
	for (size_t i = 0; r && i < n; i++) {
		const uint64_t type = ELF64_R_TYPE(r[i].r_info);

		if (r[i].r_offset == offset &&
		    (type == R_X86_64_JUMP_SLOT || type == R_X86_64_GLOB_DAT))
			return t->names + t->symbols[ELF64_R_SYM(r[i].r_info)].st_name;
	}
	return NULL;
}

static bool is_harmless(const struct module *m, uintptr_t slot)
{
	const struct tables t = read_dynamic(m);
	const char *name = NULL;

	if (!t.symbols || !t.names)
		return false;
	name = name_in(&t, t.calls, t.ncalls, slot - m->bias);
	if (!name)
		name = name_in(&t, t.data, t.ndata, slot - m->bias);
	for (size_t i = 0; name && i < ARRAY_LEN(harmless); i++)
		if (strcmp(name, harmless[i]) == 0)
			return true;
	return false;
}

/* ---- code ---- */

static bool has_code(const struct walk_code *w, uintptr_t at)
{
	return module_find_code(at) == w->module;
}

static void add_function(struct walk_code *w, uintptr_t at)
{
	for (uint32_t i = 0; i < w->n; i++)
		if (w->functions[i] == at)
			return;
	if (w->n == MAX_FUNCTIONS)
		w->uncertain = true;
	else
		w->functions[w->n++] = at;
}

static void follow(struct walk_code *w, const struct insn *in, uintptr_t lo, uintptr_t hi)
{
	switch (in->kind) {
	case INSN_PLAIN:
		return;
	case INSN_BRANCH:
		if (in->target >= lo && in->target < hi)
			return;
		if (has_code(w, in->target))
			add_function(w, in->target);
		else
			w->uncertain = true;
		return;
	case INSN_NAMES:
		if ((in->target < lo || in->target >= hi) && has_code(w, in->target))
			add_function(w, in->target);
		return;
	case INSN_THROUGH:
		w->uncertain |= !is_harmless(w->module, in->target);
		return;
	case INSN_ELSEWHERE:
		w->uncertain = true;
	}
}

/* The linker's, which jumps through a slot: the rest of its section is not looked at. */
static bool is_stub(struct walk_code *w, uintptr_t at)
{
	const uintptr_t end = at + STUB_BYTES;
	struct insn in;

	while (at < end && insn_decode((const uint8_t *)at, (const uint8_t *)end, &in)) {
		if (in.kind == INSN_THROUGH) {
			follow(w, &in, 0, 0);
			return true;
		}
		if (in.kind != INSN_PLAIN || in.size != 4) /* endbr64 */
			return false;
		at += in.size;
	}
	return false;
}

static void see_function(struct walk_code *w, uintptr_t start)
{
	struct cfi_fde fde;
	struct insn in;

	if (has_code(w, start + STUB_BYTES) && is_stub(w, start))
		return;
	if (!cfi_find_fde(start, &fde) || fde.end - fde.start > MAX_BYTES) {
		w->uncertain = true;
		return;
	}
	/* From the start of the function, where an instruction begins for certain. */
	for (uintptr_t at = fde.start; at < fde.end && !w->uncertain; at += in.size) {
		if (!insn_decode((const uint8_t *)at, (const uint8_t *)fde.end, &in)) {
			w->uncertain = true;
			return;
		}
		follow(w, &in, fde.start, fde.end);
	}
}

bool handler_may_leave(uintptr_t handler)
{
	struct walk_code w = { .module = module_find_code(handler) };

	if (!w.module || w.module->unloaded)
		return true;
	add_function(&w, handler);
	for (uint32_t i = 0; i < w.n && !w.uncertain; i++)
		see_function(&w, w.functions[i]);
	return w.uncertain;
}
