/* SPDX-License-Identifier: Apache-2.0 */
/*
 * findings: see findings.h.
 */
#include "tools/lib/findings.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/estimate.h"
#include "tools/lib/filebytes.h"
#include "tools/lib/say.h"

/* Bytes of the UTF-8 character at s that XML, too, can hold; 0 when it is none. */
static size_t character_at(const unsigned char *s)
{
	size_t n = s[0] < 0x80	 ? 1
		   : s[0] < 0xc2 ? 0
		   : s[0] < 0xe0 ? 2
		   : s[0] < 0xf0 ? 3
				 : 4;

	if (s[0] > 0xf4 || (s[0] < 0x20 && s[0] != '\t') || s[0] == 0x7f)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xef && s[1] == 0xbf && s[2] > 0xbd) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static const char *clean(struct findings *f, const char *text)
{
	char *copy = arena_text(&f->arena, text, strlen(text));

	for (char *s = copy; *s;) {
		size_t n = character_at((const unsigned char *)s);

		if (n == 0)
			*s = '?';
		s += n ? n : 1;
	}
	return copy;
}

/* ---- the list ---- */

/* The finding with that kind and those frames, new or found again. */
static struct finding *finding_of(struct findings *f, const char *kind,
				  const struct frame *frames, size_t n)
{
	size_t size = strlen(kind) + 1, before = f->stacks.count, number;
	char *key, *at;
	struct frame *copy;

	for (size_t i = 0; i < n; i++)
		size += strlen(frames[i].function) + strlen(frames[i].file) + 26;
	key = at = allocate(size + 1);
	at = stpcpy(at, kind) + 1;
	for (size_t i = 0; i < n; i++) {
		at = stpcpy(at, frames[i].function) + 1;
		at = stpcpy(at, frames[i].file) + 1;
		at += sprintf(at, "%lld", (long long)frames[i].line);
	}
	number = intern_bytes(&f->stacks, key, (size_t)(at - key));
	free(key);
	if (number < before)
		return &f->list[number];
	f->list = grown(f->list, number, &f->size, sizeof(*f->list));
	copy = arena_alloc(&f->arena, n * sizeof(*copy));
	for (size_t i = 0; i < n; i++) {
		copy[i] = frames[i];
		copy[i].function = clean(f, frames[i].function);
		copy[i].file = clean(f, frames[i].file);
		copy[i].module = clean(f, frames[i].module);
	}
	f->list[number] =
		(struct finding){ .kind = clean(f, kind), .frames = copy, .nframes = n };
	f->count = number + 1;
	return &f->list[number];
}

static int largest_first(const void *a, const void *b)
{
	const struct finding *x = a, *y = b;

	if (x->amount != y->amount)
		return x->amount > y->amount ? -1 : 1;
	return x->objects != y->objects
		       ? (x->objects > y->objects ? -1 : 1)
		       : strcmp(x->frames[0].function, y->frames[0].function);
}

/* ---- profiles ---- */

static int objects_type(const struct pbfile *p, const char *type)
{
	const char *space = strstr(type, "space");
	char *name;
	int found;

	if (strcmp(type, "slack") == 0 || strcmp(type, "lifetime") == 0)
		return pbfile_type(p, "objects");
	if (!space)
		return -1;
	name = format_string("%.*sobjects", (int)(space - type), type);
	found = pbfile_type(p, name);
	free(name);
	return found;
}

static const char *kind_label(const struct pbfile *p, const Seep__Pprof__Sample *s)
{
	for (size_t i = 0; i < s->n_label; i++)
		if (strcmp(pbfile_text(p, s->label[i]->key), "kind") == 0)
			return pbfile_text(p, s->label[i]->str);
	return "";
}

static void add_samples(struct findings *f, struct pbfile *p, int type)
{
	int objects = objects_type(p, f->type), retained = -1;
	bool leaks = strcmp(f->type, "leaked_space") == 0;
	bool lives = pbfile_type(p, "slack") >= 0;
	struct estimate estimate = estimate_of(p, type);
	struct stacks stacks;

	if (leaks)
		retained = pbfile_type(p, "retained_space");
	f->has_objects = objects >= 0;
	stacks_init(&stacks, p);
	for (size_t i = 0; i < p->p->n_sample; i++) {
		const Seep__Pprof__Sample *s = p->p->sample[i];
		const struct frame *frames;
		size_t n = stacks_of(&stacks, s, &frames);
		struct finding *to;
		double variance;

		if (s->value[type] == 0 && !lives)
			continue;
		to = finding_of(f, leaks ? kind_label(p, s) : "", frames, n);
		to->amount += s->value[type];
		to->objects += objects >= 0 ? s->value[objects] : 0;
		to->retained += retained >= 0 ? s->value[retained] : 0;
		variance = estimate_variance(&estimate, s, s->value[type]);
		to->variance += variance;
		f->variance += variance;
		if (lives)
			lifetimes_add(&to->lives, p, s);
		f->amount += s->value[type];
		f->objects += objects >= 0 ? s->value[objects] : 0;
	}
	stacks_free(&stacks);
	if (leaks)
		f->verdict = f->count ? "leak" : "clean";
}

static bool read_profile(struct findings *f, uint8_t *bytes, size_t size,
			 const char *index, char **out_why)
{
	struct pbfile *p = pbfile_parse(bytes, size, out_why);
	int type;

	if (!p)
		return false;
	type = pbfile_type(p, index);
	if (type < 0) {
		*out_why = format_string("it has no sample type %s", index);
		pbfile_free(p);
		return false;
	}
	f->type = clean(f, pbfile_text(p, p->p->sample_type[type]->type));
	f->unit = clean(f, pbfile_text(p, p->p->sample_type[type]->unit));
	if (p->p->n_mapping)
		f->exe = clean(f, pbfile_text(p, p->p->mapping[0]->filename));
	add_samples(f, p, type);
	pbfile_free(p);
	return true;
}

/* ---- reports ---- */

static const char *text_in(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static int64_t number_in(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

/* The frame's name in a report: its function, or its place. */
static const char *frame_name(struct findings *f, const json_t *frame)
{
	const char *function = text_in(frame, "function");
	char *text;
	const char *kept;

	if (*function)
		return function;
	text = format_string("%s+%#llx", text_in(frame, "module"),
			     (unsigned long long)number_in(frame, "offset"));
	kept = arena_text(&f->arena, text, strlen(text));
	free(text);
	return kept;
}

static void add_leak(struct findings *f, const json_t *leak)
{
	json_t *stack = json_object_get(leak, "stack"), *frame;
	size_t n = json_array_size(stack), i;
	struct frame *frames = allocate((n + 1) * sizeof(*frames));
	struct finding *to;

	json_array_foreach(stack, i, frame)
	{
		frames[i] = (struct frame){
			.function = frame_name(f, frame),
			.file = text_in(frame, "file"),
			.module = text_in(frame, "module"),
			.line = number_in(frame, "line"),
			.offset = (uint64_t)number_in(frame, "offset"),
			.inlined = json_is_true(json_object_get(frame, "inlined")),
		};
	}
	if (n == 0)
		frames[n++] = (struct frame){ .function = "[stack not sampled]",
					      .file = "",
					      .module = "" };
	to = finding_of(f, text_in(leak, "kind"), frames, n);
	to->objects += number_in(leak, "objects");
	to->amount += number_in(leak, "bytes");
	to->retained += number_in(leak, "retained");
	f->objects += number_in(leak, "objects");
	f->amount += number_in(leak, "bytes");
	free(frames);
}

static bool read_report(struct findings *f, const char *bytes, char **out_why)
{
	json_t *root = json_loads(bytes, 0, NULL), *leak;
	json_t *leaks = json_object_get(root, "leaks");
	size_t i;

	if (!json_is_array(leaks) || !*text_in(root, "verdict")) {
		*out_why = format_string(
			json_object_get(root, "processes")
				? "it is the list of a run's files; give those"
				: "it is not a leak report");
		json_decref(root);
		return false;
	}
	f->type = "leaked_space";
	f->unit = "bytes";
	f->has_objects = true;
	f->exe = clean(f, text_in(root, "exe"));
	f->pid = number_in(root, "pid");
	f->verdict = clean(f, text_in(root, "verdict"));
	f->reason = clean(f, text_in(root, "reason"));
	json_array_foreach(leaks, i, leak)
	{
		add_leak(f, leak);
	}
	json_decref(root);
	return true;
}

struct findings *findings_read(const char *path, const char *index, char **out_why)
{
	struct findings *f = allocate(sizeof(*f));
	size_t size;
	uint8_t *bytes;
	bool ok;

	errno = 0;
	bytes = file_bytes_read(path, &size);
	f->path = clean(f, path);
	f->exe = f->reason = "";
	if (!bytes) {
		*out_why =
			format_string("%s", errno == EILSEQ ? "it is cut off or damaged"
							    : strerror(errno));
		ok = false;
	} else if (size > 0 && bytes[0] == '{') {
		ok = read_report(f, (const char *)bytes, out_why);
		free(bytes);
	} else {
		ok = read_profile(f, bytes, size, index, out_why);
	}
	if (!ok) {
		findings_free(f);
		return NULL;
	}
	if (f->count > 0)
		qsort(f->list, f->count, sizeof(*f->list), largest_first);
	return f;
}

void findings_free(struct findings *f)
{
	intern_free(&f->stacks);
	for (size_t i = 0; i < f->count; i++)
		lifetimes_free(f->list[i].lives);
	arena_free(&f->arena);
	free(f->list);
	free(f);
}

/* ---- about one ---- */

const struct frame *finding_frame(const struct finding *f)
{
	for (size_t i = 0; i < f->nframes; i++)
		if (*f->frames[i].file && f->frames[i].line > 0 &&
		    !frame_is_system(&f->frames[i]))
			return &f->frames[i];
	return &f->frames[0];
}

uint64_t finding_fingerprint(const struct finding *f)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < f->nframes; i++) {
		for (const char *s = f->frames[i].function; *s; s++)
			h = (h ^ (unsigned char)*s) * 0x100000001b3u;
		h = (h ^ 0xff) * 0x100000001b3u;
	}
	return h;
}

const char *findings_amount(const struct findings *f, int64_t amount, char *buf,
			    size_t size)
{
	if (strcmp(f->unit, "bytes") == 0 && amount >= 0)
		return say_bytes((uint64_t)amount, buf, size);
	if (strcmp(f->unit, "nanoseconds") == 0 && amount >= 0)
		return lifetimes_duration((double)amount, buf, size);
	snprintf(buf, size, "%lld%s%s", (long long)amount,
		 strcmp(f->unit, "count") == 0 ? "" : " ",
		 strcmp(f->unit, "count") == 0 ? "" : f->unit);
	return buf;
}
