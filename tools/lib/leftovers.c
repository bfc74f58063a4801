/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leftovers: see leftovers.h.
 *
 * The tool holds a lock on its table, which the kernel takes back however it ends: a pid
 * could be another's by now. A table gets its name when it is locked, so whoever finds
 * one that is not locked knows that its tool is gone. The program may live on: while one
 * of its processes does, all stays.
 */
#include "tools/lib/leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/launch.h"
#include "tools/lib/recover.h"
#include "tools/lib/say.h"

void leftovers_mark(int fd)
{
	flock(fd, LOCK_EX | LOCK_NB);
}

void leftovers_remove(const char *directory)
{
	DIR *d = opendir(directory);

	for (struct dirent *e; d && (e = readdir(d));)
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(directory);
}

/* Of the processes in the table. */
static bool any_runs(int fd)
{
	const size_t head = offsetof(struct runtable, rows);
	const struct runtable *t;
	struct stat st;
	bool runs = false;
	size_t n;

	if (fstat(fd, &st) != 0 || (size_t)st.st_size < head)
		return true; /* another version's, which may have no lock */
	t = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (t == MAP_FAILED)
		return true;
	n = ((size_t)st.st_size - head) / sizeof(t->rows[0]);
	runs = t->magic != RUNTABLE_MAGIC || t->version != RUNTABLE_VERSION;
	for (size_t i = 0; i < n && i < t->claimed && !runs; i++)
		runs = t->rows[i].state == RUNROW_CLAIMED &&
		       launch_is_running(&t->rows[i]);
	munmap((void *)(uintptr_t)t, (size_t)st.st_size);
	return runs;
}

/* Stores are called after the table, with the number of their row. */
static void recover_stores(const char *directory, const char *library)
{
	DIR *d = opendir(directory);

	for (struct dirent *e; d && (e = readdir(d));) {
		char *path;

		if (strncmp(e->d_name, LEFTOVERS_TABLE ".", sizeof(LEFTOVERS_TABLE)) != 0)
			continue;
		path = format_string("%s/%s", directory, e->d_name);
		recover_store(library, path, NULL, NULL, true);
		free(path);
	}
	if (d)
		closedir(d);
}

static void clear_one(const char *directory, const char *library)
{
	char *table = format_string("%s/%s", directory, LEFTOVERS_TABLE);
	struct stat st;
	int fd = -1;

	if (lstat(directory, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid())
		fd = open(table, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && !any_runs(fd)) {
		recover_stores(directory, library);
		leftovers_remove(directory);
	}
	if (fd >= 0)
		close(fd);
	free(table);
}

void leftovers_clear(const char *place, const char *library)
{
	DIR *d = opendir(place);

	for (struct dirent *e; d && (e = readdir(d));) {
		char *directory;

		if (strncmp(e->d_name, LEFTOVERS_NAME, sizeof(LEFTOVERS_NAME) - 1) != 0)
			continue;
		directory = format_string("%s/%s", place, e->d_name);
		clear_one(directory, library);
		free(directory);
	}
	if (d)
		closedir(d);
}
