/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threadfile: see threadfile.h.
 */
#include "tools/lib/threadfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "profile.pb-c.h"
#include "tools/lib/profile.h"
#include "tools/lib/say.h"

struct threadfile {
	Seep__Pprof__Profile *p;
	struct thread_sample *samples; /* of p->sample, in order */
};

static const char *text_of(const Seep__Pprof__Profile *p, int64_t i)
{
	return i > 0 && (size_t)i < p->n_string_table ? p->string_table[i] : "";
}

static const Seep__Pprof__Label *label(const Seep__Pprof__Profile *p,
				       const Seep__Pprof__Sample *s, const char *key)
{
	for (size_t i = 0; i < s->n_label; i++)
		if (strcmp(text_of(p, s->label[i]->key), key) == 0)
			return s->label[i];
	return NULL;
}

static const char *text_label(const Seep__Pprof__Profile *p, const Seep__Pprof__Sample *s,
			      const char *key)
{
	const Seep__Pprof__Label *l = label(p, s, key);

	return l ? text_of(p, l->str) : "";
}

static int64_t number_label(const Seep__Pprof__Profile *p, const Seep__Pprof__Sample *s,
			    const char *key)
{
	const Seep__Pprof__Label *l = label(p, s, key);

	return l ? l->num : 0;
}

/* ---- frames ---- */

static const Seep__Pprof__Location *location(const Seep__Pprof__Profile *p, uint64_t id)
{
	if (id > 0 && id <= p->n_location && p->location[id - 1]->id == id)
		return p->location[id - 1];
	for (size_t i = 0; i < p->n_location; i++)
		if (p->location[i]->id == id)
			return p->location[i];
	return NULL;
}

static const char *function_name(const Seep__Pprof__Profile *p, uint64_t id)
{
	for (size_t i = 0; i < p->n_function; i++)
		if (p->function[i]->id == id)
			return text_of(p, p->function[i]->name);
	return "";
}

static const char *mapping_file(const Seep__Pprof__Profile *p, uint64_t id)
{
	for (size_t i = 0; i < p->n_mapping; i++)
		if (p->mapping[i]->id == id)
			return text_of(p, p->mapping[i]->filename);
	return "";
}

static struct thread_frame frame_of(const Seep__Pprof__Profile *p, uint64_t id)
{
	const Seep__Pprof__Location *l = location(p, id);
	const char *name = "";

	if (!l)
		return (struct thread_frame){ 0, format_string("%s", ""), "" };
	if (l->n_line > 0)
		name = function_name(p, l->line[0]->function_id);
	return (struct thread_frame){ l->address, profile_demangle(name),
				      mapping_file(p, l->mapping_id) };
}

static void read_sample(const Seep__Pprof__Profile *p, const Seep__Pprof__Sample *s,
			struct thread_sample *out)
{
	out->role = text_label(p, s, "role");
	out->name = text_label(p, s, "thread");
	out->state = text_label(p, s, "state");
	out->blocked = text_label(p, s, "blocked");
	out->over_time = text_label(p, s, "over_time");
	out->growing = text_label(p, s, "growing");
	out->count = s->n_value > 0 ? s->value[0] : 0;
	out->live = s->n_value > 1 ? s->value[1] : out->count;
	out->peak = number_label(p, s, "peak");
	out->tid = number_label(p, s, "tid");
	out->address = number_label(p, s, "address");
	out->other = number_label(p, s, "other");
	out->wait_ns = number_label(p, s, "wait");
	out->bytes = number_label(p, s, "bytes");
	out->nframes = s->n_location_id;
	out->frames = allocate((s->n_location_id + 1) * sizeof(*out->frames));
	for (size_t i = 0; i < s->n_location_id; i++) {
		out->frames[i] = frame_of(p, s->location_id[i]);
		out->stack = (out->stack ^ s->location_id[i]) * 0x100000001b3u;
	}
}

static Seep__Pprof__Profile *unpack(const char *path)
{
	gzFile f = gzopen(path, "rb");
	size_t capacity = 1 << 20, used = 0;
	Seep__Pprof__Profile *p;
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
		bytes = realloc(bytes, capacity);
		if (!bytes)
			die(EXIT_INCOMPLETE, "out of memory");
	}
	gzclose(f);
	p = n < 0 ? NULL : seep__pprof__profile__unpack(NULL, used, bytes);
	free(bytes);
	return p;
}

struct threadfile *threadfile_read(const char *path)
{
	struct threadfile *f = allocate(sizeof(*f));

	f->p = unpack(path);
	if (!f->p) {
		free(f);
		return NULL;
	}
	f->samples = allocate((f->p->n_sample + 1) * sizeof(*f->samples));
	for (size_t i = 0; i < f->p->n_sample; i++)
		read_sample(f->p, f->p->sample[i], &f->samples[i]);
	return f;
}

bool threadfile_is(const struct threadfile *f, const char *kind)
{
	return f->p->n_sample_type > 0 &&
	       strcmp(text_of(f->p, f->p->sample_type[0]->type), kind) == 0;
}

size_t threadfile_count(const struct threadfile *f)
{
	return f->p->n_sample;
}

const struct thread_sample *threadfile_at(const struct threadfile *f, size_t i)
{
	return &f->samples[i];
}

bool threadfile_has_comment(const struct threadfile *f, const char *text)
{
	for (size_t i = 0; i < f->p->n_comment; i++)
		if (strcmp(text_of(f->p, f->p->comment[i]), text) == 0)
			return true;
	return false;
}

const char *threadfile_wait(int64_t wait_ns, char *buf, size_t size)
{
	double s = (double)wait_ns / 1e9;

	if (wait_ns <= 0)
		buf[0] = '\0';
	else if (s < 1)
		snprintf(buf, size, ", %.0f ms", s * 1e3);
	else if (s < 120)
		snprintf(buf, size, ", %.0f s", s);
	else if (s < 7200)
		snprintf(buf, size, ", %.0f minutes", s / 60);
	else
		snprintf(buf, size, ", %.1f hours", s / 3600);
	return buf;
}

/* ---- groups ---- */

static bool same(const struct thread_sample *a, const struct thread_sample *b)
{
	return a->stack == b->stack && a->nframes == b->nframes &&
	       strcmp(a->name, b->name) == 0 && strcmp(a->state, b->state) == 0 &&
	       strcmp(a->blocked, b->blocked) == 0;
}

bool threadfile_same(const struct threadfile *f, size_t i, size_t k)
{
	return same(&f->samples[i], &f->samples[k]) &&
	       strcmp(f->samples[i].role, f->samples[k].role) == 0;
}

bool threadfile_seen(const struct threadfile *f, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (threadfile_same(f, i, k))
			return true;
	return false;
}

/* Labels of one thread are dropped, unless it is alone; the longest wait of the group
 * stays. */
static void make_group(const Seep__Pprof__Profile *p, Seep__Pprof__Sample *s, int64_t n,
		       int64_t wait_ns, bool alone)
{
	size_t kept = 0;

	s->value[0] = n;
	for (size_t i = 0; i < s->n_label; i++) {
		const char *key = text_of(p, s->label[i]->key);

		if (!alone && (strcmp(key, "tid") == 0 || strcmp(key, "other") == 0 ||
			       strcmp(key, "address") == 0))
			continue;
		if (strcmp(key, "wait") == 0)
			s->label[i]->num = wait_ns;
		s->label[kept++] = s->label[i];
	}
	s->n_label = kept;
}

/* Such threads stay apart, with their labels: they tell who waits for whom. */
static bool is_deadlocked(const struct thread_sample *s)
{
	return strcmp(s->blocked, "deadlock") == 0;
}

static size_t group(struct threadfile *f, Seep__Pprof__Sample **out)
{
	size_t n = f->p->n_sample, groups = 0;
	bool *done = allocate(n + 1);

	for (size_t i = 0; i < n; i++) {
		int64_t count = 0, wait_ns = 0;

		if (done[i] || f->samples[i].role[0])
			continue;
		for (size_t k = i; k < n; k++) {
			if (f->samples[k].role[0] ||
			    (k != i && (is_deadlocked(&f->samples[i]) ||
					!same(&f->samples[i], &f->samples[k]))))
				continue;
			done[k] = true;
			count++;
			if (f->samples[k].wait_ns > wait_ns)
				wait_ns = f->samples[k].wait_ns;
		}
		make_group(f->p, f->p->sample[i], count, wait_ns,
			   is_deadlocked(&f->samples[i]));
		out[groups++] = f->p->sample[i];
	}
	free(done);
	return groups;
}

bool threadfile_write_groups(struct threadfile *f, int fd)
{
	Seep__Pprof__Sample **all = f->p->sample;
	Seep__Pprof__Sample **groups = allocate((f->p->n_sample + 1) * sizeof(*groups));
	size_t n = f->p->n_sample, ngroups = group(f, groups), size;
	gzFile out = gzdopen(dup(fd), "wb");
	uint8_t *bytes;
	bool ok;

	f->p->sample = groups;
	f->p->n_sample = ngroups;
	size = seep__pprof__profile__get_packed_size(f->p);
	bytes = allocate(size + 1);
	seep__pprof__profile__pack(f->p, bytes);
	ok = out && gzwrite(out, bytes, (unsigned)size) == (int)size;
	ok = out && gzclose(out) == Z_OK && ok;
	free(bytes);
	free(groups);
	f->p->sample = all;
	f->p->n_sample = n;
	return ok;
}
