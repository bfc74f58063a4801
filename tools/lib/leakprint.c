/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leakprint: see leakprint.h.
 */
#include "tools/lib/leakprint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/profile.h"
#include "tools/lib/say.h"

#define MAX_FRAMES 24 /* of one leak */

static long long number_in(const json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

static const char *text_in(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

void leakprint_frame(size_t i, json_t *frame)
{
	const char *function = text_in(frame, "function");
	const char *module = text_in(frame, "module");
	const char *file = text_in(frame, "file");
	char *name;

	if (*function) {
		name = profile_demangle(function);
		if (*file)
			say("    #%zu %s %s:%lld", i, name, file,
			    number_in(frame, "line"));
		else
			say("    #%zu %s (%s)", i, name, module);
		free(name);
	} else {
		say("    #%zu %s+%#llx", i, module, number_in(frame, "offset"));
	}
}

static void print_stack(json_t *leak)
{
	json_t *stack = json_object_get(leak, "stack"), *frame;
	size_t i;

	if (json_array_size(stack) == 0)
		say("    [stack not sampled]");
	json_array_foreach(stack, i, frame)
	{
		if (i < MAX_FRAMES)
			leakprint_frame(i, frame);
	}
	if (json_array_size(stack) > MAX_FRAMES)
		say("    ... %zu more frames", json_array_size(stack) - MAX_FRAMES);
}

static void print_title(json_t *leak, bool only_new, const char *also)
{
	const char *kind = text_in(leak, "kind");
	long long n = number_in(leak, only_new ? "new_objects" : "objects");

	say_title("%s%s: %lld bytes in %lld%s object%s%s, from:",
		  *kind ? kind : "unknown", strcmp(kind, "reachable") == 0 ? "" : " leak",
		  number_in(leak, only_new ? "new_bytes" : "bytes"), n,
		  only_new ? " new" : "", n == 1 ? "" : "s", also);
}

void leakprint_leak(json_t *leak, bool only_new)
{
	print_title(leak, only_new, "");
	print_stack(leak);
}

static void print_ages(json_t *leak)
{
	double first = (double)number_in(leak, "first_age_ns") / 1e9;
	double last = (double)number_in(leak, "last_age_ns") / 1e9;

	if (!json_object_get(leak, "first_age_ns"))
		return;
	if (number_in(leak, "objects") == 1)
		say("    allocated %.3f s before the check", first);
	else
		say("    allocated %.3f to %.3f s before the check", first, last);
}

void leakprint_live(json_t *leak, bool only_new)
{
	char also[48] = "";

	if (number_in(leak, "retained") > number_in(leak, "bytes"))
		snprintf(also, sizeof(also), ", retaining %lld bytes",
			 number_in(leak, "retained"));
	print_title(leak, only_new, also);
	print_stack(leak);
	print_ages(leak);
}

bool leakprint_chain(json_t *entry)
{
	json_t *chain = json_object_get(entry, "chain"), *step;
	size_t i;

	if (!chain)
		return false;
	say("    held by %s", text_in(entry, "root"));
	json_array_foreach(chain, i, step)
	{
		say("    -> +%lld of %lld bytes from:", number_in(step, "offset"),
		    number_in(step, "bytes"));
		if (json_is_object(json_object_get(step, "from")))
			leakprint_frame(0, json_object_get(step, "from"));
	}
	return true;
}
