/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reportjson: see reportjson.h. Before the text is parsed, each frame in it gives way to
 * its number among the different ones:
 *
 *   "stack":[{"function":"f",...},{"function":"main",...}]  ->  "stack":[0,1]
 *
 * A frame is an object without objects or lists in it; where anything else is found the
 * text is parsed as it is. Writing works the other way round, from texts made once.
 */
#include "tools/lib/reportjson.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/intern.h"
#include "tools/lib/say.h"

#define STACK "\"stack\""

static const char *const lists[] = { "leaks", "possible", "suppressed", "retracted",
				     "reachable" };
#define NLISTS (sizeof(lists) / sizeof(lists[0]))

/* ---- reading ---- */

struct scan {
	const char *at, *end;
	FILE *out;
	struct intern frames;
	size_t numbered; /* places */
};

/* Behind the string that begins here. */
static const char *skip_string(const char *at, const char *end)
{
	for (at++; at < end && *at != '"'; at++)
		if (*at == '\\')
			at++;
	return at < end ? at + 1 : end;
}

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

/* Behind the frame that begins here; NULL: it is none. */
static const char *skip_frame(const char *at, const char *end)
{
	if (at == end || *at != '{')
		return NULL;
	for (at++; at < end && *at != '}';) {
		if (*at == '{' || *at == '[' || *at == ']')
			return NULL;
		at = *at == '"' ? skip_string(at, end) : at + 1;
	}
	return at < end ? at + 1 : NULL;
}

/* From behind '[' to behind ']'. */
static bool number_frames(struct scan *s)
{
	s->at = skip_space(s->at, s->end);
	while (s->at < s->end && *s->at != ']') {
		const char *next = skip_frame(s->at, s->end);

		if (!next)
			return false;
		fprintf(s->out, "%zu",
			intern_bytes(&s->frames, s->at, (size_t)(next - s->at)));
		s->numbered++;
		s->at = skip_space(next, s->end);
		if (s->at < s->end && *s->at == ',') {
			putc(',', s->out);
			s->at = skip_space(s->at + 1, s->end);
		}
	}
	if (s->at == s->end)
		return false;
	putc(*s->at++, s->out);
	return true;
}

/* Is the string from at to behind the key of a list? Then where the list begins. */
static const char *list_behind(const char *at, const char *behind, const char *end)
{
	if ((size_t)(behind - at) != strlen(STACK) ||
	    memcmp(at, STACK, strlen(STACK)) != 0)
		return NULL;
	behind = skip_space(behind, end);
	if (behind == end || *behind != ':')
		return NULL;
	behind = skip_space(behind + 1, end);
	return behind < end && *behind == '[' ? behind : NULL;
}

static bool number_all(struct scan *s)
{
	while (s->at < s->end) {
		const char *quote = memchr(s->at, '"', (size_t)(s->end - s->at));
		const char *behind, *list;

		if (!quote)
			quote = s->end;
		behind = quote < s->end ? skip_string(quote, s->end) : s->end;
		list = list_behind(quote, behind, s->end);
		if (list)
			behind = list + 1;
		fwrite(s->at, 1, (size_t)(behind - s->at), s->out);
		s->at = behind;
		if (list && !number_frames(s))
			return false;
	}
	return true;
}

static json_t **parse_frames(const struct intern *texts)
{
	json_t **frames = allocate((texts->count + 1) * sizeof(*frames));

	for (size_t i = 0; i < texts->count; i++) {
		frames[i] =
			json_loadb(intern_key(texts, i), texts->keys[i].size, 0, NULL);
		if (!frames[i])
			frames[i] = json_null();
	}
	return frames;
}

/* How many. */
static size_t set_frames(json_t *leak, json_t **frames)
{
	json_t *stack = json_object_get(leak, "stack"), *number;
	size_t i;

	json_array_foreach(stack, i, number)
	{
		json_array_set(stack, i, frames[json_integer_value(number)]);
	}
	return json_array_size(stack);
}

/* False: some of the numbers stand elsewhere. */
static bool set_all_frames(json_t *root, const struct intern *texts, size_t numbered)
{
	json_t **frames = parse_frames(texts), *leak;
	size_t i, set = 0;

	for (size_t k = 0; k < NLISTS; k++) {
		json_array_foreach(json_object_get(root, lists[k]), i, leak)
		{
			set += set_frames(leak, frames);
		}
	}
	for (i = 0; i < texts->count; i++)
		json_decref(frames[i]);
	free(frames);
	return set == numbered;
}

json_t *reportjson_parse(const char *bytes, size_t size, json_error_t *why)
{
	struct scan s = { .at = bytes, .end = bytes + size };
	char *text = NULL;
	size_t length = 0;
	json_t *root = NULL;
	bool ok;

	s.out = open_memstream(&text, &length);
	if (!s.out)
		die(EXIT_INCOMPLETE, "out of memory");
	ok = number_all(&s);
	if (fclose(s.out) != 0)
		die(EXIT_INCOMPLETE, "out of memory");
	if (ok)
		root = json_loadb(text, length, 0, NULL);
	if (!root || !set_all_frames(root, &s.frames, s.numbered)) {
		json_decref(root);
		/* where it is no JSON, it says itself why */
		root = json_loadb(bytes, size, 0, why);
	}
	intern_free(&s.frames);
	free(text);
	return root;
}

json_t *reportjson_read(const char *path, json_error_t *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	json_t *root;
	char *bytes;

	if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) {
		if (fd >= 0)
			close(fd);
		return json_load_file(path, 0, why); /* or it says why not */
	}
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (bytes == MAP_FAILED)
		return json_load_file(path, 0, why);
	root = reportjson_parse(bytes, (size_t)st.st_size, why);
	munmap(bytes, (size_t)st.st_size);
	return root;
}

/* ---- writing ---- */

struct writer {
	FILE *out;
	struct intern frames; /* addresses */
	char **texts;	      /* by their numbers */
	size_t ntexts;
	bool failed;
};

static void put_value(struct writer *w, const json_t *value)
{
	char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

	if (text)
		fputs(text, w->out);
	else
		w->failed = true;
	free(text);
}

static void put_key(struct writer *w, const char *key, bool first)
{
	json_t *name = json_string(key);

	if (!first)
		putc(',', w->out);
	put_value(w, name);
	json_decref(name);
	putc(':', w->out);
}

static void put_frame(struct writer *w, const json_t *frame)
{
	size_t number = intern_bytes(&w->frames, &frame, sizeof(frame));

	if (number == w->ntexts) {
		w->texts = realloc(w->texts, (w->ntexts + 1) * sizeof(*w->texts));
		if (!w->texts)
			die(EXIT_INCOMPLETE, "out of memory");
		w->texts[w->ntexts++] = json_dumps(frame, JSON_COMPACT | JSON_ENCODE_ANY);
	}
	if (w->texts[number])
		fputs(w->texts[number], w->out);
	else
		w->failed = true;
}

static void put_stack(struct writer *w, const json_t *stack)
{
	json_t *frame;
	size_t i;

	putc('[', w->out);
	json_array_foreach(stack, i, frame)
	{
		if (i)
			putc(',', w->out);
		put_frame(w, frame);
	}
	putc(']', w->out);
}

static void put_leak(struct writer *w, json_t *leak)
{
	const char *key;
	json_t *value;
	bool first = true;

	putc('{', w->out);
	json_object_foreach(leak, key, value)
	{
		put_key(w, key, first);
		if (strcmp(key, "stack") == 0 && json_is_array(value))
			put_stack(w, value);
		else
			put_value(w, value);
		first = false;
	}
	putc('}', w->out);
}

static void put_leaks(struct writer *w, const json_t *list)
{
	json_t *leak;
	size_t i;

	putc('[', w->out);
	json_array_foreach(list, i, leak)
	{
		fputs(i ? ",\n" : "\n", w->out);
		if (json_is_object(leak))
			put_leak(w, leak);
		else
			put_value(w, leak);
	}
	putc(']', w->out);
}

static bool is_list(const char *key, const json_t *value)
{
	for (size_t k = 0; k < NLISTS; k++)
		if (strcmp(key, lists[k]) == 0)
			return json_is_array(value);
	return false;
}

static void put_report(struct writer *w, json_t *report)
{
	const char *key;
	json_t *value;
	bool first = true;

	putc('{', w->out);
	json_object_foreach(report, key, value)
	{
		put_key(w, key, first);
		if (is_list(key, value))
			put_leaks(w, value);
		else
			put_value(w, value);
		first = false;
	}
	fputs("}\n", w->out);
}

char *reportjson_text(json_t *report, size_t *out_size)
{
	struct writer w = { 0 };
	char *text = NULL;

	w.out = open_memstream(&text, out_size);
	if (!w.out)
		return NULL;
	if (json_is_object(report))
		put_report(&w, report);
	else
		put_value(&w, report);
	if (fclose(w.out) != 0)
		w.failed = true;
	for (size_t i = 0; i < w.ntexts; i++)
		free(w.texts[i]);
	free(w.texts);
	intern_free(&w.frames);
	if (!w.failed)
		return text;
	free(text);
	return NULL;
}
