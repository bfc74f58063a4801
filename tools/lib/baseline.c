/* SPDX-License-Identifier: Apache-2.0 */
/*
 * baseline: see baseline.h. A JSON object from stacks, as texts, to what is left of them.
 */
#include "tools/lib/baseline.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/filebytes.h"
#include "tools/lib/reportjson.h"
#include "tools/lib/say.h"

struct baseline {
	json_t *left; /* stack: [objects, bytes] */
};

static const char *const lists[] = { "leaks", "possible" };

static json_int_t number_in(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *text_in(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* Function by function; where a frame has none, its module's name and the offset. */
static char *key_of(json_t *leak)
{
	char *key = NULL;
	size_t size = 0, i;
	FILE *out = open_memstream(&key, &size);
	json_t *frame;

	if (!out)
		die(EXIT_INCOMPLETE, "out of memory");
	json_array_foreach(json_object_get(leak, "stack"), i, frame)
	{
		const char *function = text_in(frame, "function");
		const char *module = text_in(frame, "module");
		const char *slash = strrchr(module, '/');

		if (*function)
			fprintf(out, "%s\n", function);
		else
			fprintf(out, "%s+%llx\n", slash ? slash + 1 : module,
				(unsigned long long)number_in(frame, "offset"));
	}
	if (fclose(out) != 0)
		die(EXIT_INCOMPLETE, "out of memory");
	return key;
}

static void add(struct baseline *b, json_t *leak)
{
	char *key = key_of(leak);
	json_t *have = json_object_get(b->left, key);
	json_int_t objects = json_integer_value(json_array_get(have, 0));
	json_int_t bytes = json_integer_value(json_array_get(have, 1));

	json_object_set_new_nocheck(b->left, key,
				    json_pack("[I,I]",
					      objects + number_in(leak, "objects"),
					      bytes + number_in(leak, "bytes")));
	free(key);
}

struct baseline *baseline_read(const char *path, char **out_why)
{
	json_error_t error;
	json_t *root = reportjson_read(path, &error), *leak;
	struct baseline *b;
	size_t i;

	if (!root || !json_is_array(json_object_get(root, "leaks"))) {
		/* jansson names the file itself where it cannot be opened */
		*out_why = !root && error.line < 0
				   ? format_string("%s", error.text)
				   : format_string("%s: it is no leak report", path);
		json_decref(root);
		return NULL;
	}
	b = allocate(sizeof(*b));
	b->left = json_object();
	for (size_t k = 0; k < sizeof(lists) / sizeof(lists[0]); k++) {
		json_array_foreach(json_object_get(root, lists[k]), i, leak)
		{
			add(b, leak);
		}
	}
	json_decref(root);
	return b;
}

void baseline_free(struct baseline *b)
{
	if (!b)
		return;
	json_decref(b->left);
	free(b);
}

static json_int_t smaller(json_int_t a, json_int_t b)
{
	return a < b ? a : b;
}

static void apply(struct baseline *b, json_t *leak)
{
	char *key = key_of(leak);
	json_t *have = json_object_get(b->left, key);
	json_int_t objects = number_in(leak, "objects"), bytes = number_in(leak, "bytes");
	json_int_t old = smaller(json_integer_value(json_array_get(have, 0)), objects);
	json_int_t old_bytes =
		smaller(json_integer_value(json_array_get(have, 1)), bytes);

	if (old == objects) /* no more of them: their sizes may differ */
		old_bytes = bytes;
	json_object_set_new(leak, "new_objects", json_integer(objects - old));
	json_object_set_new(leak, "new_bytes", json_integer(bytes - old_bytes));
	if (have) {
		json_array_set_new(
			have, 0,
			json_integer(json_integer_value(json_array_get(have, 0)) - old));
		json_array_set_new(
			have, 1,
			json_integer(json_integer_value(json_array_get(have, 1)) -
				     smaller(old_bytes, json_integer_value(json_array_get(
								have, 1)))));
	}
	free(key);
}

void baseline_apply(struct baseline *b, json_t *report)
{
	json_t *leak;
	size_t i;

	for (size_t k = 0; k < sizeof(lists) / sizeof(lists[0]); k++) {
		json_array_foreach(json_object_get(report, lists[k]), i, leak)
		{
			apply(b, leak);
		}
	}
}

int baseline_write(json_t *report, const char *path)
{
	size_t size;
	char *text = reportjson_text(report, &size);
	int error = 0;

	if (!text)
		return ENOMEM;
	errno = 0;
	if (!file_bytes_write(text, size, path))
		error = errno ? errno : EIO;
	free(text);
	return error;
}
