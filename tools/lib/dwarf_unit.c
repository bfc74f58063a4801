/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf_unit: units of debug information: which code they cover, and from sorted
 * addresses to chains of functions.
 *
 * A unit is walked from its top. Functions whose code holds none of the addresses are
 * passed over; to the others, and to the functions inlined in them, each address adds a
 * link of its chain, outermost first. A function that is nested in one that was passed
 * over is found by a second, full walk, made only for addresses that are still without
 * one.
 */
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/dwarf_int.h"
#include "tools/lib/names.h"
#include "tools/lib/say.h"

#define MAX_CHAIN   64 /* inlined into each other */
#define MAX_NESTING 256

/* ---- which code units cover ---- */

static int by_low(const void *a, const void *b)
{
	const struct unit_range *x = a, *y = b;

	return x->low < y->low ? -1 : x->low > y->low ? 1 : 0;
}

static uint32_t new_unit(struct dwarf_module *m, struct unit unit)
{
	m->units = grown(m->units, m->nunits, &m->units_size, sizeof(*m->units));
	m->units[m->nunits] = unit;
	return (uint32_t)m->nunits++;
}

static void add_range(struct dwarf_module *m, uint64_t low, uint64_t high, uint32_t unit)
{
	if (low >= high || low == 0) /* 0: what the linker left out */
		return;
	m->ranges = grown(m->ranges, m->nranges, &m->ranges_size, sizeof(*m->ranges));
	m->ranges[m->nranges++] = (struct unit_range){ low, high, unit };
}

/* A unit whose ranges are its own to tell. offset: of its first DIE. */
static void add_unit(struct dwarf_module *m, Dwarf_Off offset)
{
	Dwarf_Addr base, low, high;
	size_t ranges_before = m->nranges;
	ptrdiff_t at = 0;
	Dwarf_Die die;
	int tag;

	if (!dwarf_offdie(m->dwarf, offset, &die))
		return;
	tag = dwarf_tag(&die);
	if (tag != DW_TAG_compile_unit && tag != DW_TAG_skeleton_unit)
		return;
	while ((at = dwarf_ranges(&die, at, &base, &low, &high)) > 0)
		add_range(m, low, high, (uint32_t)m->nunits);
	if (m->nranges > ranges_before)
		new_unit(m, (struct unit){ .offset = offset });
}

/* Ranges from .debug_aranges, sorted by unit first: nothing of the units is read. */
static void list_by_table(struct dwarf_module *m, struct intern *out_known)
{
	Dwarf_Aranges *table;
	size_t n;

	if (dwarf_getaranges(m->dwarf, &table, &n) != 0)
		return;
	for (size_t i = 0; i < n; i++) {
		Dwarf_Arange *range = dwarf_onearange(table, i);
		size_t before = out_known->count, number;
		Dwarf_Addr low;
		Dwarf_Word length;
		Dwarf_Off offset;

		if (!range || dwarf_getarangeinfo(range, &low, &length, &offset) != 0)
			continue;
		number = intern_bytes(out_known, &offset, sizeof(offset));
		if (number == before)
			new_unit(m, (struct unit){ .offset = offset });
		add_range(m, low, low + length, (uint32_t)number);
	}
}

void dwarf_unit_list(struct dwarf_module *m)
{
	struct intern known = { 0 }; /* numbers are indices of units */
	Dwarf_Off at = 0, next, first;
	size_t header;

	list_by_table(m, &known);
	while (dwarf_next_unit(m->dwarf, at, &next, &header, NULL, NULL, NULL, NULL, NULL,
			       NULL) == 0) {
		first = at + header;
		if (intern_find(&known, &first, sizeof(first)) >= known.count)
			add_unit(m, first);
		at = next;
	}
	intern_free(&known);
	qsort(m->ranges, m->nranges, sizeof(*m->ranges), by_low);
}

/* Its DIEs, when they are needed. */
static bool open_unit(struct dwarf_module *m, struct unit *u)
{
	Dwarf_Die split;
	uint8_t type;

	if (u->is_open)
		return true;
	if (!dwarf_offdie(m->dwarf, u->offset, &u->lines_die) ||
	    dwarf_cu_info(u->lines_die.cu, NULL, &type, NULL, &split, NULL, NULL, NULL) !=
		    0)
		return false;
	u->die = type == DW_UT_skeleton && dwarf_tag(&split) > 0 ? split : u->lines_die;
	u->language = dwarf_srclang(&u->die);
	u->is_open = true;
	return true;
}

/* ---- functions ---- */

/* What an inlined or out-of-line copy was made from. */
static Dwarf_Die origin_of(const Dwarf_Die *die)
{
	Dwarf_Die at = *die, next;
	Dwarf_Attribute attr;

	for (int i = 0; i < 16; i++) {
		if (!dwarf_attr(&at, DW_AT_abstract_origin, &attr) ||
		    !dwarf_formref_die(&attr, &next))
			break;
		at = next;
	}
	return at;
}

static const char *text_attr(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attr;

	return dwarf_formstring(dwarf_attr_integrate(die, name, &attr));
}

static bool has_namespaces(int language)
{
	switch (language) {
	case DW_LANG_C_plus_plus:
	case DW_LANG_C_plus_plus_03:
	case DW_LANG_C_plus_plus_11:
	case DW_LANG_C_plus_plus_14:
	case DW_LANG_Rust:
	case DW_LANG_D:
		return true;
	default:
		return false;
	}
}

static bool names_scope(Dwarf_Die *die)
{
	switch (dwarf_tag(die)) {
	case DW_TAG_namespace:
	case DW_TAG_class_type:
	case DW_TAG_structure_type:
	case DW_TAG_union_type:
	case DW_TAG_subprogram:
		return true;
	default:
		return false;
	}
}

/* What a scope adds in front of a name, allocated; NULL: nothing. *out_whole: it holds
 * all that is further out, too. */
static char *scope_name(Dwarf_Die *scope, const char *inner, bool *out_whole)
{
	const char *name = dwarf_diename(scope);
	const char *linkage = text_attr(scope, DW_AT_linkage_name);
	int tag = dwarf_tag(scope);

	if (!names_scope(scope))
		return NULL;
	if (tag == DW_TAG_subprogram && linkage) {
		*out_whole = true;
		return names_human(linkage, NAMES_TEMPLATES);
	}
	if (name)
		return format_string("%s", name);
	if (tag == DW_TAG_namespace)
		return format_string("(anonymous namespace)");
	return format_string(strcmp(inner, "operator()") == 0 ? "{lambda}" : "{unnamed}");
}

/* ns::type::name for a function without a linkage name. */
static const char *qualified(struct dwarf_module *m, Dwarf_Die *origin, const char *name)
{
	Dwarf_Die declaration = *origin, *scopes = NULL;
	Dwarf_Attribute attr;
	char *text = format_string("%s", name);
	const char *kept;
	bool whole = false;
	int n;

	if (dwarf_attr(origin, DW_AT_specification, &attr))
		dwarf_formref_die(&attr, &declaration);
	n = dwarf_getscopes_die(&declaration, &scopes);
	for (int i = 1; i < n && !whole; i++) {
		char *scope = scope_name(&scopes[i], name, &whole);
		char *joined = scope ? format_string("%s::%s", scope, text) : NULL;

		if (joined) {
			free(text);
			text = joined;
		}
		free(scope);
	}
	free(scopes);
	kept = arena_text(&m->owner->arena, text, strlen(text));
	free(text);
	return kept;
}

/* A file that a unit names, which may be relative to where it was compiled. */
static const char *keep_file(struct dwarf_module *m, Dwarf_Die *unit, const char *file)
{
	Dwarf_Attribute attr;

	if (!file)
		return NULL;
	return dwarf_path(
		m->owner,
		*file == '/' ? NULL
			     : dwarf_formstring(dwarf_attr(unit, DW_AT_comp_dir, &attr)),
		file);
}

/* A file by the number in an attribute. Not by dwarf_decl_file(), which ends the process
 * when a unit of a split file has no list of files. */
static const char *file_of(struct dwarf_module *m, const struct unit *u, Dwarf_Die *die,
			   unsigned name)
{
	Dwarf_Attribute attr;
	Dwarf_Word number;
	Dwarf_Die unit, top = u->lines_die;
	Dwarf_Files *files;
	size_t n;

	if (dwarf_formudata(dwarf_attr_integrate(die, name, &attr), &number) != 0 ||
	    !dwarf_cu_die(attr.cu, &unit, NULL, NULL, NULL, NULL, NULL, NULL) ||
	    dwarf_getsrcfiles(&unit, &files, &n) != 0 || number >= n)
		return NULL;
	/* a unit of a split file leaves the directory to the other half */
	if (unit.addr == u->die.addr || !dwarf_hasattr(&unit, DW_AT_comp_dir))
		unit = top;
	return keep_file(m, &unit, dwarf_filesrc(files, number, NULL, NULL));
}

/* The type without its names and qualifiers. */
static Dwarf_Die bare_type(Dwarf_Die type)
{
	Dwarf_Attribute attr;
	Dwarf_Die next;

	for (int i = 0; i < 16; i++) {
		switch (dwarf_tag(&type)) {
		case DW_TAG_typedef:
		case DW_TAG_const_type:
		case DW_TAG_volatile_type:
		case DW_TAG_restrict_type:
			if (!dwarf_attr_integrate(&type, DW_AT_type, &attr) ||
			    !dwarf_formref_die(&attr, &next))
				return type;
			type = next;
			break;
		default:
			return type;
		}
	}
	return type;
}

static bool is_pointer(Dwarf_Die *type)
{
	int tag = dwarf_tag(type);

	return tag == DW_TAG_pointer_type || tag == DW_TAG_reference_type ||
	       tag == DW_TAG_rvalue_reference_type;
}

/* Is there a pointer at that offset of a structure, by its own members? */
static bool has_pointer_at(Dwarf_Die *structure, Dwarf_Word offset)
{
	Dwarf_Die member, type;
	Dwarf_Attribute attr;
	Dwarf_Word at;

	if (dwarf_child(structure, &member) != 0)
		return false;
	do {
		if (dwarf_tag(&member) != DW_TAG_member ||
		    !dwarf_attr(&member, DW_AT_data_member_location, &attr) ||
		    dwarf_formudata(&attr, &at) != 0 || at != offset)
			continue;
		if (!dwarf_attr(&member, DW_AT_type, &attr) ||
		    !dwarf_formref_die(&attr, &type))
			return false;
		type = bare_type(type);
		return is_pointer(&type);
	} while (dwarf_siblingof(&member, &member) == 0);
	return false;
}

/* One that is handed back in registers: of at most two words, and for C++ without a
 * destructor and the like. */
static enum dwarf_returns returns_structure(Dwarf_Die *type)
{
	int size = dwarf_bytesize(type), word = (int)sizeof(void *);
	bool first = has_pointer_at(type, 0);
	bool second = has_pointer_at(type, sizeof(void *));
	Dwarf_Attribute attr;
	Dwarf_Word convention;

	if (size > 2 * word || (dwarf_attr(type, DW_AT_calling_convention, &attr) &&
				dwarf_formudata(&attr, &convention) == 0 &&
				convention == DW_CC_pass_by_reference))
		return RETURNS_UNKNOWN;
	if (first)
		return second ? RETURNS_PAIR : RETURNS_POINTER;
	return second ? RETURNS_SECOND : RETURNS_UNKNOWN;
}

/* Structures may hold a pointer, and so may integers of its size. */
static enum dwarf_returns returns_of(Dwarf_Die *function)
{
	Dwarf_Attribute attr;
	Dwarf_Die type;

	if (!dwarf_attr_integrate(function, DW_AT_type, &attr))
		return RETURNS_NOTHING;
	if (!dwarf_formref_die(&attr, &type))
		return RETURNS_UNKNOWN;
	type = bare_type(type);
	if (is_pointer(&type))
		return RETURNS_POINTER;
	switch (dwarf_tag(&type)) {
	case DW_TAG_structure_type:
	case DW_TAG_class_type:
		return returns_structure(&type);
	case DW_TAG_base_type:
	case DW_TAG_enumeration_type:
		return dwarf_bytesize(&type) < (int)sizeof(void *) ? RETURNS_NOTHING
								   : RETURNS_UNKNOWN;
	default:
		return RETURNS_UNKNOWN;
	}
}

static void describe_function(struct dwarf_module *m, const struct unit *u,
			      Dwarf_Die *origin, struct dwarf_function *f)
{
	const char *linkage = text_attr(origin, DW_AT_linkage_name);

	if (!linkage)
		linkage = text_attr(origin, DW_AT_MIPS_linkage_name);
	f->is_linkage = linkage != NULL;
	f->name = linkage ? linkage : dwarf_diename(origin);
	if (f->name && !linkage && has_namespaces(u->language))
		f->name = qualified(m, origin, f->name);
	f->file = file_of(m, u, origin, DW_AT_decl_file);
	if (dwarf_decl_line(origin, &f->line) != 0)
		f->line = 0;
	f->returns = returns_of(origin);
}

static const struct dwarf_function *
function_of(struct dwarf_module *m, const struct unit *u, const Dwarf_Die *die)
{
	Dwarf_Die origin = origin_of(die);
	size_t before = m->functions.count;
	size_t number = intern_bytes(&m->functions, &origin.addr, sizeof(origin.addr));

	if (number == before) {
		m->functions_list = grown(m->functions_list, number, &m->functions_size,
					  sizeof(*m->functions_list));
		describe_function(m, u, &origin, &m->functions_list[number]);
	}
	return &m->functions_list[number];
}

/* ---- chains ---- */

struct chain {
	int n;
	Dwarf_Die links[MAX_CHAIN]; /* outermost first */
};

struct walk {
	struct dwarf_module *m;
	const struct unit *unit;
	const uint64_t *addresses; /* sorted, as the debug information counts */
	struct chain **chains;	   /* of each */
	size_t n;
	bool full; /* into functions that hold none of them too */
};

static size_t first_from(const struct walk *w, uint64_t address)
{
	size_t low = 0, high = w->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (w->addresses[middle] < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void add_link(struct walk *w, size_t i, const Dwarf_Die *die, bool starts)
{
	struct chain *c = w->chains[i];

	if (!c)
		c = w->chains[i] = allocate(sizeof(*c));
	if (starts)
		c->n = 0;
	/* an inlined function outside of any function is damage */
	if (c->n < MAX_CHAIN && (starts || c->n > 0))
		c->links[c->n++] = *die;
}

/* Adds the function to the chains of the addresses it holds. False: it holds none. */
static bool link_function(struct walk *w, Dwarf_Die *die, bool starts)
{
	Dwarf_Addr base, low, high;
	ptrdiff_t at = 0;
	bool any = false;

	while ((at = dwarf_ranges(die, at, &base, &low, &high)) > 0)
		for (size_t i = first_from(w, low);
		     i < w->n && w->addresses[i] < high && low != 0; i++) {
			add_link(w, i, die, starts);
			any = true;
		}
	return any;
}

static void visit_children(struct walk *w, Dwarf_Die *parent, bool inside, int nesting);

static void visit(struct walk *w, Dwarf_Die *die, bool inside, int nesting)
{
	bool hit;

	switch (dwarf_tag(die)) {
	case DW_TAG_subprogram:
		hit = link_function(w, die, true);
		if (hit || w->full)
			visit_children(w, die, hit, nesting);
		break;
	case DW_TAG_inlined_subroutine:
		if (inside && link_function(w, die, false))
			visit_children(w, die, true, nesting);
		break;
	case DW_TAG_lexical_block:
	case DW_TAG_try_block:
	case DW_TAG_catch_block:
	case DW_TAG_with_stmt:
		if (inside || w->full)
			visit_children(w, die, inside, nesting);
		break;
	case DW_TAG_namespace:
	case DW_TAG_module:
	case DW_TAG_class_type:
	case DW_TAG_structure_type:
	case DW_TAG_union_type:
	case DW_TAG_enumeration_type: /* Rust */
	case DW_TAG_variant_part:
		visit_children(w, die, inside, nesting);
		break;
	default:
		break;
	}
}

static void visit_children(struct walk *w, Dwarf_Die *parent, bool inside, int nesting)
{
	Dwarf_Die die;

	if (nesting >= MAX_NESTING || dwarf_child(parent, &die) != 0)
		return;
	do {
		visit(w, &die, inside, nesting + 1);
	} while (dwarf_siblingof(&die, &die) == 0);
}

/* ---- frames ---- */

struct position {
	const char *file;
	int line, column;
};

static int number_in(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attr;
	Dwarf_Word number;

	return dwarf_formudata(dwarf_attr(die, name, &attr), &number) == 0 ? (int)number
									   : 0;
}

/* Where an inlined function was called, in the function around it. */
static struct position call_site(struct dwarf_module *m, const struct unit *u,
				 Dwarf_Die *inlined)
{
	return (struct position){
		.file = file_of(m, u, inlined, DW_AT_call_file),
		.line = number_in(inlined, DW_AT_call_line),
		.column = number_in(inlined, DW_AT_call_column),
	};
}

static struct position position_of(struct dwarf_module *m, const struct unit *u,
				   uint64_t address)
{
	Dwarf_Die unit = u->lines_die;
	Dwarf_Line *line = dwarf_getsrc_die(&unit, address);
	struct position at = { 0 };

	if (!line)
		return at;
	at.file = keep_file(m, &unit, dwarf_linesrc(line, NULL, NULL));
	if (dwarf_lineno(line, &at.line) != 0)
		at.line = 0;
	if (dwarf_linecol(line, &at.column) != 0)
		at.column = 0;
	return at;
}

/* The name of the outermost frame: its own linkage name (a constructor's says which of
 * its copies it is), or a symbol where the debug information has none for what should
 * have one. */
static const char *name_of(struct dwarf_module *m, const struct unit *u, Dwarf_Die *die,
			   const struct dwarf_function *fn, uint64_t file_address)
{
	Dwarf_Attribute attr;
	const char *own = dwarf_formstring(dwarf_attr(die, DW_AT_linkage_name, &attr));
	const struct file_symbol *s = NULL;

	if (own)
		return own;
	if (!fn->name || (!fn->is_linkage && has_namespaces(u->language)))
		s = dwarf_file_symbol(m, file_address);
	return s && (!fn->name || s->name[0] == '_') ? s->name : fn->name;
}

static void make_frames(struct dwarf_module *m, const struct unit *u,
			struct dwarf_address *a, struct chain *c)
{
	struct position at = position_of(m, u, a->address + m->debug_bias);
	struct dwarf_frame *frames;

	if ((!c || c->n == 0) && !at.file)
		return;
	a->nframes = c && c->n ? c->n : 1;
	a->has_lines = true;
	frames = arena_zalloc(&m->owner->arena, (size_t)a->nframes * sizeof(*frames));
	a->frames = frames;
	if (!c || c->n == 0) { /* assembly: lines but no functions */
		const struct file_symbol *s = dwarf_file_symbol(m, a->address);

		*frames = (struct dwarf_frame){ s ? s->name : NULL, at.file, at.line,
						at.column, 0 };
		return;
	}
	for (int i = c->n - 1; i >= 0; i--, frames++) {
		const struct dwarf_function *fn = function_of(m, u, &c->links[i]);

		frames->function =
			i == 0 ? name_of(m, u, &c->links[0], fn, a->address) : fn->name;
		frames->file = at.file;
		frames->line = at.line;
		frames->column = at.column;
		if (fn->file && at.file && strcmp(fn->file, at.file) == 0)
			frames->start_line = fn->line;
		if (i > 0)
			at = call_site(m, u, &c->links[i]);
		else
			a->returns = fn->returns;
	}
}

void dwarf_unit_resolve(struct dwarf_module *m, struct unit *u,
			struct dwarf_address **addresses, size_t n)
{
	uint64_t *list = allocate((n + 1) * sizeof(*list));
	struct chain **chains = allocate((n + 1) * sizeof(struct chain *));
	struct walk w = {
		.m = m, .unit = u, .addresses = list, .chains = chains, .n = n
	};
	bool missing = false, known = open_unit(m, u);

	for (size_t i = 0; i < n; i++)
		list[i] = addresses[i]->address + m->debug_bias;
	if (known)
		visit_children(&w, &u->die, false, 0);
	for (size_t i = 0; i < n; i++)
		missing |= known && !chains[i];
	if (missing) {
		for (size_t i = 0; i < n; i++) {
			free(chains[i]);
			chains[i] = NULL;
		}
		w.full = true;
		visit_children(&w, &u->die, false, 0);
	}
	for (size_t i = 0; i < n; i++) {
		if (known)
			make_frames(m, u, addresses[i], chains[i]);
		free(chains[i]);
	}
	free(chains);
	free(list);
}
