/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escapes: see escapes.h.
 *
 * Structure: every sample of the profile gets a level, the number of innermost frames
 * that are looked through; samples with the same frames up to there, by address, are
 * gathered. Two passes for each level: find what is a mere wrapper, then raise the level
 * of its samples.
 */
#include "tools/lib/escapes.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "profile.pb-c.h"
#include "tools/lib/profile.h"
#include "tools/lib/say.h"

#define MAX_FILE     (1u << 30)
#define MAX_LEVEL    12 /* wrappers around wrappers */
#define MANY_CALLERS 3	/* of a function that never keeps anything: a wrapper */
#define MAX_NAMES    16 /* different names that are counted for one site */

typedef Seep__Pprof__Profile Profile;
typedef Seep__Pprof__Sample Sample;

struct line {
	const Profile *p;
	const Sample *s;
	uint64_t key;
	unsigned level;
};

/* ---- access ---- */

static const char *text_of(const Profile *p, int64_t i)
{
	return i > 0 && (size_t)i < p->n_string_table ? p->string_table[i] : "";
}

static const Seep__Pprof__Label *label(const struct line *l, const char *key)
{
	for (size_t i = 0; i < l->s->n_label; i++)
		if (strcmp(text_of(l->p, l->s->label[i]->key), key) == 0)
			return l->s->label[i];
	return NULL;
}

static const char *label_text(const struct line *l, const char *key)
{
	const Seep__Pprof__Label *x = label(l, key);

	return x ? text_of(l->p, x->str) : "";
}

static uint64_t label_number(const struct line *l, const char *key)
{
	const Seep__Pprof__Label *x = label(l, key);

	return x ? (uint64_t)x->num : 0;
}

static const Seep__Pprof__Location *location(const struct line *l, size_t frame)
{
	uint64_t id = frame < l->s->n_location_id ? l->s->location_id[frame] : 0;

	if (id > 0 && id <= l->p->n_location && l->p->location[id - 1]->id == id)
		return l->p->location[id - 1];
	for (size_t i = 0; id && i < l->p->n_location; i++)
		if (l->p->location[i]->id == id)
			return l->p->location[i];
	return NULL;
}

static const Seep__Pprof__Function *function(const Profile *p, uint64_t id)
{
	if (id > 0 && id <= p->n_function && p->function[id - 1]->id == id)
		return p->function[id - 1];
	for (size_t i = 0; i < p->n_function; i++)
		if (p->function[i]->id == id)
			return p->function[i];
	return NULL;
}

static const char *line_name(const struct line *l, const Seep__Pprof__Line *line)
{
	const Seep__Pprof__Function *f = function(l->p, line->function_id);

	return f ? text_of(l->p, f->name) : "";
}

static bool is_named_like_one(const char *name);

/* A function of the C++ library, or one that is named like an allocator: not what a user
 * wants to hear of. */
static bool is_library(const char *name)
{
	static const char *const starts[] = { "std::",	"__gnu_cxx::",	 "_ZNSt",
					      "_ZNKSt", "_ZN9__gnu_cxx", "_ZSt" };

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
		if (strncmp(name, starts[i], strlen(starts[i])) == 0)
			return true;
	return is_named_like_one(name);
}

/* Of the functions that were inlined into a frame's: the innermost one of the program
 * itself. The last is the frame's own. */
static size_t spoken_line(const struct line *l, const Seep__Pprof__Location *x)
{
	size_t i = 0;

	while (i + 1 < x->n_line && is_library(line_name(l, x->line[i])))
		i++;
	return i;
}

static const char *mapping_of(const struct line *l, const Seep__Pprof__Location *x,
			      uint64_t *out_offset)
{
	for (size_t i = 0; i < l->p->n_mapping; i++) {
		const Seep__Pprof__Mapping *m = l->p->mapping[i];

		if (m->id == x->mapping_id) {
			*out_offset = x->address - m->memory_start + m->file_offset;
			return text_of(l->p, m->filename);
		}
	}
	return "";
}

/* "libfoo.so+0x1234" */
static char *frame_place(const struct line *l, const Seep__Pprof__Location *x)
{
	uint64_t offset = x->address;
	const char *file = mapping_of(l, x, &offset), *base = strrchr(file, '/');

	return format_string("%s+%#llx", base ? base + 1 : file,
			     (unsigned long long)offset);
}

static char *name_at(const struct line *l, size_t frame, bool own)
{
	const Seep__Pprof__Location *x = location(l, frame);

	if (!x)
		return format_string("?");
	if (x->n_line == 0)
		return frame_place(l, x);
	return profile_demangle(
		line_name(l, x->line[own ? x->n_line - 1 : spoken_line(l, x)]));
}

/* The function that the frame is of. */
static char *frame_name(const struct line *l, size_t frame)
{
	return name_at(l, frame, true);
}

/* Below the working directory: from there, as compilers say it. */
static const char *shortened(const char *file)
{
	char here[PATH_MAX];
	size_t n = getcwd(here, sizeof(here)) ? strlen(here) : 0;

	return n && strncmp(file, here, n) == 0 && file[n] == '/' ? file + n + 1 : file;
}

static char *line_where(const struct line *l, const Seep__Pprof__Line *line)
{
	const Seep__Pprof__Function *f = function(l->p, line->function_id);
	const char *file = f ? text_of(l->p, f->filename) : "";

	if (!*file || line->line <= 0)
		return NULL;
	if (line->column > 0)
		return format_string("%s:%lld:%lld", shortened(file),
				     (long long)line->line, (long long)line->column);
	return format_string("%s:%lld", shortened(file), (long long)line->line);
}

static char *frame_where(const struct line *l, size_t frame)
{
	const Seep__Pprof__Location *x = location(l, frame);
	uint64_t offset = 0;
	const char *file;
	char *where;

	if (!x)
		return format_string("?");
	where = x->n_line ? line_where(l, x->line[spoken_line(l, x)]) : NULL;
	if (where)
		return where;
	file = mapping_of(l, x, &offset);
	return format_string("%s+%#llx", *file ? file : "?", (unsigned long long)offset);
}

static bool has_depth(const struct line *l)
{
	return label(l, "depth") && strcmp(label_text(l, "confidence"), "live") != 0;
}

/* ---- wrappers ---- */

static uint64_t mix(uint64_t h, uint64_t value)
{
	h = (h ^ value) * 0x9e3779b97f4a7c15u;
	return h ^ h >> 32;
}

/* Compilers make several calls of one, where they unroll a loop: the same function, line
 * and column are the same place. Without lines, the address tells. */
static uint64_t mix_frame(const struct line *l, uint64_t h, size_t frame)
{
	const Seep__Pprof__Location *x = location(l, frame);

	if (!x || x->n_line == 0 || x->line[0]->line <= 0)
		return mix(h, l->s->location_id[frame]);
	for (size_t i = 0; i < x->n_line; i++) {
		h = mix(h, x->line[i]->function_id);
		h = mix(h,
			(uint64_t)x->line[i]->line << 20 ^ (uint64_t)x->line[i]->column);
	}
	return h;
}

static void set_key(struct line *l)
{
	l->key = l->level + 1;
	for (size_t i = 0; i <= l->level && i < l->s->n_location_id; i++)
		l->key = mix_frame(l, l->key, i);
}

static int by_key(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	return x->key < y->key ? -1 : x->key > y->key;
}

static bool is_named_like_one(const char *name)
{
	static const char *const parts[] = { "alloc",	    "Alloc",   "ALLOC",
					     "strdup",	    "strndup", "memdup",
					     "emalloc",	    "_new",    "asprintf",
					     "operator new" };

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (strstr(name, parts[i]))
			return true;
	return false;
}

/* The function of a frame, or its address where it has no name. */
static uint64_t function_of(const struct line *l, size_t frame)
{
	const Seep__Pprof__Location *x = location(l, frame);

	if (x && x->n_line)
		return x->line[x->n_line - 1]->function_id | (uint64_t)1 << 63;
	return l->s->location_id[frame];
}

/* How many different functions lines [from, to) have at depth frame, up to MANY_CALLERS.
 * 0: one has no such frame, or an object of it ended in a function further in. */
static unsigned callers_at(const struct line *lines, size_t from, size_t to, size_t frame)
{
	uint64_t callers[MANY_CALLERS] = { 0 };
	unsigned n = 0;

	for (size_t i = from; i < to; i++) {
		const struct line *l = &lines[i];
		unsigned k = 0;

		if (frame >= l->s->n_location_id ||
		    (has_depth(l) && label_number(l, "depth") < frame))
			return 0;
		while (k < n && callers[k] != function_of(l, frame))
			k++;
		if (k == n && n < MANY_CALLERS)
			callers[n++] = function_of(l, frame);
	}
	return n;
}

/* Lines [from, to) have the same frames: do they belong to a wrapper? Also to one that
 * has a single caller, which is a wrapper itself. */
static bool is_wrapper(const struct line *lines, size_t from, size_t to)
{
	unsigned level = lines[from].level, n, ended = 0;
	char *name;
	bool named;

	for (size_t i = from; i < to; i++)
		ended += has_depth(&lines[i]);
	n = ended ? callers_at(lines, from, to, level + 1) : 0;
	if (n == 0)
		return false;
	for (unsigned i = 1; i <= MAX_LEVEL && n == 1; i++)
		n = callers_at(lines, from, to, level + 1 + i);
	name = frame_name(&lines[from], level);
	named = is_library(name);
	free(name);
	return named || n == MANY_CALLERS;
}

/* Looks through one more layer of wrappers. False: there was none. */
static bool raise_levels(struct line *lines, size_t n)
{
	bool any = false;

	qsort(lines, n, sizeof(*lines), by_key);
	for (size_t from = 0, to; from < n; from = to) {
		for (to = from + 1; to < n && lines[to].key == lines[from].key; to++)
			;
		if (lines[from].level >= MAX_LEVEL || !is_wrapper(lines, from, to))
			continue;
		any = true;
		for (size_t i = from; i < to; i++)
			lines[i].level++;
	}
	for (size_t i = 0; i < n; i++)
		set_key(&lines[i]);
	return any;
}

/* ---- gathering ---- */

struct names {
	struct escape_name list[MAX_NAMES];
	size_t n;
};

static void count_named(struct names *names, char *text, uint64_t count, uint64_t number)
{
	size_t i = 0;

	while (i < names->n && strcmp(names->list[i].text, text) != 0)
		i++;
	if (i < names->n || names->n == MAX_NAMES)
		free(text);
	else
		names->list[names->n++] =
			(struct escape_name){ .text = text, .number = number };
	if (i < MAX_NAMES)
		names->list[i].count += count;
}

static void count_name(struct names *names, char *text, uint64_t count)
{
	count_named(names, text, count, 0);
}

/* The most frequent one; the others are freed. */
static struct escape_name best_name(struct names *names)
{
	struct escape_name best = { 0 };

	for (size_t i = 0; i < names->n; i++) {
		struct escape_name *x = &names->list[i];

		if (x->count > best.count) {
			free(best.text);
			best = *x;
		} else {
			free(x->text);
		}
	}
	return best;
}

static enum escape_place place_of(const struct line *l)
{
	const char *word = label_text(l, "escape");

	if (has_depth(l) && label_number(l, "depth") <= l->level)
		return ESCAPE_NONE; /* it ended in the function behind the wrapper */
	for (unsigned i = 0; i < ESCAPE_PLACES; i++)
		if (strcmp(word, escapes_word((enum escape_place)i)) == 0)
			return (enum escape_place)i;
	return ESCAPE_UNKNOWN;
}

static void add_confidence(struct escape_site *s, const char *word, uint64_t n)
{
	if (strcmp(word, "exact") == 0 || strcmp(word, "thread") == 0)
		s->exact += n;
	else if (strcmp(word, "exact-exc") == 0)
		s->unwound += n;
	else if (strcmp(word, "live") == 0)
		s->live += n;
	else if (strcmp(word, "refused") == 0)
		s->refused += n;
	else
		s->bound += n;
}

static void add_depth(struct escape_site *s, const struct line *l,
		      struct names *ancestors)
{
	uint64_t depth = label_number(l, "depth"), n = label_number(l, "samples");

	if (!has_depth(l))
		return;
	if (depth > l->level)
		count_named(ancestors, frame_name(l, depth), n, depth - l->level);
	depth = depth > l->level ? depth - l->level : 0;
	if (s->depth_known == 0 || depth < s->depth_min)
		s->depth_min = depth;
	if (depth > s->depth_max)
		s->depth_max = depth;
	s->depth_known += n;
}

static void add_line(struct escape_site *s, const struct line *l)
{
	uint64_t n = label_number(l, "samples"), low = label_number(l, "size_min");

	if (s->samples == 0 || low < s->size_min)
		s->size_min = low;
	low = label_number(l, "argument_min");
	if (s->samples == 0 || low < s->argument_min)
		s->argument_min = low;
	if (label_number(l, "argument_max") > s->argument_max)
		s->argument_max = label_number(l, "argument_max");
	if (label_number(l, "size_max") > s->size_max)
		s->size_max = label_number(l, "size_max");
	s->samples += n;
	s->objects += (uint64_t)l->s->value[0];
	s->bytes += (uint64_t)l->s->value[1];
	s->places[place_of(l)] += n;
	s->looked += label_number(l, "scanned");
	s->grown += label_number(l, "grown");
	s->several += label_number(l, "several");
	if (strncmp(label_text(l, "freed_with"), "realloc", 7) == 0)
		s->moved += n;
	if (strcmp(label_text(l, "confidence"), "thread") == 0)
		s->handed += n;
	add_confidence(s, label_text(l, "confidence"), n);
}

/* "8:12 9:40", see the label's writer in profiler/escape/result.c. */
static void add_lives(struct escape_site *s, const char *text)
{
	unsigned i;
	unsigned long long n;
	int used;

	for (; sscanf(text, "%u:%llu%n", &i, &n, &used) == 2; text += used)
		if (i < ESCAPE_LIVES)
			s->lives[i] += n;
}

/* The middle lifetime, to a factor of two. */
static uint64_t median_of(const struct escape_site *s)
{
	uint64_t all = 0, below = 0;

	for (unsigned i = 0; i < ESCAPE_LIVES; i++)
		all += s->lives[i];
	for (unsigned i = 0; i < ESCAPE_LIVES && all; i++) {
		below += s->lives[i];
		if (2 * below >= all)
			return ((uint64_t)3 << i) / 2;
	}
	return 0;
}

/* What a change could save, in allocations that need not be made: certain for objects
 * that never leave, less where callers must change, nothing for what lives on. Large
 * objects count for more, as their pages have to be brought in. */
static double gain_of(const struct escape_site *s)
{
	static const double factors[ESCAPE_PLACES] = {
		[ESCAPE_NONE] = 1.0,   [ESCAPE_RETURNED] = 0.5,
		[ESCAPE_CALLER] = 0.5, [ESCAPE_MAYBE_RETURNED] = 0.3,
		[ESCAPE_TLS] = 0.3,    [ESCAPE_HEAP] = 0.2,
		[ESCAPE_GLOBAL] = 0.2, [ESCAPE_UNKNOWN] = 0.2,
		[ESCAPE_THREAD] = 0.1,
	};
	double ended = s->samples ? 1.0 - (double)s->live / (double)s->samples : 0;

	return ((double)s->objects + (double)s->bytes / 4096) * ended *
	       factors[escapes_verdict(s)];
}

/* What an object was found in; a frame by the name of its function. */
static char *place_name(const struct line *l, const char *text)
{
	unsigned frame;
	char *name, *out;

	if (sscanf(text, "frame +%u", &frame) != 1)
		return profile_demangle(text);
	name = frame_name(l, frame);
	out = format_string("frame of %s", name);
	free(name);
	return out;
}

static void name_site(struct escape_site *s, const struct line *l, unsigned level)
{
	const Seep__Pprof__Location *x = location(l, level);
	size_t spoken = x && x->n_line ? spoken_line(l, x) : 0;

	s->function = name_at(l, level, false);
	s->where = frame_where(l, level);
	if (x && spoken + 1 < x->n_line)
		s->inlined_in = frame_name(l, level);
	if (spoken > 0)
		s->through = profile_demangle(line_name(l, x->line[spoken - 1]));
	else if (level > 0)
		s->through = frame_name(l, level - 1);
}

static void gather(struct escape_site *s, const struct line *lines, size_t n)
{
	struct names to = { .n = 0 }, freed = { .n = 0 }, ancestors = { .n = 0 },
		     allocators = { .n = 0 };
	unsigned level = lines[0].level;

	for (size_t i = 0; i < n; i++) {
		const char *text = label_text(&lines[i], "to");
		uint64_t count = label_number(&lines[i], "samples");

		add_line(s, &lines[i]);
		add_lives(s, label_text(&lines[i], "lives"));
		add_depth(s, &lines[i], &ancestors);
		if (*text)
			count_name(&to, place_name(&lines[i], text), count);
		text = label_text(&lines[i], "freed_by");
		if (*text)
			count_name(&freed, format_string("%s", text), count);
		text = label_text(&lines[i], "allocator");
		if (*text)
			count_name(&allocators, format_string("%s", text), count);
	}
	name_site(s, &lines[0], level);
	s->median_ns = median_of(s);
	s->to = best_name(&to);
	s->freed_by = best_name(&freed);
	s->ancestor = best_name(&ancestors);
	s->allocator = best_name(&allocators);
	s->gain = gain_of(s);
}

static int by_gain(const void *a, const void *b)
{
	const struct escape_site *x = a, *y = b;

	if (x->gain != y->gain)
		return x->gain < y->gain ? 1 : -1;
	return x->objects < y->objects ? 1 : x->objects > y->objects ? -1 : 0;
}

static void gather_all(struct line *lines, size_t n, struct escape_report *out)
{
	qsort(lines, n, sizeof(*lines), by_key);
	out->duration_ns = n ? (uint64_t)lines->p->duration_nanos : 0;
	out->sites = allocate((n + 1) * sizeof(*out->sites));
	for (size_t from = 0, to; from < n; from = to) {
		for (to = from + 1; to < n && lines[to].key == lines[from].key; to++)
			;
		gather(&out->sites[out->nsites++], lines + from, to - from);
	}
	qsort(out->sites, out->nsites, sizeof(*out->sites), by_gain);
}

/* ---- the file ---- */

static Profile *unpack(const char *path)
{
	gzFile f = gzopen(path, "rb");
	size_t capacity = 1 << 20, used = 0;
	uint8_t *bytes;
	Profile *p;
	int n;

	if (!f)
		return NULL;
	bytes = allocate(capacity);
	while ((n = gzread(f, bytes + used, (unsigned)(capacity - used))) > 0) {
		uint8_t *more;

		used += (size_t)n;
		if (used < capacity)
			continue;
		more = capacity < MAX_FILE ? realloc(bytes, capacity * 2) : NULL;
		if (!more)
			break;
		bytes = more;
		capacity *= 2;
	}
	gzclose(f);
	p = n == 0 ? seep__pprof__profile__unpack(NULL, used, bytes) : NULL;
	free(bytes);
	return p;
}

bool escapes_read(const char *path, struct escape_report *out)
{
	Profile *p = unpack(path);
	struct line *lines;
	size_t n = 0;

	memset(out, 0, sizeof(*out));
	if (!p)
		return false;
	lines = allocate((p->n_sample + 1) * sizeof(*lines));
	for (size_t i = 0; i < p->n_sample; i++) {
		lines[n] = (struct line){ .p = p, .s = p->sample[i] };
		if (p->sample[i]->n_value >= 2 && label(&lines[n], "escape"))
			set_key(&lines[n++]);
	}
	for (unsigned i = 0; i < MAX_LEVEL && raise_levels(lines, n); i++)
		;
	gather_all(lines, n, out);
	for (size_t i = 0; i < p->n_comment; i++)
		if (strncmp(text_of(p, p->comment[i]), "escape=", 7) == 0)
			out->comment = format_string("%s", text_of(p, p->comment[i]));
	free(lines);
	seep__pprof__profile__free_unpacked(p, NULL);
	return n > 0 || out->comment;
}

void escapes_free(struct escape_report *r)
{
	for (size_t i = 0; i < r->nsites; i++) {
		struct escape_site *s = &r->sites[i];

		free(s->function);
		free(s->through);
		free(s->where);
		free(s->inlined_in);
		free(s->allocator.text);
		free(s->to.text);
		free(s->freed_by.text);
		free(s->ancestor.text);
	}
	free(r->sites);
	free(r->comment);
}
