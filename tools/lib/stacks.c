/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stacks: see stacks.h.
 */
#include "tools/lib/stacks.h"

#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/names.h"
#include "tools/lib/say.h"

static const struct frame no_frame = { .function = "[stack not sampled]",
				       .file = "",
				       .module = "" };

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static const char *keep(struct stacks *s, char *text)
{
	const char *kept = arena_text(&s->arena, text, strlen(text));

	free(text);
	return kept;
}

/* What a function is called: as the profile says, or made readable from the linkage
 * name. */
static const char *function_name(struct stacks *s, const Seep__Pprof__Function *fn)
{
	const char *name = pbfile_text(s->file, fn->name);

	if (!*name)
		name = pbfile_text(s->file, fn->system_name);
	return name[0] == '_' ? keep(s, names_human(name, NAMES_SIMPLE)) : name;
}

static void add_location(struct stacks *s, const Seep__Pprof__Location *l,
			 const char **names, struct frame *to)
{
	const Seep__Pprof__Profile *p = s->file->p;
	const Seep__Pprof__Mapping *map =
		l->mapping_id ? p->mapping[l->mapping_id - 1] : NULL;
	struct frame base = { .function = "", .file = "", .module = "" };

	if (map) {
		base.module = pbfile_text(s->file, map->filename);
		base.offset = l->address - map->memory_start + map->file_offset;
	}
	if (l->n_line == 0) {
		base.function = keep(s, format_string("%s+%#llx", base_name(base.module),
						      (unsigned long long)base.offset));
		*to = base;
		return;
	}
	for (size_t i = 0; i < l->n_line; i++, to++) {
		const Seep__Pprof__Function *fn =
			p->function[l->line[i]->function_id - 1];

		*to = base;
		to->function = names[fn->id - 1];
		to->file = pbfile_text(s->file, fn->filename);
		to->line = l->line[i]->line;
		to->inlined = i + 1 < l->n_line;
	}
}

/* pprof's rule: the frame that matches and all below it, the expression being for the
 * whole name. */
static void mark_dropped(struct stacks *s, size_t nframes)
{
	const char *expression = pbfile_text(s->file, s->file->p->drop_frames);
	char *whole = format_string("^(%s)$", expression);
	regex_t re;

	s->dropped = allocate(nframes + 1);
	if (*expression && regcomp(&re, whole, REG_EXTENDED | REG_NOSUB) == 0) {
		for (size_t i = 0; i < nframes; i++)
			s->dropped[i] =
				regexec(&re, s->frames[i].function, 0, NULL, 0) == 0;
		regfree(&re);
	}
	free(whole);
}

void stacks_init(struct stacks *s, struct pbfile *file)
{
	const Seep__Pprof__Profile *p = file->p;
	const char **names = allocate((p->n_function + 1) * sizeof(char *));
	size_t n = 0;

	*s = (struct stacks){ .file = file };
	s->first = allocate((p->n_location + 1) * sizeof(*s->first));
	for (size_t i = 0; i < p->n_location; i++) {
		s->first[i] = n;
		n += p->location[i]->n_line ? p->location[i]->n_line : 1;
	}
	s->first[p->n_location] = n;
	s->frames = allocate((n + 1) * sizeof(*s->frames));
	for (size_t i = 0; i < p->n_function; i++)
		names[i] = function_name(s, p->function[i]);
	for (size_t i = 0; i < p->n_location; i++)
		add_location(s, p->location[i], names, &s->frames[s->first[i]]);
	free(names);
	mark_dropped(s, n);
}

void stacks_free(struct stacks *s)
{
	free(s->first);
	free(s->frames);
	free(s->dropped);
	free(s->buffer);
	arena_free(&s->arena);
}

static void push(struct stacks *s, size_t n, const struct frame *f)
{
	s->buffer = grown(s->buffer, n, &s->buffer_size, sizeof(*s->buffer));
	s->buffer[n] = *f;
}

size_t stacks_of(struct stacks *s, const Seep__Pprof__Sample *sample,
		 const struct frame **out_frames)
{
	size_t n = 0, from = 0;

	for (size_t i = 0; i < sample->n_location_id; i++) {
		uint64_t id = sample->location_id[i];

		for (size_t k = s->first[id - 1]; k < s->first[id]; k++) {
			push(s, n++, &s->frames[k]);
			if (s->dropped[k])
				from = n;
		}
	}
	if (n == 0)
		push(s, n++, &no_frame);
	if (from == n) /* nothing else is there */
		from = 0;
	*out_frames = s->buffer + from;
	return n - from;
}

bool frame_is_system(const struct frame *f)
{
	static const char *const starts[] = { "/usr/",	      "../sysdeps/",
					      "./",	      "../csu/",
					      "/build/",      "/rustc/",
					      "/rust/",	      "library/alloc/",
					      "library/std/", "library/core/" };

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
		if (strncmp(f->file, starts[i], strlen(starts[i])) == 0 &&
		    strncmp(f->file, "/usr/local/src/", 15) != 0)
			return true;
	return false;
}

char *frame_place(const struct frame *f)
{
	if (*f->file)
		return f->line ? format_string("%s:%lld", f->file, (long long)f->line)
			       : format_string("%s", f->file);
	return format_string("%s", f->module);
}
