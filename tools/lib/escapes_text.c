/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escapes_text: what is said of a place that allocates: the verdict, a line in the manner
 * of a compiler's escape analysis, and what could be done.
 *
 * Advice speaks of what was seen. It is given from CERTAIN objects on, and where nearly
 * all of them agree.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/lib/escapes.h"
#include "tools/lib/say.h"

#define CERTAIN		 30
#define AUTOMATIC_MAX	 4096  /* bytes that a frame may well hold */
#define AUTOMATIC_BOUNDS 65536 /* ... that a sensible limit would cover */

/* ---- verdicts ---- */

const char *escapes_word(enum escape_place place)
{
	static const char *const words[ESCAPE_PLACES] = {
		[ESCAPE_NONE] = "none",	      [ESCAPE_RETURNED] = "returned",
		[ESCAPE_CALLER] = "caller",   [ESCAPE_MAYBE_RETURNED] = "maybe-returned",
		[ESCAPE_TLS] = "tls",	      [ESCAPE_HEAP] = "heap",
		[ESCAPE_GLOBAL] = "global",   [ESCAPE_THREAD] = "thread",
		[ESCAPE_UNKNOWN] = "unknown",
	};

	return words[place];
}

enum escape_place escapes_verdict(const struct escape_site *s)
{
	enum escape_place best = ESCAPE_UNKNOWN;
	uint64_t most = 0;

	if (s->places[ESCAPE_NONE] == s->samples)
		return ESCAPE_NONE;
	for (unsigned i = ESCAPE_NONE + 1; i < ESCAPE_UNKNOWN; i++)
		if (s->places[i] > most) {
			most = s->places[i];
			best = (enum escape_place)i;
		}
	return best;
}

static bool nearly_all(uint64_t n, uint64_t all)
{
	return all > 0 && n * 10 >= all * 9;
}

/* ---- advice ---- */

/* Freed by the very function that makes the next one, and not by a later call of realloc:
 * one is kept at a time. */
static bool is_replaced(const struct escape_site *s)
{
	const char *by = s->freed_by.text;

	return by && s->handed == 0 &&
	       nearly_all(s->freed_by.count, s->samples - s->live) &&
	       (strcmp(by, s->function) == 0 ||
		(s->inlined_in && strcmp(by, s->inlined_in) == 0));
}

static char *advice_inside(const struct escape_site *s)
{
	unsigned long long most = (unsigned long long)s->size_max;

	/* realloc has the old and the new one at a time. */
	if (2 * s->several >= s->samples && 2 * s->moved < s->samples)
		return format_string("several at a time: could come from an arena or an "
				     "array of %s",
				     s->inlined_in ? s->inlined_in : s->function);
	if (s->size_max <= AUTOMATIC_MAX)
		return s->size_min == s->size_max
			       ? format_string("could be automatic")
			       : format_string("could be automatic, with room for %llu "
					       "bytes",
					       most);
	if (s->size_max <= AUTOMATIC_BOUNDS)
		return format_string("small ones could be automatic, larger ones in one "
				     "buffer that is kept");
	return format_string("one buffer could be kept and used again");
}

static const char *ancestor_of(const struct escape_site *s)
{
	return nearly_all(s->ancestor.count, s->depth_known) ? s->ancestor.text : NULL;
}

char *escapes_advice(const struct escape_site *s)
{
	enum escape_place place = escapes_verdict(s);
	const char *ancestor = ancestor_of(s);

	if (s->samples < CERTAIN || s->live == s->samples)
		return NULL;
	if (place == ESCAPE_NONE)
		return advice_inside(s);
	if (2 * s->moved >= s->samples - s->live)
		return format_string("grown step by step: room for %llu bytes could be "
				     "reserved at once",
				     (unsigned long long)s->size_max);
	if (is_replaced(s))
		return format_string("replaced in a loop: the old one could be used "
				     "again");
	if ((place == ESCAPE_CALLER || place == ESCAPE_RETURNED) && s->depth_max == 1)
		return ancestor ? format_string("could be a buffer that its caller, %s, "
						"supplies",
						ancestor)
				: format_string("could be a buffer that its caller "
						"supplies");
	if (s->handed)
		return format_string("could come from a pool to which the other thread "
				     "gives back");
	if (ancestor)
		return format_string("could come from an arena or pool of %s", ancestor);
	return NULL;
}

/* ---- the line ---- */

static void print_time(FILE *f, uint64_t ns)
{
	if (ns < 10000)
		fprintf(f, "%llu ns", (unsigned long long)ns);
	else if (ns < 10000000)
		fprintf(f, "%llu us", (unsigned long long)ns / 1000);
	else if (ns < 10000000000)
		fprintf(f, "%llu ms", (unsigned long long)ns / 1000000);
	else
		fprintf(f, "%llu s", (unsigned long long)ns / 1000000000);
}

static void print_rate(FILE *f, uint64_t bytes, uint64_t ns)
{
	static const char *const units[] = { "B/s", "kB/s", "MB/s", "GB/s" };
	double rate = (double)bytes * 1e9 / (double)ns;
	size_t unit = 0;

	while (rate >= 999.5 && unit < 3) {
		rate /= 1000;
		unit++;
	}
	fprintf(f, "%.*f %s", unit > 0 && rate < 9.95 ? 1 : 0, rate, units[unit]);
}

static void print_range(FILE *f, uint64_t low, uint64_t high)
{
	fprintf(f, "%llu", (unsigned long long)low);
	if (low != high)
		fprintf(f, "..%llu", (unsigned long long)high);
}

/* Functions that are given a count and the size of one. */
static bool is_counted(const char *allocator)
{
	return strcmp(allocator, "calloc") == 0 || strcmp(allocator, "reallocarray") == 0;
}

/* The arguments as they are written in the source. Of a count that varies, the size of
 * one is the same when it is so for the smallest and the largest. */
static void print_arguments(FILE *f, const char *allocator, const struct escape_site *s)
{
	uint64_t low = s->argument_min, high = s->argument_max;
	bool counted = is_counted(allocator),
	     last = strncmp(allocator, "operator", 8) == 0;

	if (low == 0 || !s->allocator.text || (counted && s->grown)) {
		print_range(f, s->size_min, s->size_max);
	} else if (!counted && last) {
		print_range(f, s->size_min, s->size_max);
		fputs(", ", f);
		print_range(f, low, high);
	} else {
		print_range(f, low, high);
		fputc(',', f);
		print_range(f, counted ? s->size_min / low : s->size_min,
			    counted ? s->size_max / high : s->size_max);
	}
}

static void print_call(FILE *f, const struct escape_site *s)
{
	const char *allocator = s->allocator.text ? s->allocator.text : "heap";

	fprintf(f, "%s(", allocator);
	print_arguments(f, allocator, s);
	fprintf(f, ") in %s", s->function);
	if (s->inlined_in)
		fprintf(f, " (inlined in %s)", s->inlined_in);
	if (s->through)
		fprintf(f, " (through %s)", s->through);
}

static void print_confidence(FILE *f, const struct escape_site *s)
{
	const struct {
		uint64_t n;
		const char *word;
	} parts[] = { { s->exact, "exact" },
		      { s->unwound, "exact-exc" },
		      { s->bound, "bound" },
		      { s->refused, "refused" },
		      { s->live, "live" } };
	const char *comma = "";

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (parts[i].n == 0)
			continue;
		fprintf(f, "%s%s", comma, parts[i].word);
		if (parts[i].n != s->samples)
			fprintf(f, " %llu", (unsigned long long)parts[i].n);
		comma = ", ";
	}
}

static void print_place(FILE *f, const struct escape_site *s, enum escape_place place)
{
	static const char *const phrases[ESCAPE_PLACES] = {
		[ESCAPE_NONE] = "does not escape",
		[ESCAPE_RETURNED] = "is returned",
		[ESCAPE_MAYBE_RETURNED] = "is maybe returned",
		[ESCAPE_CALLER] = "escapes to the caller's memory",
		[ESCAPE_TLS] = "escapes to thread-local",
		[ESCAPE_HEAP] = "escapes to the heap",
		[ESCAPE_GLOBAL] = "escapes to global",
		[ESCAPE_THREAD] = "escapes to another thread",
		[ESCAPE_UNKNOWN] = "escapes",
	};
	const char *seen = place == ESCAPE_THREAD && s->handed ? "freed there " : "seen ";

	if (place == ESCAPE_UNKNOWN && s->live == s->samples) {
		fputs("is never freed", f);
		return;
	}
	fputs(phrases[place], f);
	if (place == ESCAPE_NONE || place == ESCAPE_UNKNOWN)
		return;
	if (s->to.text && (place != ESCAPE_THREAD || !s->handed))
		fprintf(f, "%s %s",
			place == ESCAPE_TLS || place == ESCAPE_GLOBAL ? "" : ",",
			s->to.text);
	if (place == ESCAPE_RETURNED || place == ESCAPE_MAYBE_RETURNED)
		seen = "";
	fprintf(f, " (%s%llu/%llu)", seen, (unsigned long long)s->places[place],
		(unsigned long long)s->samples);
}

/* Those that went nowhere all the same, and the frame that the others do not outlive. */
static void print_depth(FILE *f, const struct escape_site *s, enum escape_place place)
{
	if (place == ESCAPE_NONE)
		return;
	if (s->places[ESCAPE_NONE])
		fprintf(f, ", not always: %llu/%llu ended inside",
			(unsigned long long)s->places[ESCAPE_NONE],
			(unsigned long long)s->samples);
	if (s->ancestor.text)
		fprintf(f, ", dies with %s, %llu frame%s up", s->ancestor.text,
			(unsigned long long)s->ancestor.number,
			s->ancestor.number == 1 ? "" : "s");
	if (s->depth_max > s->depth_min)
		fprintf(f, ", others %llu to %llu", (unsigned long long)s->depth_min,
			(unsigned long long)s->depth_max);
}

static void print_life(FILE *f, const struct escape_report *r,
		       const struct escape_site *s, enum escape_place place)
{
	fprintf(f, " (n=%llu", (unsigned long long)s->samples);
	if (s->objects != s->samples)
		fprintf(f, " of %llu", (unsigned long long)s->objects);
	fputs(", ", f);
	print_confidence(f, s);
	fputs("; ", f);
	if (r->duration_ns) {
		print_rate(f, s->bytes, r->duration_ns);
		fputs(", ", f);
	}
	fputs("median life ", f);
	print_time(f, s->median_ns);
	if (place != ESCAPE_NONE && s->freed_by.text)
		fprintf(f, ", freed by %s", s->freed_by.text);
	if (s->moved)
		fprintf(f, ", moved by realloc %llu/%llu", (unsigned long long)s->moved,
			(unsigned long long)s->samples);
	if (s->grown)
		fprintf(f, ", grown in place %llu/%llu", (unsigned long long)s->grown,
			(unsigned long long)s->samples);
	fputc(')', f);
}

void escapes_print(FILE *out, const struct escape_report *r, const struct escape_site *s)
{
	enum escape_place place = escapes_verdict(s);
	char *advice = escapes_advice(s);

	fprintf(out, "%s: ", s->where);
	print_call(out, s);
	fputc(' ', out);
	print_place(out, s, place);
	print_depth(out, s, place);
	print_life(out, r, s, place);
	if (advice)
		fprintf(out, ": %s", advice);
	fputc('\n', out);
	free(advice);
}
