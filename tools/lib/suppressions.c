/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suppressions: see suppressions.h.
 */
#include "tools/lib/suppressions.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/lib/say.h"

#define MAX_FRAMES 24 /* as many as memcheck reads */

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static void add_used(struct suppressions *s, json_t *list)
{
	json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *name = text_of(entry, "name");
		json_int_t before = json_integer_value(json_object_get(s->used, name));
		json_int_t now = json_integer_value(json_object_get(entry, "objects"));

		json_object_set_new(s->used, name, json_integer(before + now));
	}
}

static const char *kind_of(const char *kind)
{
	return strcmp(kind, "direct") == 0 ? "definite" : kind;
}

/* A name as a pattern that matches it: what would be a wildcard or end the line is any
 * one character. */
static void put_pattern(FILE *f, const char *key, const char *name)
{
	fputs(key, f);
	for (; *name; name++)
		putc(*name == '*' || (unsigned char)*name < ' ' ? '?' : *name, f);
	putc('\n', f);
}

/* A block's text without its name; allocated. NULL: no stack is known. */
static char *block_of(json_t *leak)
{
	json_t *stack = json_object_get(leak, "stack"), *frame;
	char *text = NULL;
	size_t size = 0, i;
	FILE *f;

	if (json_array_size(stack) == 0)
		return NULL;
	f = open_memstream(&text, &size);
	if (!f)
		return NULL;
	fprintf(f, "   Memcheck:Leak\n   match-leak-kinds: %s\n",
		kind_of(text_of(leak, "kind")));
	json_array_foreach(stack, i, frame)
	{
		const char *function = text_of(frame, "function");
		const char *module = text_of(frame, "module");

		if (i == MAX_FRAMES)
			break;
		if (*function && *function != '[')
			put_pattern(f, "   fun:", function);
		else if (*module)
			put_pattern(f, "   obj:", module);
		else
			fputs("   obj:*\n", f);
	}
	fclose(f);
	return text;
}

void suppressions_add(struct suppressions *s, json_t *report)
{
	json_t *leak;
	size_t i;

	if (!s->used)
		s->used = json_object();
	if (!s->made)
		s->made = json_object();
	add_used(s, json_object_get(report, "suppressions"));
	json_array_foreach(json_object_get(report, "leaks"), i, leak)
	{
		char *block = block_of(leak);
		char *name = format_string(
			"%s leak of %lld bytes in %s", text_of(leak, "kind"),
			(long long)json_integer_value(json_object_get(leak, "bytes")),
			text_of(report, "exe"));

		if (block && !json_object_get(s->made, block))
			json_object_set_new(s->made, block, json_string(name));
		free(name);
		free(block);
	}
}

void suppressions_say_unused(const struct suppressions *s)
{
	const char *name;
	json_t *objects;

	json_object_foreach(s->used, name, objects)
	{
		if (json_integer_value(objects) == 0)
			say("suppression not used: %s", name);
	}
}

static FILE *open_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? NULL : fdopen(fd, "w");
}

int suppressions_write(const struct suppressions *s, const char *path)
{
	bool to_stderr = strcmp(path, "-") == 0;
	FILE *f = to_stderr ? stderr : open_file(path);
	const char *block;
	json_t *name;
	int error;

	if (!f)
		return errno;
	json_object_foreach(s->made, block, name)
	{
		put_pattern(f, "{\n   ", json_string_value(name));
		fprintf(f, "%s}\n", block);
	}
	error = ferror(f) ? EIO : 0;
	if (!to_stderr && fclose(f) != 0 && !error)
		error = errno;
	return error;
}

void suppressions_free(struct suppressions *s)
{
	json_decref(s->used);
	json_decref(s->made);
}
