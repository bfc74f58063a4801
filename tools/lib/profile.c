/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile: see profile.h.
 */
#include "tools/lib/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/estimate.h"
#include "tools/lib/filebytes.h"
#include "tools/lib/names.h"
#include "tools/lib/pbfile.h"
#include "tools/lib/say.h"
#include "tools/lib/stacks.h"

#define MAX_SHOWN_FRAMES 4

char *profile_demangle(const char *name)
{
	return names_human(name, NAMES_SIMPLE);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* From the first frame of the program's own: std::vector's insides say little. */
static char *describe(struct stacks *s, const Seep__Pprof__Sample *sample)
{
	const struct frame *frames;
	size_t n = stacks_of(s, sample, &frames), first = 0;
	char *text;

	while (first < n && frame_is_system(&frames[first]))
		first++;
	if (first == n || !*frames[first].file)
		first = 0;
	text = *frames[first].file ? format_string("%s %s:%lld", frames[first].function,
						   base_name(frames[first].file),
						   (long long)frames[first].line)
				   : format_string("%s", frames[first].function);
	for (size_t i = first + 1; i < n && i < first + MAX_SHOWN_FRAMES; i++) {
		char *joined = format_string("%s < %s", text, frames[i].function);

		free(text);
		text = joined;
	}
	return text;
}

/* What would print the same line. */
struct line {
	char *text;
	int64_t objects, bytes;
	double variance;
};

static int by_text(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	return strcmp(x->text, y->text);
}

static int larger_first(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : by_text(a, b);
}

/* Adds up lines of the same text, in place. How many are left. */
static size_t merge_lines(struct line *lines, size_t n)
{
	size_t kept = 0;

	qsort(lines, n, sizeof(*lines), by_text);
	for (size_t i = 0; i < n; i++) {
		if (kept && strcmp(lines[kept - 1].text, lines[i].text) == 0) {
			lines[kept - 1].objects += lines[i].objects;
			lines[kept - 1].bytes += lines[i].bytes;
			lines[kept - 1].variance += lines[i].variance;
			free(lines[i].text);
		} else {
			lines[kept++] = lines[i];
		}
	}
	return kept;
}

static int pick(struct pbfile *f, int objects, int space, struct profile_site *sites,
		int n)
{
	const Seep__Pprof__Profile *p = f->p;
	struct line *lines = allocate((p->n_sample + 1) * sizeof(*lines));
	struct estimate estimate = estimate_of(f, space);
	size_t count = 0;
	struct stacks s;
	int found = 0;

	stacks_init(&s, f);
	for (size_t i = 0; i < p->n_sample; i++) {
		const Seep__Pprof__Sample *one = p->sample[i];

		if (one->value[space] > 0)
			lines[count++] = (struct line){
				describe(&s, one), one->value[objects], one->value[space],
				estimate_variance(&estimate, one, one->value[space])
			};
	}
	stacks_free(&s);
	count = merge_lines(lines, count);
	qsort(lines, count, sizeof(*lines), larger_first);
	for (size_t i = 0; i < count; i++) {
		struct profile_site *to = &sites[found];

		if (found == n) {
			free(lines[i].text);
			continue;
		}
		*to = (struct profile_site){ .objects = lines[i].objects,
					     .bytes = lines[i].bytes,
					     .stack = lines[i].text };
		estimate_text((double)to->bytes, lines[i].variance, to->error,
			      sizeof(to->error));
		found++;
	}
	free(lines);
	return found;
}

int profile_top(const char *path, const char *objects_type, const char *space_type,
		struct profile_site *sites, int n)
{
	char *why = NULL;
	struct pbfile *f = pbfile_read(path, &why);
	int found = -1, objects, space;

	free(why);
	if (!f)
		return -1;
	objects = pbfile_type(f, objects_type);
	space = pbfile_type(f, space_type);
	if (objects >= 0 && space >= 0)
		found = pick(f, objects, space, sites, n);
	pbfile_free(f);
	return found;
}

static double error_of(struct pbfile *f, int index)
{
	struct estimate e = estimate_of(f, index);
	double sum = 0, variance = 0;

	for (size_t i = 0; i < f->p->n_sample; i++) {
		const Seep__Pprof__Sample *s = f->p->sample[i];

		sum += (double)s->value[index];
		variance += estimate_variance(&e, s, s->value[index]);
	}
	return sum > 0 ? 100 * sqrt(variance) / sum : 0;
}

double profile_error(const char *path, const char *type, int64_t *out_period)
{
	static const char *const none[] = { NULL };
	char *why = NULL;
	size_t size;
	uint8_t *bytes = file_bytes_read(path, &size);
	struct pbfile *f = bytes ? pbfile_parse_places(bytes, size, none, &why) : NULL;
	double percent = 0;
	int index;

	free(why);
	if (!f)
		return 0;
	*out_period = f->p->period;
	pbfile_free(f);
	if (*out_period <= 1)
		return 0; /* nothing is an estimate */
	f = pbfile_read(path, &why);
	index = f ? pbfile_type(f, type) : -1;
	if (index >= 0)
		percent = error_of(f, index);
	else
		free(why);
	pbfile_free(f);
	return percent;
}

void profile_free(struct profile_site *sites, int n)
{
	for (int i = 0; i < n; i++)
		free(sites[i].stack);
}
