/* SPDX-License-Identifier: Apache-2.0 */
/* outdir: an empty directory for each test that writes profiles. */
#ifndef TESTS_UNIT_OUTDIR_H
#define TESTS_UNIT_OUTDIR_H

#include "tests/unit/cm.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct {
	char dir[256], prefix[300], path[400];
} at;

/* Setup and teardown of a test. */
static inline int make_dir(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	snprintf(at.dir, sizeof(at.dir), "%s/seep-pprof-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(at.dir))
		return -1;
	snprintf(at.prefix, sizeof(at.prefix), "%s/out", at.dir);
	return 0;
}

/* Counts the files, copies the name of the last one, removes them if asked. */
static inline int list_dir(char *name, size_t size, bool remove_them)
{
	DIR *d = opendir(at.dir);
	struct dirent *e;
	char path[600];
	int n = 0;

	assert_non_null(d);
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		n++;
		snprintf(path, sizeof(path), "%s/%s", at.dir, e->d_name);
		if (name)
			snprintf(name, size, "%s", path);
		if (remove_them)
			unlink(path);
	}
	closedir(d);
	return n;
}

static inline int remove_dir(void **state)
{
	(void)state;
	list_dir(NULL, 0, true);
	return rmdir(at.dir);
}

/* Where a profile of this kind appears; good until the next call. */
static inline const char *path_of(const char *kind)
{
	snprintf(at.path, sizeof(at.path), "%s.%s.pb.gz", at.prefix, kind);
	return at.path;
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

#endif
