/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbolizer: see symbolizer.h.
 *
 * What is known already stays: a frame is replaced where debug information knows it, and
 * named from symbols only where it had no name. Flags of mappings say what their
 * locations then hold.
 */
#include "tools/lib/symbolizer.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "tools/lib/dwarf.h"
#include "tools/lib/filebytes.h"
#include "tools/lib/intern.h"
#include "tools/lib/reportjson.h"
#include "tools/lib/say.h"

struct symbolizer {
	struct dwarf *dwarf; /* NULL: built without */
	enum names_style style;
	struct intern linkages; /* numbers index humans[] */
	char **humans;
	size_t humans_size;
};

struct symbolizer *symbolizer_new(const char *const *directories, enum names_style style)
{
	struct symbolizer *s = allocate(sizeof(*s));

	s->dwarf = dwarf_new(directories);
	s->style = style;
	return s;
}

void symbolizer_free(struct symbolizer *s)
{
	for (size_t i = 0; i < s->linkages.count; i++)
		free(s->humans[i]);
	free(s->humans);
	intern_free(&s->linkages);
	dwarf_free(s->dwarf);
	free(s);
}

static const char *human(struct symbolizer *s, const char *linkage)
{
	size_t before = s->linkages.count, number = intern_text(&s->linkages, linkage);

	if (number < before)
		return s->humans[number];
	s->humans = grown(s->humans, number, &s->humans_size, sizeof(*s->humans));
	return s->humans[number] = names_human(linkage, s->style);
}

/* ---- profiles ---- */

/* Samples are looked at, too, where labels may say these. */
static const char *const settled_labels[] = { "maybe-returned", "holder", NULL };

/* One profile being changed. */
struct job {
	struct symbolizer *s;
	struct pbfile *f;
	struct dwarf_module **modules; /* of each mapping; NULL: no file */
	bool *has_lines, *touched;     /* mappings */
	bool changed;		       /* the file is not what it was */
};

static struct dwarf_module *module_of(const struct job *j, const Seep__Pprof__Location *l,
				      uint64_t *out)
{
	struct dwarf_module *m;
	const Seep__Pprof__Mapping *map;

	if (l->mapping_id == 0 || l->address == 0)
		return NULL;
	m = j->modules[l->mapping_id - 1];
	map = j->f->p->mapping[l->mapping_id - 1];
	return m && dwarf_file_address(m, l->address, map->memory_start, map->file_offset,
				       out)
		       ? m
		       : NULL;
}

static Seep__Pprof__Label *label_of(const struct pbfile *f,
				    const Seep__Pprof__Sample *sample, const char *key)
{
	for (size_t i = 0; i < sample->n_label; i++)
		if (strcmp(pbfile_text(f, sample->label[i]->key), key) == 0)
			return sample->label[i];
	return NULL;
}

/* The call that made the object which a sample's objects were found in. */
static bool holder_of(const struct job *j, const Seep__Pprof__Sample *sample,
		      Seep__Pprof__Location *out)
{
	const Seep__Pprof__Profile *p = j->f->p;
	const Seep__Pprof__Label *l = label_of(j->f, sample, "holder");

	seep__pprof__location__init(out);
	if (!l)
		return false;
	out->address = (uint64_t)l->num;
	for (size_t i = 0; i < p->n_mapping && !out->mapping_id; i++)
		if (out->address >= p->mapping[i]->memory_start &&
		    out->address < p->mapping[i]->memory_limit)
			out->mapping_id = i + 1;
	return out->mapping_id != 0;
}

/* The name the outermost frame has in the file, NULL: none or only a place. */
static const char *old_name(const struct job *j, const Seep__Pprof__Location *l)
{
	const Seep__Pprof__Function *fn;
	const char *name;

	if (l->n_line == 0)
		return NULL;
	fn = pbfile_function_at(j->f, l->line[l->n_line - 1]->function_id);
	name = pbfile_text(j->f, fn->system_name ? fn->system_name : fn->name);
	return *name && !names_is_place(name) ? name : NULL;
}

static void want_location(const struct job *j, const Seep__Pprof__Location *l)
{
	uint64_t address;
	struct dwarf_module *m = module_of(j, l, &address);

	if (m)
		dwarf_want(m, address, old_name(j, l) != NULL);
}

static void want_all(struct job *j)
{
	const Seep__Pprof__Profile *p = j->f->p;
	Seep__Pprof__Location holder;

	for (size_t i = 0; i < p->n_location; i++)
		if (p->location[i]->mapping_id)
			j->touched[p->location[i]->mapping_id - 1] = true;
	for (size_t i = 0; i < p->n_sample; i++)
		if (holder_of(j, p->sample[i], &holder))
			j->touched[holder.mapping_id - 1] = true;
	for (size_t i = 0; i < p->n_mapping; i++)
		if (j->touched[i] && j->s->dwarf)
			j->modules[i] = dwarf_module(
				j->s->dwarf, pbfile_text(j->f, p->mapping[i]->filename),
				pbfile_text(j->f, p->mapping[i]->build_id),
				p->time_nanos);
	for (size_t i = 0; i < p->n_location; i++)
		want_location(j, p->location[i]);
	for (size_t i = 0; i < p->n_sample; i++)
		if (holder_of(j, p->sample[i], &holder))
			want_location(j, &holder);
	if (j->s->dwarf)
		dwarf_resolve(j->s->dwarf);
}

static void set_lines(struct job *j, Seep__Pprof__Location *l,
		      const struct dwarf_address *a)
{
	const char *kept = old_name(j, l);
	size_t n = (size_t)a->nframes;
	Seep__Pprof__Line *lines = arena_alloc(&j->f->arena, n * sizeof(*lines));
	Seep__Pprof__Line **list =
		arena_alloc(&j->f->arena, n * sizeof(Seep__Pprof__Line *));

	for (size_t i = 0; i < n; i++) {
		const struct dwarf_frame *frame = &a->frames[i];
		const char *linkage = frame->function;

		if (!linkage)
			linkage = i + 1 == n && kept ? kept : "??";
		list[i] = &lines[i];
		seep__pprof__line__init(&lines[i]);
		lines[i].line = frame->line;
		lines[i].column = frame->column;
		lines[i].function_id = pbfile_function(
			j->f, pbfile_string(j->f, human(j->s, linkage)),
			pbfile_string(j->f, linkage),
			pbfile_string(j->f, frame->file ? frame->file : ""),
			frame->start_line);
	}
	l->line = list;
	l->n_line = n;
	j->changed = true;
	j->has_lines[l->mapping_id - 1] |= a->has_lines;
}

/* Human names for a location that stays as it is. */
static void rename_lines(struct job *j, Seep__Pprof__Location *l)
{
	for (size_t i = 0; i < l->n_line; i++) {
		const Seep__Pprof__Function *fn =
			pbfile_function_at(j->f, l->line[i]->function_id);
		int64_t system_name = fn->system_name ? fn->system_name : fn->name;
		int64_t was = fn->name, name = was;
		int64_t file = fn->filename, start = fn->start_line;

		if (name == system_name || name == 0)
			name = pbfile_string(j->f,
					     human(j->s, pbfile_text(j->f, system_name)));
		j->changed |=
			strcmp(pbfile_text(j->f, name), pbfile_text(j->f, was)) != 0;
		l->line[i]->function_id =
			pbfile_function(j->f, name, system_name, file, start);
	}
}

/* Says in the mapping, and in *out_counts, what the location has. */
static void count_location(struct job *j, const Seep__Pprof__Location *l,
			   struct symbolizer_counts *out_counts)
{
	Seep__Pprof__Mapping *map = j->f->p->mapping[l->mapping_id - 1];
	bool named = false, filed = false, lined = false;

	for (size_t i = 0; i < l->n_line; i++) {
		const Seep__Pprof__Function *fn =
			pbfile_function_at(j->f, l->line[i]->function_id);

		named |= fn->name != 0;
		filed |= fn->filename != 0;
		lined |= l->line[i]->line != 0;
	}
	j->changed |= named && !map->has_functions;
	map->has_functions |= named;
	map->has_filenames |= filed;
	map->has_line_numbers |= lined;
	map->has_inline_frames |= l->n_line > 1 || j->has_lines[l->mapping_id - 1];
	out_counts->places++;
	out_counts->named +=
		named &&
		!names_is_place(pbfile_text(
			j->f, pbfile_function_at(j->f, l->line[0]->function_id)->name));
	out_counts->lined += lined;
}

/* ---- what functions return ---- */

/* Was it seen in the second return register? Then the profile says so in label `to`. */
static bool in_second(const struct job *j, const Seep__Pprof__Sample *sample)
{
	const Seep__Pprof__Label *to = label_of(j->f, sample, "to");

	return to && pbfile_text(j->f, to->str)[0] != '\0';
}

enum holds { HOLDS_MAYBE, HOLDS_YES, HOLDS_NO };

/* Does a function of that type hand back a pointer in that register? */
static enum holds holds(enum dwarf_returns returns, bool second)
{
	switch (returns) {
	case RETURNS_PAIR:
		return HOLDS_YES;
	case RETURNS_POINTER:
		return second ? HOLDS_MAYBE : HOLDS_YES;
	case RETURNS_SECOND:
		return second ? HOLDS_YES : HOLDS_MAYBE;
	case RETURNS_NOTHING:
		return HOLDS_NO;
	default:
		return HOLDS_MAYBE;
	}
}

/* An object of an escape profile that was seen in the return register when an activation
 * ended: the type of that function says whether it was handed on there. */
static void settle_returned(struct job *j, const Seep__Pprof__Sample *sample)
{
	Seep__Pprof__Label *escape = label_of(j->f, sample, "escape");
	const Seep__Pprof__Label *depth = label_of(j->f, sample, "depth");
	const Seep__Pprof__Label *confidence = label_of(j->f, sample, "confidence");
	const struct dwarf_address *a;
	struct dwarf_module *m;
	uint64_t id, address;

	if (!escape || !depth || depth->num < 1 || !confidence ||
	    (size_t)depth->num > sample->n_location_id ||
	    strcmp(pbfile_text(j->f, escape->str), "maybe-returned") != 0 ||
	    strncmp(pbfile_text(j->f, confidence->str), "exact", 5) != 0)
		return;
	id = sample->location_id[depth->num - 1];
	m = module_of(j, j->f->p->location[id - 1], &address);
	a = m ? dwarf_lookup(m, address) : NULL;
	switch (a ? holds(a->returns, in_second(j, sample)) : HOLDS_MAYBE) {
	case HOLDS_YES:
		escape->str = pbfile_string(j->f, "returned");
		j->changed = true;
		break;
	case HOLDS_NO:
		escape->str = pbfile_string(j->f, "unknown");
		j->changed = true;
		break;
	default:
		break;
	}
}

/* Is the text before rest the same as, or does it end in, what? */
static bool ends_in(const char *text, const char *rest, const char *what)
{
	size_t n = strlen(what);

	return (size_t)(rest - text) >= n && memcmp(rest - n, what, n) == 0;
}

/* An escape profile's "object of make, offset 8" becomes "object of make (x.c:12), offset
 * 8", by the frame of the function that is named. */
static void name_holder(struct job *j, const Seep__Pprof__Sample *sample)
{
	Seep__Pprof__Label *to = label_of(j->f, sample, "to");
	const char *text = to ? pbfile_text(j->f, to->str) : "", *slash;
	const char *rest = strstr(text, ", offset ");
	const struct dwarf_frame *frame;
	const struct dwarf_address *a;
	struct dwarf_module *m;
	Seep__Pprof__Location l;
	uint64_t address;
	char *line, *fresh;

	if (!rest || !holder_of(j, sample, &l))
		return;
	m = module_of(j, &l, &address);
	a = m ? dwarf_lookup(m, address) : NULL;
	frame = a && a->has_lines ? &a->frames[a->nframes - 1] : NULL;
	if (!frame || !frame->file || !frame->line)
		return;
	slash = strrchr(frame->file, '/');
	line = format_string(" (%s:%d)", slash ? slash + 1 : frame->file, frame->line);
	if (!ends_in(text, rest, line)) {
		fresh = format_string("%.*s%s%s", (int)(rest - text), text, line, rest);
		to->str = pbfile_string(j->f, fresh);
		j->changed = true;
		free(fresh);
	}
	free(line);
}

bool symbolizer_profile(struct symbolizer *s, struct pbfile *f,
			struct symbolizer_counts *out_counts)
{
	Seep__Pprof__Profile *p = f->p;
	struct job j = { .s = s, .f = f };
	uint64_t address;

	*out_counts = (struct symbolizer_counts){ 0 };
	j.modules = allocate((p->n_mapping + 1) * sizeof(struct dwarf_module *));
	j.has_lines = allocate(p->n_mapping + 1);
	j.touched = allocate(p->n_mapping + 1);
	want_all(&j);
	pbfile_string(f, ""); /* from here on the file is being changed */
	for (size_t i = 0; i < p->n_location; i++) {
		Seep__Pprof__Location *l = p->location[i];
		struct dwarf_module *m = module_of(&j, l, &address);
		const struct dwarf_address *a = m ? dwarf_lookup(m, address) : NULL;

		if (a && a->frames && (a->has_lines || !old_name(&j, l)))
			set_lines(&j, l, a);
		else
			rename_lines(&j, l);
	}
	for (size_t i = 0; i < p->n_location; i++)
		if (p->location[i]->mapping_id)
			count_location(&j, p->location[i], out_counts);
	for (size_t i = 0; i < p->n_sample; i++) {
		settle_returned(&j, p->sample[i]);
		name_holder(&j, p->sample[i]);
	}
	free(j.modules);
	free(j.has_lines);
	free(j.touched);
	return j.changed;
}

/* ---- reports ---- */

static const char *text_in(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

struct report {
	struct symbolizer *s;
	json_t *root;
	int64_t not_after;
	struct symbolizer_counts *counts;
	struct intern wanted, old; /* addresses of frames, of which a report has few */
	struct stand_in *in;	   /* by their numbers: what each stands for */
	size_t in_size;
	bool changed; /* some frame is not what it was */
};

struct stand_in {
	json_t *frames;		       /* a list */
	uint64_t places, lined, named; /* to count each time */
};

static const char *build_id_of(const struct report *r, const char *path)
{
	json_t *module;
	size_t i;

	json_array_foreach(json_object_get(r->root, "modules"), i, module)
	{
		if (strcmp(text_in(module, "path"), path) == 0)
			return text_in(module, "build_id");
	}
	return "";
}

static struct dwarf_module *frame_module(const struct report *r, const json_t *frame)
{
	const char *path = text_in(frame, "module");

	if (!*path || !r->s->dwarf)
		return NULL;
	return dwarf_module(r->s->dwarf, path, build_id_of(r, path), r->not_after);
}

static uint64_t frame_offset(const json_t *frame)
{
	return (uint64_t)json_integer_value(json_object_get(frame, "offset"));
}

static json_t *new_frame(const struct report *r, json_t *old,
			 const struct dwarf_frame *from, bool inlined)
{
	json_t *frame = json_copy(old);
	const char *name = from->function;

	if (name)
		json_object_set_new(frame, "function", json_string(human(r->s, name)));
	else if (inlined)
		json_object_set_new(frame, "function", json_string("??"));
	if (from->file)
		json_object_set_new(frame, "file", json_string(from->file));
	json_object_set_new(frame, "line", json_integer(from->line));
	if (inlined)
		json_object_set_new(frame, "inlined", json_true());
	return frame;
}

/* What the frame stands for. */
static void find_frames(struct report *r, json_t *old, struct stand_in *in)
{
	struct dwarf_module *m = frame_module(r, old);
	const struct dwarf_address *a = m ? dwarf_lookup(m, frame_offset(old)) : NULL;
	const char *name = text_in(old, "function");

	if (*text_in(old, "module"))
		in->places++;
	if (*text_in(old, "file") || json_is_true(json_object_get(old, "inlined")))
		a = NULL; /* done before */
	if (a && a->frames && (a->has_lines || !*name)) {
		in->lined += a->has_lines;
		in->named++;
		r->changed = true;
		for (int i = 0; i < a->nframes; i++)
			json_array_append_new(in->frames, new_frame(r, old, &a->frames[i],
								    i + 1 < a->nframes));
		return;
	}
	in->named += *name != '\0';
	if (*name && strcmp(name, human(r->s, name)) != 0) {
		json_object_set_new(old, "function", json_string(human(r->s, name)));
		r->changed = true;
	}
	json_array_append(in->frames, old);
}

static void add_frames(struct report *r, json_t *old, json_t *stack)
{
	size_t before = r->old.count;
	size_t number = intern_bytes(&r->old, &old, sizeof(old));
	struct stand_in *in;

	if (number == before) {
		r->in = grown(r->in, number, &r->in_size, sizeof(*r->in));
		r->in[number] = (struct stand_in){ .frames = json_array() };
		json_incref(old); /* its address is not to be another's */
		find_frames(r, old, &r->in[number]);
	}
	in = &r->in[number];
	r->counts->places += in->places;
	r->counts->lined += in->lined;
	r->counts->named += in->named;
	json_array_extend(stack, in->frames);
}

static void free_stand_ins(struct report *r)
{
	for (size_t i = 0; i < r->old.count; i++) {
		json_t *old;

		memcpy(&old, intern_key(&r->old, i), sizeof(old));
		json_decref(old);
		json_decref(r->in[i].frames);
	}
	free(r->in);
	intern_free(&r->old);
	intern_free(&r->wanted);
}

static void each_stack(struct report *r, const char *list,
		       void (*fn)(struct report *, json_t *leak))
{
	json_t *leak;
	size_t i;

	json_array_foreach(json_object_get(r->root, list), i, leak)
	{
		fn(r, leak);
	}
}

static void want_stack(struct report *r, json_t *leak)
{
	json_t *frame;
	size_t i;

	json_array_foreach(json_object_get(leak, "stack"), i, frame)
	{
		size_t before = r->wanted.count;
		struct dwarf_module *m;

		if (intern_bytes(&r->wanted, &frame, sizeof(frame)) < before)
			continue;
		m = frame_module(r, frame);
		if (m)
			dwarf_want(m, frame_offset(frame), *text_in(frame, "function"));
	}
}

static void rewrite_stack(struct report *r, json_t *leak)
{
	json_t *frame, *stack = json_array();
	size_t i;

	json_array_foreach(json_object_get(leak, "stack"), i, frame)
	{
		add_frames(r, frame, stack);
	}
	json_object_set_new(leak, "stack", stack);
}

static void do_report(struct report *r)
{
	static const char *const lists[] = { "leaks", "possible", "suppressed",
					     "reachable" };
	const size_t n = sizeof(lists) / sizeof(lists[0]);

	for (size_t i = 0; i < n; i++)
		each_stack(r, lists[i], want_stack);
	if (r->s->dwarf)
		dwarf_resolve(r->s->dwarf);
	for (size_t i = 0; i < n; i++)
		each_stack(r, lists[i], rewrite_stack);
	free_stand_ins(r);
}

void symbolizer_report(struct symbolizer *s, json_t *report, int64_t not_after)
{
	struct symbolizer_counts counts = { 0 };
	struct report r = { .s = s, .root = report, .counts = &counts };

	r.not_after = not_after ? not_after : (int64_t)time(NULL) * 1000000000;
	do_report(&r);
}

static bool report_file(struct symbolizer *s, const char *bytes, const char *in,
			const char *out, struct symbolizer_counts *out_counts)
{
	struct report r = { .s = s, .counts = out_counts };
	struct stat st;
	size_t size;
	char *text;
	bool ok;

	if (stat(in, &st) == 0)
		r.not_after = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	r.root = reportjson_parse(bytes, strlen(bytes), NULL);
	if (!json_is_array(json_object_get(r.root, "leaks"))) {
		json_decref(r.root);
		errno = EILSEQ;
		return false;
	}
	do_report(&r);
	if (!r.changed && strcmp(in, out) == 0) {
		json_decref(r.root);
		return true;
	}
	text = reportjson_text(r.root, &size);
	json_decref(r.root);
	if (!text) {
		errno = ENOMEM;
		return false;
	}
	ok = file_bytes_write(text, size, out);
	free(text);
	return ok;
}

bool symbolizer_file(struct symbolizer *s, const char *in, const char *out,
		     struct symbolizer_counts *out_counts, char **out_why)
{
	size_t size;
	uint8_t *bytes;
	struct pbfile *f;
	bool ok;

	*out_counts = (struct symbolizer_counts){ 0 };
	errno = 0;
	bytes = file_bytes_read(in, &size);
	if (bytes && size > 0 && bytes[0] == '{') {
		ok = report_file(s, (const char *)bytes, in, out, out_counts);
		free(bytes);
	} else {
		if (!bytes)
			f = pbfile_read(in, out_why); /* says why */
		else
			f = pbfile_parse_places(bytes, size, settled_labels, out_why);
		if (!f)
			return false;
		ok = !symbolizer_profile(s, f, out_counts) && strcmp(in, out) == 0;
		ok = ok || pbfile_write(f, out);
		pbfile_free(f);
	}
	if (!ok)
		*out_why = errno == EILSEQ ? format_string("it is not a report")
					   : format_string("cannot write %s: %s", out,
							   strerror(errno));
	return ok;
}
