/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernelrefs: see kernelrefs.h. What the kernel shows, in hexadecimal:
 *
 *   /proc/PID/fdinfo/N  "tfd: 5 events: 19 data: 7f00c0de ..." of an epoll descriptor,
 *                       one line for each watched file
 *                       "eventfd-count: 7f00c0de"
 *   /proc/PID/timers    "signal: 60/00007f00c0de"
 *
 * It shows nothing of what is given to asynchronous input and output, nor to mq_notify().
 */
#include "profiler/leak/kernelrefs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"

#define MESSAGE_QUEUES 0x19800202 /* file system of mq_open() */

struct visit {
	int pid;
	void (*fn)(uintptr_t word, void *arg);
	void *arg;
	void (*read)(const char *fd, void *arg); /* may be NULL */
	bool shown;				 /* only what is shown is asked for */
	unsigned missing;
};

/* p: in hexadecimal, perhaps behind spaces. */
static void see_word(const struct visit *v, const char *p)
{
	while (*p == ' ')
		p++;
	v->fn(os_parse_hex(&p), v->arg);
}

static bool see_info(char *line, void *arg)
{
	const char *data = strstr(line, "data:");

	if (strncmp(line, "tfd:", 4) == 0 && data)
		see_word(arg, data + 5);
	else if (strncmp(line, "eventfd-count:", 14) == 0)
		see_word(arg, line + 14);
	return true;
}

static bool see_timer(char *line, void *arg)
{
	const char *value = strchr(line, '/');

	if (strncmp(line, "signal:", 7) == 0 && value)
		see_word(arg, value + 1);
	return true;
}

static bool see_mapping(char *line, void *arg)
{
	struct visit *v = arg;

	if (strstr(line, "/[aio]") || strstr(line, "anon_inode:[io_uring]"))
		v->missing |= KERNELREFS_KEPT;
	return true;
}

/* Who is notified of a message is kept by the kernel. */
static bool is_message_queue(const char *path)
{
	struct statfs s;

	return os_call(SYS_statfs, (long)path, (long)&s, 0, 0, 0, 0) == 0 &&
	       s.f_type == MESSAGE_QUEUES;
}

static void read_descriptor(struct visit *v, const char *fd)
{
	char path[64];
	int error;

	fmt_string(path, sizeof(path), "/proc/%d/fdinfo/%s", v->pid, fd);
	error = os_each_line(path, see_info, v);
	if (error != 0 && error != -ENOENT)
		v->missing |= KERNELREFS_UNSEEN;
}

static void see_descriptor(const char *fd, void *arg)
{
	static const char prefix[] = "anon_inode:";
	struct visit *v = arg;
	char path[64], link[64];
	const char *kind = link + sizeof(prefix) - 1;
	long n;

	fmt_string(path, sizeof(path), "/proc/%d/fd/%s", v->pid, fd);
	n = os_readlink(path, link, sizeof(link) - 1);
	if (n < 0 && n != -ENOENT)
		v->missing |= KERNELREFS_UNSEEN;
	link[n > 0 ? n : 0] = '\0';
	if (!v->shown && link[0] == '/' && is_message_queue(path))
		v->missing |= KERNELREFS_KEPT;
	if (strncmp(link, prefix, sizeof(prefix) - 1) != 0)
		return;
	if (strcmp(kind, "[io_uring]") == 0)
		v->missing |= KERNELREFS_KEPT;
	if (strcmp(kind, "[eventpoll]") != 0 && strcmp(kind, "[eventfd]") != 0)
		return;
	if (v->read)
		v->read(fd, v->arg);
	read_descriptor(v, fd);
}

bool kernelrefs_descriptors(int pid, void (*fn)(const char *fd, void *arg), void *arg)
{
	char path[32];

	fmt_string(path, sizeof(path), "/proc/%d/fd", pid);
	return os_each_entry(path, fn, arg) == 0;
}

static void read_timers(struct visit *v)
{
	char path[32];

	fmt_string(path, sizeof(path), "/proc/%d/timers", v->pid);
	if (os_each_line(path, see_timer, v) != 0)
		v->missing |= KERNELREFS_KEPT; /* also by a kernel without the list */
}

unsigned kernelrefs_each(int pid, void (*fn)(uintptr_t word, void *arg), void *arg)
{
	struct visit v = { .pid = pid, .fn = fn, .arg = arg };
	char path[32];

	if (!kernelrefs_descriptors(pid, see_descriptor, &v))
		v.missing |= KERNELREFS_UNSEEN;
	read_timers(&v);
	fmt_string(path, sizeof(path), "/proc/%d/maps", pid);
	if (os_each_line(path, see_mapping, &v) != 0)
		v.missing |= KERNELREFS_KEPT;
	return v.missing;
}

unsigned kernelrefs_each_shown(int pid, void (*fn)(uintptr_t word, void *arg),
			       void (*read)(const char *fd, void *arg), void *arg)
{
	struct visit v = {
		.pid = pid, .fn = fn, .read = read, .arg = arg, .shown = true
	};

	if (!kernelrefs_descriptors(pid, see_descriptor, &v))
		v.missing |= KERNELREFS_UNSEEN;
	read_timers(&v);
	return v.missing;
}

void kernelrefs_each_timer(int pid, void (*fn)(uintptr_t word, void *arg), void *arg)
{
	struct visit v = { .pid = pid, .fn = fn, .arg = arg };

	read_timers(&v);
}

unsigned kernelrefs_each_of(int pid, const char *fd,
			    void (*fn)(uintptr_t word, void *arg), void *arg)
{
	struct visit v = { .pid = pid, .fn = fn, .arg = arg };

	read_descriptor(&v, fd);
	return v.missing;
}
