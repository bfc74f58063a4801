/* SPDX-License-Identifier: Apache-2.0 */
/*
 * knownleaks: see knownleaks.h. Frames of a report are few and shared by its stacks, so
 * what is known of each is found once.
 */
#include "tools/lib/knownleaks.h"

#include <stdlib.h>
#include <string.h>

#include "preload/base/pattern.h"
#include "tools/lib/intern.h"
#include "tools/lib/names.h"
#include "tools/lib/pbfile.h"
#include "tools/lib/say.h"
#include "tools/lib/symbolizer.h"

#define NONE SIZE_MAX

static const char *const lists[] = { "leaks", "possible" };
#define NLISTS (sizeof(lists) / sizeof(lists[0]))

static json_int_t number_in(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *text_in(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

bool knownleaks_wanted(const json_t *report)
{
	return json_array_size(json_object_get(report, "suppressions")) > 0 &&
	       json_array_size(json_object_get(report, "leaks")) > 0;
}

/* ---- matching ---- */

/* A frame, and how suppressions may name it. */
struct place {
	const char *name; /* linkage name; empty: none */
	char *full, *simple;
	const char *file, *base; /* and its last part */
	const char *module;
	json_int_t line;
	size_t rule; /* the first leak: pattern that covers it, or NONE */
};

struct rule {
	const char *pattern; /* of leak:, or NULL */
	const char **lines;
	uint32_t nlines;
	const json_t *kinds; /* NULL: all */
};

struct matcher {
	struct rule *rules;
	size_t nrules;
	struct intern frames; /* addresses; numbers index places[] */
	struct place *places;
	size_t places_size;
	size_t *stack; /* places of the one that is being matched */
	size_t stack_size;
	struct known *known; /* KNOWN of them */
};

/* A gap in a block tries every frame below it: what was found for a line and a frame. */
struct known {
	const char *line;
	size_t place : 63, matches : 1;
};

#define KNOWN_LG 16
#define KNOWN	 ((size_t)1 << KNOWN_LG)

static void read_rule(struct rule *r, const json_t *entry)
{
	const json_t *list = json_object_get(entry, "lines"), *line;
	size_t i;

	r->kinds = json_object_get(entry, "kinds");
	if (!list) {
		r->pattern = text_in(entry, "name");
		return;
	}
	r->lines = allocate((json_array_size(list) + 1) * sizeof(*r->lines));
	json_array_foreach(list, i, line)
	{
		const char *text = json_string_value(line);

		r->lines[r->nlines++] = text ? text : "";
	}
}

typedef bool (*match_fn)(const char *pattern, const char *text);

static bool name_matches(const struct place *p, match_fn match, const char *pattern)
{
	return *p->name && (match(pattern, p->name) || match(pattern, p->full) ||
			    match(pattern, p->simple));
}

static size_t find_rule(const struct matcher *m, const struct place *p)
{
	for (size_t i = 0; i < m->nrules; i++) {
		const char *pattern = m->rules[i].pattern;

		if (pattern && *pattern &&
		    (name_matches(p, pattern_find, pattern) ||
		     (*p->file && pattern_find(pattern, p->file)) ||
		     (*p->module && pattern_find(pattern, p->module))))
			return i;
	}
	return NONE;
}

static struct place place_of(const struct matcher *m, const json_t *frame)
{
	struct place p = { .name = text_in(frame, "function"),
			   .file = text_in(frame, "file"),
			   .module = text_in(frame, "module"),
			   .line = number_in(frame, "line") };
	const char *slash = strrchr(p.file, '/');

	if (*p.name == '[' || *p.name == '?') /* [truncated], ?? */
		p.name = "";
	p.base = slash ? slash + 1 : p.file;
	p.full = names_human(p.name, NAMES_FULL);
	p.simple = names_human(p.name, NAMES_SIMPLE);
	p.rule = find_rule(m, &p);
	return p;
}

static size_t number_of(struct matcher *m, const json_t *frame)
{
	size_t before = m->frames.count;
	size_t number = intern_bytes(&m->frames, &frame, sizeof(frame));

	if (number == before) {
		m->places = grown(m->places, number, &m->places_size, sizeof(*m->places));
		m->places[number] = place_of(m, frame);
	}
	return number;
}

/* "x.c" or "x.c:12"; the name is a path's last part or the whole path. */
static bool source_matches(const char *pattern, const struct place *p)
{
	const char *colon = strrchr(pattern, ':');
	char *end, *name;
	long line = colon && colon[1] ? strtol(colon + 1, &end, 10) : 0;
	bool has_line = colon && colon[1] && *end == '\0', same;

	if (!*p->file || (has_line && line != p->line))
		return false;
	name = has_line ? format_string("%.*s", (int)(colon - pattern), pattern)
			: format_string("%s", pattern);
	same = pattern_whole(name, p->base) || pattern_whole(name, p->file);
	free(name);
	return same;
}

static bool line_matches(const char *line, const struct place *p)
{
	if (strncmp(line, "fun:", 4) == 0)
		return name_matches(p, pattern_whole, line + 4);
	if (strncmp(line, "obj:", 4) == 0)
		return *p->module && pattern_whole(line + 4, p->module);
	return strncmp(line, "src:", 4) == 0 && source_matches(line + 4, p);
}

static bool line_matches_known(const char *line, uint32_t frame, void *arg)
{
	const struct matcher *m = arg;
	const size_t place = m->stack[frame];
	struct known *k =
		&m->known[((place << 40) ^ (uintptr_t)line) * 0x9e3779b97f4a7c15u >>
			  (64 - KNOWN_LG)];

	if (k->line != line || k->place != place) {
		k->line = line;
		k->place = place & (UINT64_MAX >> 1);
		k->matches = line_matches(line, &m->places[place]);
	}
	return k->matches;
}

static bool has_kind(const struct rule *r, const char *kind)
{
	const json_t *one;
	size_t i;

	if (!r->kinds)
		return true;
	json_array_foreach(r->kinds, i, one)
	{
		const char *text = json_string_value(one);

		if (text && strcmp(text, kind) == 0)
			return true;
	}
	return false;
}

/* The number of the suppression, or NONE. */
static size_t match(struct matcher *m, const json_t *leak)
{
	const json_t *frame;
	size_t i, n = 0;

	json_array_foreach(json_object_get(leak, "stack"), i, frame)
	{
		m->stack = grown(m->stack, n, &m->stack_size, sizeof(*m->stack));
		m->stack[n++] = number_of(m, frame);
	}
	for (i = 0; i < m->nrules; i++)
		if (m->rules[i].lines && has_kind(&m->rules[i], text_in(leak, "kind")) &&
		    pattern_stack(m->rules[i].lines, m->rules[i].nlines, (uint32_t)n,
				  line_matches_known, m))
			return i;
	for (i = 0; i < n; i++)
		if (m->places[m->stack[i]].rule != NONE)
			return m->places[m->stack[i]].rule;
	return NONE;
}

static void match_all(struct matcher *m, const json_t *report, json_t *found)
{
	const json_t *leak;
	size_t i;

	for (size_t k = 0; k < NLISTS; k++) {
		json_array_foreach(json_object_get(report, lists[k]), i, leak)
		{
			size_t rule = match(m, leak);

			if (rule != NONE)
				json_array_append_new(found,
						      json_pack("[I,I,I]", (json_int_t)k,
								(json_int_t)i,
								(json_int_t)rule));
		}
	}
}

json_t *knownleaks_find(json_t *report, int64_t not_after)
{
	const json_t *entries = json_object_get(report, "suppressions"), *entry;
	struct symbolizer *s = symbolizer_new(NULL, NAMES_NONE);
	struct matcher m = { .nrules = json_array_size(entries) };
	json_t *found = json_array();
	size_t i;

	symbolizer_report(s, report, not_after);
	m.rules = allocate((m.nrules + 1) * sizeof(*m.rules));
	m.known = allocate(KNOWN * sizeof(*m.known));
	json_array_foreach(entries, i, entry)
	{
		read_rule(&m.rules[i], entry);
	}
	match_all(&m, report, found);
	for (i = 0; i < m.nrules; i++)
		free(m.rules[i].lines);
	for (i = 0; i < m.frames.count; i++) {
		free(m.places[i].full);
		free(m.places[i].simple);
	}
	free(m.rules);
	free(m.known);
	free(m.places);
	free(m.stack);
	intern_free(&m.frames);
	symbolizer_free(s);
	return found;
}

/* ---- leaving out ---- */

static void add(json_t *object, const char *key, json_int_t more)
{
	json_object_set_new(object, key, json_integer(number_in(object, key) + more));
}

/* Of one that counted before. */
static void count_out(json_t *report, const json_t *leak, bool counted)
{
	json_int_t objects = number_in(leak, "objects"), bytes = number_in(leak, "bytes");

	if (counted) {
		add(report, "objects", -objects);
		add(report, "bytes", -bytes);
		add(report, "sites", -1);
		add(report, "new_objects", -number_in(leak, "new_objects"));
	}
	if (strcmp(text_in(leak, "kind"), "possible") == 0) {
		add(report, "possible_objects", -objects);
		add(report, "possible_bytes", -bytes);
	}
	add(report, "suppressed_objects", objects);
	add(report, "suppressed_bytes", bytes);
}

/* 1 + the suppression of each leak of the list, 0: none. What makes no sense in FOUND,
 * which another process may have written, is passed over. */
static size_t *rules_of(const json_t *report, size_t list, const json_t *found)
{
	size_t n = json_array_size(json_object_get(report, lists[list]));
	size_t nrules = json_array_size(json_object_get(report, "suppressions"));
	size_t *rules = allocate((n + 1) * sizeof(*rules)), i;
	const json_t *one;

	json_array_foreach(found, i, one)
	{
		json_int_t k = json_integer_value(json_array_get(one, 0));
		json_int_t at = json_integer_value(json_array_get(one, 1));
		json_int_t rule = json_integer_value(json_array_get(one, 2));

		if (k == (json_int_t)list && at >= 0 && (size_t)at < n && rule >= 0 &&
		    (size_t)rule < nrules)
			rules[at] = (size_t)rule + 1;
	}
	return rules;
}

static size_t leave_out(json_t *report, size_t list, const size_t *rules)
{
	json_t *left = json_array(), *leak, *entry;
	json_t *suppressed = json_object_get(report, "suppressed");
	size_t i, count = 0;

	json_array_foreach(json_object_get(report, lists[list]), i, leak)
	{
		if (rules[i] == 0) {
			json_array_append(left, leak);
			continue;
		}
		entry = json_array_get(json_object_get(report, "suppressions"),
				       rules[i] - 1);
		add(entry, "objects", number_in(leak, "objects"));
		add(entry, "bytes", number_in(leak, "bytes"));
		count_out(report, leak, list == 0);
		json_array_append(suppressed, leak);
		count++;
	}
	json_object_set_new(report, lists[list], left);
	return count;
}

/* The profile has a sample for each leak that counted, in the same order. */
static void prune_profile(const char *path, const size_t *rules, size_t n)
{
	char *why = NULL;
	struct pbfile *f = pbfile_read(path, &why);
	size_t left = 0;

	free(why);
	if (!f)
		return;
	if (f->p->n_sample == n) {
		for (size_t i = 0; i < n; i++)
			if (rules[i] == 0)
				f->p->sample[left++] = f->p->sample[i];
		f->p->n_sample = left;
		if (!pbfile_write(f, path))
			say("cannot write %s; it has suppressed leaks, too", path);
	}
	pbfile_free(f);
}

size_t knownleaks_apply(json_t *report, const json_t *found, const char *profile)
{
	size_t count = 0;

	for (size_t k = 0; k < NLISTS; k++) {
		size_t n = json_array_size(json_object_get(report, lists[k]));
		size_t *rules = rules_of(report, k, found);
		size_t out = leave_out(report, k, rules);

		if (k == 0 && out > 0 && profile)
			prune_profile(profile, rules, n);
		count += out;
		free(rules);
	}
	if (number_in(report, "objects") == 0 &&
	    strcmp(text_in(report, "verdict"), "leak") == 0)
		json_object_set_new(report, "verdict", json_string("clean"));
	return count;
}
