/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file: see file.h.
 */
#include "profiler/pprof/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"

static uint64_t size_limit(void)
{
	uint64_t lim[2] = { UINT64_MAX, UINT64_MAX };

	if (os_call(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, (long)lim, 0, 0) != 0)
		return UINT64_MAX;
	return lim[0];
}

/* rename() would replace a link, not follow it; but somebody put it there for a reason
 * that is not ours to undo. */
static bool is_link(const char *path)
{
	struct stat st;

	return os_lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

int out_file_open(struct out_file *f, const char *prefix, const char *suffix)
{
	f->fd = -1;
	f->error = 0;
	f->size = 0;
	f->limit = size_limit();
	if (fmt_string(f->path, sizeof(f->path), "%s.%s", prefix, suffix) >=
	    sizeof(f->path))
		return -ENAMETOOLONG;
	if (is_link(f->path))
		return -ELOOP;
	fmt_string(f->temporary, sizeof(f->temporary), "%s.%d.tmp", f->path, os_gettid());
	f->fd = os_open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (f->fd == -EEXIST) { /* left by a process that was killed, with our pid */
		os_unlink(f->temporary);
		f->fd = os_open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW,
				0600);
	}
	return f->fd < 0 ? f->fd : 0;
}

void out_file_adopt(struct out_file *f, int fd)
{
	f->fd = fd;
	f->error = 0;
	f->size = 0;
	f->limit = size_limit();
	f->path[0] = f->temporary[0] = '\0';
}

bool out_file_write(void *arg, const char *bytes, size_t size)
{
	struct out_file *f = arg;
	long n;

	if (f->error)
		return false;
	if (size > f->limit - f->size) {
		f->error = -EFBIG;
		return false;
	}
	n = os_write_all(f->fd, bytes, size);
	if (n < 0)
		f->error = (int)n;
	else
		f->size += size;
	return f->error == 0;
}

void out_file_abandon(struct out_file *f)
{
	if (f->fd >= 0 && f->path[0]) {
		os_close(f->fd);
		os_unlink(f->temporary);
	}
	f->fd = -1;
}

int out_file_close(struct out_file *f)
{
	int error = f->error, closed;

	if (f->path[0] == '\0')
		return error;
	closed = os_close(f->fd); /* some file systems fail here */
	f->fd = -1;
	if (error == 0)
		error = closed;
	if (error == 0)
		error = is_link(f->path) ? -ELOOP : os_rename(f->temporary, f->path);
	if (error)
		os_unlink(f->temporary);
	return error;
}
