/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lifetimes: see lifetimes.h.
 *
 * Percentiles come from the ranges that the samples stand for, as if lifetimes were
 * spread evenly in each: within a quarter of the truth.
 */
#include "tools/lib/lifetimes.h"

#include <stdlib.h>
#include <string.h>

#include "tools/lib/say.h"

#define SHORT_NS 1000000 /* who lives for less is churn */

struct range {
	int64_t ns; /* its lower end; the upper one is a quarter of a power of two on */
	int64_t objects;
};

struct lifetimes {
	int64_t freed, by_other, live, live_bytes, bytes, slack;
	int64_t short_objects, short_bytes, oldest_ns;
	double freed_ns, live_ns; /* sums */
	struct range *ranges;	  /* of the freed, by ns */
	size_t count, size;
};

/* ---- adding up ---- */

static const Seep__Pprof__Label *label(const struct pbfile *f,
				       const Seep__Pprof__Sample *s, const char *key)
{
	for (size_t i = 0; i < s->n_label; i++)
		if (strcmp(pbfile_text(f, s->label[i]->key), key) == 0)
			return s->label[i];
	return NULL;
}

static void add_range(struct lifetimes *l, int64_t ns, int64_t objects)
{
	size_t i = l->count;

	for (; i > 0 && l->ranges[i - 1].ns >= ns; i--)
		if (l->ranges[i - 1].ns == ns) {
			l->ranges[i - 1].objects += objects;
			return;
		}
	if (l->count == l->size) {
		l->size = l->size ? l->size * 2 : 8;
		l->ranges = realloc(l->ranges, l->size * sizeof(*l->ranges));
		if (!l->ranges)
			die(EXIT_INCOMPLETE, "out of memory");
	}
	memmove(&l->ranges[i + 1], &l->ranges[i], (l->count - i) * sizeof(*l->ranges));
	l->ranges[i] = (struct range){ ns, objects };
	l->count++;
}

static void add_freed(struct lifetimes *l, int64_t ns, int64_t objects, int64_t bytes)
{
	l->freed += objects;
	if (ns < SHORT_NS) {
		l->short_objects += objects;
		l->short_bytes += bytes;
	}
	add_range(l, ns, objects);
}

void lifetimes_add(struct lifetimes **to, const struct pbfile *f,
		   const Seep__Pprof__Sample *s)
{
	const Seep__Pprof__Label *lifetime = label(f, s, "lifetime");
	const Seep__Pprof__Label *by = label(f, s, "freed_by");
	const Seep__Pprof__Label *age = label(f, s, "age");
	int64_t objects = s->value[pbfile_type(f, "objects")];
	int64_t bytes = s->value[pbfile_type(f, "space")];
	int ns = pbfile_type(f, "lifetime");
	struct lifetimes *l = *to ? *to : (*to = allocate(sizeof(*l)));

	l->bytes += bytes;
	l->slack += s->value[pbfile_type(f, "slack")];
	if (lifetime) {
		add_freed(l, lifetime->num, objects, bytes);
		l->freed_ns += ns >= 0 ? (double)s->value[ns] : 0;
		if (by && strcmp(pbfile_text(f, by->str), "other") == 0)
			l->by_other += objects;
	} else if (age) {
		l->live += objects;
		l->live_bytes += bytes;
		l->live_ns += ns >= 0 ? (double)s->value[ns] : 0;
		if (age->num > l->oldest_ns)
			l->oldest_ns = age->num;
	}
}

void lifetimes_free(struct lifetimes *l)
{
	if (l)
		free(l->ranges);
	free(l);
}

static double width(int64_t ns)
{
	int64_t power = 1;

	while (power <= ns / 2)
		power *= 2;
	return power < 4 ? 1 : (double)power / 4;
}

/* The lifetime that a share of the freed objects did not reach. */
static double percentile(const struct lifetimes *l, double share)
{
	double want = share * (double)l->freed, below = 0;

	for (size_t i = 0; i < l->count; i++) {
		const struct range *r = &l->ranges[i];

		if (below + (double)r->objects >= want && r->objects > 0)
			return (double)r->ns +
			       width(r->ns) * (want - below) / (double)r->objects;
		below += (double)r->objects;
	}
	return 0;
}

static double mean(double sum, int64_t n)
{
	return n ? sum / (double)n : 0;
}

/* ---- showing ---- */

const char *lifetimes_duration(double ns, char *buf, size_t size)
{
	static const struct {
		double ns;
		const char *name;
	} units[] = { { 86400e9, "d" }, { 3600e9, "h" }, { 60e9, "min" }, { 1e9, "s" },
		      { 1e6, "ms" },	{ 1e3, "us" },	 { 1, "ns" } };
	size_t i = 0;

	while (i < sizeof(units) / sizeof(units[0]) - 1 && ns < units[i].ns)
		i++;
	snprintf(buf, size,
		 ns < 10 * units[i].ns && units[i].ns > 1 ? "%.1f %s" : "%.0f %s",
		 ns / units[i].ns, units[i].name);
	return buf;
}

static void print_freed(const struct lifetimes *l, FILE *out)
{
	char a[32], b[32], c[32], d[32];

	fprintf(out, "    %lld freed", (long long)l->freed);
	if (l->by_other)
		fprintf(out, " (%lld by another thread)", (long long)l->by_other);
	fprintf(out, " after %s on average, p50 %s, p90 %s, p99 %s\n",
		lifetimes_duration(mean(l->freed_ns, l->freed), a, sizeof(a)),
		lifetimes_duration(percentile(l, 0.5), b, sizeof(b)),
		lifetimes_duration(percentile(l, 0.9), c, sizeof(c)),
		lifetimes_duration(percentile(l, 0.99), d, sizeof(d)));
	if (l->short_objects)
		fprintf(out, "    churn: %lld objects, %s, lived less than 1 ms\n",
			(long long)l->short_objects,
			say_bytes((uint64_t)l->short_bytes, a, sizeof(a)));
}

void lifetimes_print(const struct lifetimes *l, FILE *out)
{
	char a[32], b[32];

	if (l->freed)
		print_freed(l, out);
	if (l->live)
		fprintf(out,
			"    %lld live, %s, %s old on average, the oldest %s or more\n",
			(long long)l->live,
			say_bytes((uint64_t)l->live_bytes, a, sizeof(a)),
			lifetimes_duration(mean(l->live_ns, l->live), b, sizeof(b)),
			lifetimes_duration((double)l->oldest_ns, (char[32]){ 0 }, 32));
	if (l->slack)
		fprintf(out, "    slack: %s given beyond what was asked (%.1f %%)\n",
			say_bytes((uint64_t)l->slack, a, sizeof(a)),
			100 * mean((double)l->slack, l->bytes));
}

json_t *lifetimes_json(const struct lifetimes *l)
{
	return json_pack("{s:I,s:I,s:f,s:f,s:f,s:f,s:I,s:I,s:I,s:I,s:f,s:I,s:I}", "freed",
			 (json_int_t)l->freed, "freed_by_other", (json_int_t)l->by_other,
			 "mean_ns", mean(l->freed_ns, l->freed), "p50_ns",
			 percentile(l, 0.5), "p90_ns", percentile(l, 0.9), "p99_ns",
			 percentile(l, 0.99), "short_objects",
			 (json_int_t)l->short_objects, "short_bytes",
			 (json_int_t)l->short_bytes, "live", (json_int_t)l->live,
			 "live_bytes", (json_int_t)l->live_bytes, "age_mean_ns",
			 mean(l->live_ns, l->live), "age_oldest_ns",
			 (json_int_t)l->oldest_ns, "slack_bytes", (json_int_t)l->slack);
}
