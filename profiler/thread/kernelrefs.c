/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernelrefs: see kernelrefs.h. The kernel shows the data in the fdinfo of an epoll
 * descriptor, one line for each watched file: "tfd: 5 events: 19 data: 7f00c0de ...".
 */
#include "profiler/thread/kernelrefs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"

struct dirent64 {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

struct visit {
	void (*fn)(uintptr_t word, void *arg);
	void *arg;
};

static bool see_line(char *line, void *arg)
{
	const struct visit *v = arg;
	const char *p = strstr(line, "data:");
	uintptr_t word = 0;

	if (strncmp(line, "tfd:", 4) != 0 || !p)
		return true;
	for (p += 5; *p == ' '; p++)
		;
	for (;; p++) {
		if (*p >= '0' && *p <= '9')
			word = word << 4 | (uintptr_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			word = word << 4 | (uintptr_t)(*p - 'a' + 10);
		else
			break;
	}
	v->fn(word, v->arg);
	return true;
}

static bool is_epoll(int pid, const char *fd)
{
	static const char name[] = "anon_inode:[eventpoll]";
	char path[64], link[sizeof(name)];
	long n;

	fmt_string(path, sizeof(path), "/proc/%d/fd/%s", pid, fd);
	n = os_readlink(path, link, sizeof(link));
	return n == (long)sizeof(name) - 1 && memcmp(link, name, sizeof(name) - 1) == 0;
}

static bool see_descriptor(int pid, const char *fd, struct visit *v)
{
	char path[64];
	int error;

	if (fd[0] == '.' || !is_epoll(pid, fd))
		return true;
	fmt_string(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, fd);
	error = os_each_line(path, see_line, v);
	return error == 0 || error == -ENOENT;
}

bool kernelrefs_each(int pid, void (*fn)(uintptr_t word, void *arg), void *arg)
{
	struct visit v = { fn, arg };
	uint64_t buf[64];
	char path[32];
	bool ok = true;
	long n;
	int dir;

	fmt_string(path, sizeof(path), "/proc/%d/fd", pid);
	dir = os_open(path, O_RDONLY | O_DIRECTORY, 0);
	if (dir < 0)
		return false;
	while ((n = os_call(SYS_getdents64, dir, (long)buf, sizeof(buf), 0, 0, 0)) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64 *d = (void *)((char *)buf + at);

			ok &= see_descriptor(pid, d->name, &v);
			at += d->reclen;
		}
	os_close(dir);
	return ok && n == 0;
}
