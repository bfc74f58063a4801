/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filebytes: see filebytes.h.
 */
#include "tools/lib/filebytes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "tools/lib/say.h"

#define MAX_FILE (1u << 30)

uint8_t *file_bytes_read(const char *path, size_t *out_size)
{
	gzFile f = gzopen(path, "rbe");
	size_t capacity = 1 << 16, used = 0;
	uint8_t *bytes, *larger;
	int n, error;

	if (!f)
		return NULL;
	gzbuffer(f, 1 << 17);
	bytes = allocate(capacity);
	while ((n = gzread(f, bytes + used, (unsigned)(capacity - used - 1))) > 0) {
		used += (size_t)n;
		if (used + 1 < capacity)
			continue;
		capacity *= 2;
		larger = capacity <= MAX_FILE ? realloc(bytes, capacity) : NULL;
		if (!larger) {
			n = -1;
			errno = EFBIG;
			break;
		}
		bytes = larger;
	}
	error = n < 0 ? (errno ? errno : EILSEQ) : 0;
	if (gzclose_r(f) == Z_BUF_ERROR)
		error = EILSEQ; /* cut off */
	if (error) {
		free(bytes);
		errno = error;
		return NULL;
	}
	bytes[used] = '\0';
	*out_size = used;
	return bytes;
}

/* A sibling of path, new, mode 0600; its name in *out_name. */
static int open_temporary(const char *path, char **out_name)
{
	*out_name = format_string("%s.%d.tmp", path, getpid());
	return open(*out_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    0600);
}

/* A file that is replaced keeps its owner (the program's, where the tool is root's) and
 * its mode. */
static void keep_owner(int fd, const char *path)
{
	struct stat st;

	if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode))
		return;
	if (fchown(fd, st.st_uid, st.st_gid) == 0)
		fchmod(fd, st.st_mode & 0777);
}

static bool commit(char *temporary, const char *path, bool written)
{
	int error = errno;
	bool ok = written && rename(temporary, path) == 0;

	if (!ok) {
		error = written ? errno : error;
		unlink(temporary);
	}
	free(temporary);
	errno = error;
	return ok;
}

bool file_is_special(const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode) &&
	    (strncmp(path, "/dev/", 5) == 0 || strncmp(path, "/proc/", 6) == 0))
		return true;
	return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

bool file_bytes_write(const void *bytes, size_t size, const char *path)
{
	const char *at = bytes;
	const bool special = file_is_special(path);
	char *temporary = NULL;
	int fd = special ? open(path, FILE_AS_IT_IS) : open_temporary(path, &temporary);
	bool ok = fd >= 0;
	int error = 0;

	if (!ok) {
		free(temporary);
		return false;
	}
	while (ok && size > 0) {
		ssize_t n = write(fd, at, size);

		if (n < 0 && errno == EINTR)
			continue;
		ok = n > 0;
		error = ok ? 0 : errno;
		at += ok ? n : 0;
		size -= ok ? (size_t)n : 0;
	}
	if (special)
		return close(fd) == 0 && ok;
	keep_owner(fd, path);
	ok = close(fd) == 0 && ok;
	ok = commit(temporary, path, ok);
	if (error)
		errno = error;
	return ok;
}
