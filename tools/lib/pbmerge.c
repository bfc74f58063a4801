/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pbmerge: see pbmerge.h.
 */
#include "tools/lib/pbmerge.h"

#include <stdlib.h>
#include <string.h>

#include "tools/lib/say.h"

const char *pbmerge_mismatch(const struct pbfile *a, const struct pbfile *b)
{
	const Seep__Pprof__Profile *x = a->p, *y = b->p;

	if (x->n_sample_type != y->n_sample_type)
		return "they are of different kinds: the sample types differ";
	for (size_t i = 0; i < x->n_sample_type; i++)
		if (strcmp(pbfile_text(a, x->sample_type[i]->type),
			   pbfile_text(b, y->sample_type[i]->type)) != 0 ||
		    strcmp(pbfile_text(a, x->sample_type[i]->unit),
			   pbfile_text(b, y->sample_type[i]->unit)) != 0)
			return "they are of different kinds: the sample types differ";
	return NULL;
}

struct merge {
	struct pbfile *f;
	const struct pbfile *old;
	struct intern mappings, locations, samples; /* numbers: index in f's lists */
	uint64_t *mapping_ids, *location_ids;	    /* of old's, in f; by old's id */
};

/* ---- lists that grow ---- */

static void *longer(struct pbfile *f, const void *list, size_t n, size_t more)
{
	void **out = arena_alloc(&f->arena, (n + more + 1) * sizeof(void *));

	if (n > 0)
		memcpy(out, list, n * sizeof(void *));
	return out;
}

/* ---- mappings ---- */

static size_t mapping_number(struct merge *m, const struct pbfile *f,
			     const Seep__Pprof__Mapping *map)
{
	const char *id = pbfile_text(f, map->build_id);
	char *key = format_string(
		"%s\n%llx\n%llx", *id ? id : pbfile_text(f, map->filename),
		(unsigned long long)map->file_offset,
		(unsigned long long)((map->memory_limit - map->memory_start + 4095) /
				     4096));
	size_t number = intern_text(&m->mappings, key);

	free(key);
	return number;
}

static uint64_t add_mapping(struct merge *m, const Seep__Pprof__Mapping *from)
{
	Seep__Pprof__Profile *p = m->f->p;
	Seep__Pprof__Mapping *map = arena_alloc(&m->f->arena, sizeof(*map));

	*map = *from;
	map->id = p->n_mapping + 1;
	map->filename = pbfile_string(m->f, pbfile_text(m->old, from->filename));
	map->build_id = pbfile_string(m->f, pbfile_text(m->old, from->build_id));
	p->mapping[p->n_mapping++] = map;
	return map->id;
}

static void merge_mappings(struct merge *m)
{
	Seep__Pprof__Profile *p = m->f->p;
	const Seep__Pprof__Profile *old = m->old->p;
	uint64_t *ids = allocate((p->n_mapping + old->n_mapping + 1) * sizeof(*ids));

	p->mapping = longer(m->f, p->mapping, p->n_mapping, old->n_mapping);
	for (size_t i = 0; i < p->n_mapping; i++) {
		size_t number = mapping_number(m, m->f, p->mapping[i]);

		if (!ids[number])
			ids[number] = i + 1;
	}
	for (size_t i = 0; i < old->n_mapping; i++) {
		size_t number = mapping_number(m, m->old, old->mapping[i]);

		if (!ids[number])
			ids[number] = add_mapping(m, old->mapping[i]);
		m->mapping_ids[i + 1] = ids[number];
	}
	free(ids);
}

/* ---- locations ---- */

/* A location's place and lines, in f's numbers. */
static size_t location_number(struct merge *m, const Seep__Pprof__Location *l)
{
	uint64_t key[2 + 3 * 64] = { l->mapping_id, l->address };
	size_t n = 2;

	if (l->mapping_id)
		key[1] -= m->f->p->mapping[l->mapping_id - 1]->memory_start;
	for (size_t i = 0; i < l->n_line && i < 64; i++) {
		key[n++] = l->line[i]->function_id;
		key[n++] = (uint64_t)l->line[i]->line;
		key[n++] = (uint64_t)l->line[i]->column;
	}
	return intern_bytes(&m->locations, key, n * sizeof(*key));
}

static int64_t text_in(struct merge *m, int64_t string)
{
	return pbfile_string(m->f, pbfile_text(m->old, string));
}

static Seep__Pprof__Location *copy_location(struct merge *m,
					    const Seep__Pprof__Location *from)
{
	struct arena *a = &m->f->arena;
	Seep__Pprof__Location *l = arena_alloc(a, sizeof(*l));
	Seep__Pprof__Line *lines = arena_alloc(a, (from->n_line + 1) * sizeof(*lines));

	*l = *from;
	l->mapping_id = m->mapping_ids[from->mapping_id];
	if (from->mapping_id)
		l->address += m->f->p->mapping[l->mapping_id - 1]->memory_start -
			      m->old->p->mapping[from->mapping_id - 1]->memory_start;
	l->line = arena_alloc(a, (from->n_line + 1) * sizeof(Seep__Pprof__Line *));
	for (size_t i = 0; i < from->n_line; i++) {
		const Seep__Pprof__Function *fn =
			m->old->p->function[from->line[i]->function_id - 1];

		lines[i] = *from->line[i];
		lines[i].function_id = pbfile_function(
			m->f, text_in(m, fn->name), text_in(m, fn->system_name),
			text_in(m, fn->filename), fn->start_line);
		l->line[i] = &lines[i];
	}
	return l;
}

static void merge_locations(struct merge *m)
{
	Seep__Pprof__Profile *p = m->f->p;
	const Seep__Pprof__Profile *old = m->old->p;
	uint64_t *ids = allocate((p->n_location + old->n_location + 1) * sizeof(*ids));

	p->location = longer(m->f, p->location, p->n_location, old->n_location);
	for (size_t i = 0; i < p->n_location; i++) {
		size_t number = location_number(m, p->location[i]);

		if (!ids[number])
			ids[number] = i + 1;
	}
	for (size_t i = 0; i < old->n_location; i++) {
		Seep__Pprof__Location *l = copy_location(m, old->location[i]);
		size_t number = location_number(m, l);

		if (!ids[number]) {
			l->id = ids[number] = p->n_location + 1;
			p->location[p->n_location++] = l;
		}
		m->location_ids[i + 1] = ids[number];
	}
	free(ids);
}

/* ---- samples ---- */

static size_t sample_number(struct merge *m, const Seep__Pprof__Sample *s)
{
	size_t n = s->n_location_id + 4 * s->n_label;
	uint64_t *key = allocate((n + 1) * sizeof(*key)), *at = key;
	size_t number;

	for (size_t i = 0; i < s->n_location_id; i++)
		*at++ = s->location_id[i];
	for (size_t i = 0; i < s->n_label; i++) {
		*at++ = (uint64_t)s->label[i]->key | 1ull << 63;
		*at++ = (uint64_t)s->label[i]->str;
		*at++ = (uint64_t)s->label[i]->num;
		*at++ = (uint64_t)s->label[i]->num_unit;
	}
	number = intern_bytes(&m->samples, key, n * sizeof(*key));
	free(key);
	return number;
}

static Seep__Pprof__Sample *copy_sample(struct merge *m, const Seep__Pprof__Sample *from)
{
	struct arena *a = &m->f->arena;
	Seep__Pprof__Sample *s = arena_alloc(a, sizeof(*s));
	Seep__Pprof__Label *labels =
		arena_alloc(a, (from->n_label + 1) * sizeof(*labels));

	*s = *from;
	s->location_id = arena_alloc(a, (from->n_location_id + 1) * sizeof(uint64_t));
	for (size_t i = 0; i < from->n_location_id; i++)
		s->location_id[i] = m->location_ids[from->location_id[i]];
	s->label = arena_alloc(a, (from->n_label + 1) * sizeof(Seep__Pprof__Label *));
	for (size_t i = 0; i < from->n_label; i++) {
		labels[i] = *from->label[i];
		labels[i].key = text_in(m, from->label[i]->key);
		labels[i].str = text_in(m, from->label[i]->str);
		labels[i].num_unit = text_in(m, from->label[i]->num_unit);
		s->label[i] = &labels[i];
	}
	s->value = arena_zalloc(a, from->n_value * sizeof(int64_t));
	return s;
}

static void merge_samples(struct merge *m)
{
	Seep__Pprof__Profile *p = m->f->p;
	const Seep__Pprof__Profile *old = m->old->p;
	Seep__Pprof__Sample **list = longer(m->f, NULL, 0, p->n_sample + old->n_sample);
	size_t n = 0, kept = 0;

	for (size_t i = 0; i < p->n_sample + old->n_sample; i++) {
		bool is_old = i >= p->n_sample;
		Seep__Pprof__Sample *s =
			is_old ? copy_sample(m, old->sample[i - p->n_sample])
			       : p->sample[i];
		size_t number = sample_number(m, s);

		if (number == n)
			list[n++] = s;
		for (size_t k = 0; k < p->n_sample_type; k++) {
			int64_t *to = &list[number]->value[k];

			if (is_old)
				*to -= old->sample[i - p->n_sample]->value[k];
			else if (list[number] != s)
				*to += s->value[k];
		}
	}
	for (size_t i = 0; i < n; i++) {
		bool any = false;

		for (size_t k = 0; k < p->n_sample_type; k++)
			any |= list[i]->value[k] != 0;
		if (any)
			list[kept++] = list[i];
	}
	p->sample = list;
	p->n_sample = kept;
}

void pbmerge_subtract(struct pbfile *f, const struct pbfile *old)
{
	struct merge m = { .f = f, .old = old };

	m.mapping_ids = allocate((old->p->n_mapping + 1) * sizeof(uint64_t));
	m.location_ids = allocate((old->p->n_location + 1) * sizeof(uint64_t));
	pbfile_string(f, ""); /* from here on strings are numbered by content */
	merge_mappings(&m);
	merge_locations(&m);
	merge_samples(&m);
	if (old->p->time_nanos > 0 && f->p->time_nanos > old->p->time_nanos)
		f->p->duration_nanos = f->p->time_nanos - old->p->time_nanos;
	intern_free(&m.mappings);
	intern_free(&m.locations);
	intern_free(&m.samples);
	free(m.mapping_ids);
	free(m.location_ids);
}
