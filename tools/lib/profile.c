/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile: see profile.h.
 */
#include "tools/lib/profile.h"

#include <libiberty/demangle.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "profile.pb-c.h"
#include "tools/lib/say.h"

#define MAX_SHOWN_FRAMES 4
#define MAX_FILE	 (1u << 30)

char *profile_demangle(const char *name)
{
	char *text = NULL;

	if (name[0] == '_' && (name[1] == 'Z' || name[1] == 'R'))
		text = cplus_demangle(name, DMGL_ANSI | DMGL_AUTO);
	return text ? text : format_string("%s", name);
}

static uint8_t *read_all(const char *path, size_t *out_size)
{
	gzFile f = gzopen(path, "rb");
	size_t capacity = 1 << 16, used = 0;
	uint8_t *bytes;
	int n;

	if (!f)
		return NULL;
	bytes = allocate(capacity);
	while ((n = gzread(f, bytes + used, (unsigned)(capacity - used))) > 0) {
		used += (size_t)n;
		if (used < capacity)
			continue;
		capacity *= 2;
		bytes = capacity <= MAX_FILE ? realloc(bytes, capacity) : NULL;
		if (!bytes)
			break;
	}
	gzclose(f);
	*out_size = used;
	return bytes;
}

static const char *text_of(const Seep__Pprof__Profile *p, int64_t i)
{
	return i > 0 && (size_t)i < p->n_string_table ? p->string_table[i] : "";
}

static int type_index(const Seep__Pprof__Profile *p, const char *name)
{
	for (size_t i = 0; i < p->n_sample_type; i++)
		if (strcmp(text_of(p, p->sample_type[i]->type), name) == 0)
			return (int)i;
	return -1;
}

/* Ids are handed out in order from 1 by our writer; a search keeps this right for any. */
static const Seep__Pprof__Location *location(const Seep__Pprof__Profile *p, uint64_t id)
{
	if (id > 0 && id <= p->n_location && p->location[id - 1]->id == id)
		return p->location[id - 1];
	for (size_t i = 0; i < p->n_location; i++)
		if (p->location[i]->id == id)
			return p->location[i];
	return NULL;
}

static char *frame_name(const Seep__Pprof__Profile *p, uint64_t location_id)
{
	const Seep__Pprof__Location *l = location(p, location_id);

	if (l && l->n_line > 0)
		for (size_t i = 0; i < p->n_function; i++)
			if (p->function[i]->id == l->line[0]->function_id)
				return profile_demangle(text_of(p, p->function[i]->name));
	return format_string("%#llx", l ? (unsigned long long)l->address : 0ull);
}

static char *describe(const Seep__Pprof__Profile *p, const Seep__Pprof__Sample *s)
{
	char *text = format_string("%s", "");

	for (size_t i = 0; i < s->n_location_id && i < MAX_SHOWN_FRAMES; i++) {
		char *name = frame_name(p, s->location_id[i]);
		char *joined = format_string("%s%s%s", text, i ? " < " : "", name);

		free(name);
		free(text);
		text = joined;
	}
	return text;
}

static int by_space;

static int larger_first(const void *a, const void *b)
{
	const Seep__Pprof__Sample *x = *(Seep__Pprof__Sample *const *)a;
	const Seep__Pprof__Sample *y = *(Seep__Pprof__Sample *const *)b;

	return x->value[by_space] < y->value[by_space]	 ? 1
	       : x->value[by_space] > y->value[by_space] ? -1
							 : 0;
}

static int pick(const Seep__Pprof__Profile *p, int objects, int space,
		struct profile_site *sites, int n)
{
	int found = 0;

	by_space = space;
	qsort(p->sample, p->n_sample, sizeof(*p->sample), larger_first);
	for (size_t i = 0; i < p->n_sample && found < n; i++) {
		const Seep__Pprof__Sample *s = p->sample[i];

		if (s->value[space] <= 0)
			break;
		sites[found++] = (struct profile_site){ s->value[objects],
							s->value[space], describe(p, s) };
	}
	return found;
}

int profile_top(const char *path, const char *objects_type, const char *space_type,
		struct profile_site *sites, int n)
{
	size_t size;
	uint8_t *bytes = read_all(path, &size);
	Seep__Pprof__Profile *p;
	int found = -1, objects, space;

	if (!bytes)
		return -1;
	p = seep__pprof__profile__unpack(NULL, size, bytes);
	free(bytes);
	if (!p)
		return -1;
	objects = type_index(p, objects_type);
	space = type_index(p, space_type);
	if (objects >= 0 && space >= 0)
		found = pick(p, objects, space, sites, n);
	seep__pprof__profile__free_unpacked(p, NULL);
	return found;
}

void profile_free(struct profile_site *sites, int n)
{
	for (int i = 0; i < n; i++)
		free(sites[i].stack);
}
