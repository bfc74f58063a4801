/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf_path: names of source files as people write them.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/lib/dwarf_int.h"
#include "tools/lib/say.h"

/* The end of what is left of path when its last component goes; where that is no name
 * (the root, ".." or nothing): NULL. */
static char *parent(char *path, char *end)
{
	char *slash = end;

	while (slash > path && slash[-1] != '/')
		slash--;
	if (slash == end || (end - slash == 2 && slash[0] == '.' && slash[1] == '.'))
		return NULL;
	return slash > path + 1 ? slash - 1 : slash;
}

/* path without "." and "name/..", allocated. A "./" in front is kept. */
static char *without_dots(const char *path)
{
	char *out = allocate(strlen(path) + 3), *base = out, *to, *up;

	if (strncmp(path, "./", 2) == 0)
		base = stpcpy(out, "./");
	to = base;
	if (*path == '/')
		*to++ = '/';
	while (*path) {
		size_t n = strcspn(path, "/");
		bool dots = n == 2 && path[0] == '.' && path[1] == '.';

		up = dots ? parent(base, to) : NULL;
		if (up) {
			to = up;
		} else if (n > 0 && !(n == 1 && path[0] == '.')) {
			if (to > base && to[-1] != '/')
				*to++ = '/';
			to = mempcpy(to, path, n);
		}
		path += n + (path[n] == '/');
	}
	*to = '\0';
	return out;
}

/* Behind a link, ".." leads elsewhere. */
static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) != 0 ||
	       (stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

static const char *tidy(struct dwarf *d, const char *path)
{
	char *text = without_dots(path);
	const char *kept = same_file(path, text) ? text : path;

	kept = arena_text(&d->arena, kept, strlen(kept));
	free(text);
	return kept;
}

const char *dwarf_path(struct dwarf *d, const char *directory, const char *file)
{
	char *joined = *file != '/' && directory && *directory
			       ? format_string("%s/%s", directory, file)
			       : NULL;
	const char *path = joined ? joined : file;
	size_t before = d->paths.count, number = intern_text(&d->paths, path);

	if (number == before) {
		d->tidy_paths =
			grown(d->tidy_paths, number, &d->tidy_size, sizeof(char *));
		d->tidy_paths[number] = tidy(d, path);
	}
	free(joined);
	return d->tidy_paths[number];
}
