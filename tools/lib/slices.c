/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slices: see slices.h. The file that the library's name leads to is called by the
 * version: libglib-2.0.so.0.7400.6 is 2.74.6.
 */
#include "tools/lib/slices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME	      "libglib-2.0.so.0"
#define FIRST_WITHOUT 7600u /* GLib 2.76 leaves it to malloc */

static bool is_old(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *file;
	unsigned version = FIRST_WITHOUT;

	if (!slash || strncmp(slash + 1, NAME, strlen(NAME)) != 0)
		return false;
	file = realpath(path, NULL);
	slash = file ? strrchr(file, '/') : NULL;
	if (slash && sscanf(slash + 1, NAME ".%u", &version) != 1)
		version = FIRST_WITHOUT;
	free(file);
	return version < FIRST_WITHOUT;
}

bool slices_hide(const json_t *report)
{
	const json_t *module;
	size_t i;

	if (getenv("G_SLICE"))
		return false;
	json_array_foreach(json_object_get(report, "modules"), i, module)
	{
		const char *path = json_string_value(json_object_get(module, "path"));

		if (path && is_old(path))
			return true;
	}
	return false;
}
