/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inflight: see inflight.h. A pipe's content is copied with tee() into a pipe of our own,
 * a socket's is peeked at: a local one, and one that is not connected to another machine.
 * A socket of datagrams shows only its first.
 */
#include "profiler/thread/inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/kernelrefs.h"

#define MAX_DESCRIPTORS 4096
#define MAX_BYTES	((size_t)1 << 20) /* of all together; touched as needed */
#define PIPE_BYTES	65536
#define PIDFD_OPEN	434 /* since Linux 5.3 */
#define PIDFD_GETFD	438 /* 5.6 */

struct inflight {
	uint32_t n;
	bool incomplete;
	int pid;
	int process; /* a descriptor of it */
	int ours[2]; /* a pipe */
	size_t used;
	struct descriptor {
		int fd;
		bool is_socket;
	} list[MAX_DESCRIPTORS];
	char bytes[MAX_BYTES];
};

static int option(int fd, int name)
{
	int value = -1, size = sizeof(value);

	os_call(SYS_getsockopt, fd, SOL_SOCKET, name, (long)&value, (long)&size, 0);
	return value;
}

/* Can what one end sends arrive at the other in the same process? Not over a connection
 * to another machine. */
static bool is_near(int fd)
{
	struct sockaddr_in6 at[2] = { 0 }; /* holds both kinds of addresses */
	const struct sockaddr_in *own = (const void *)&at[0],
				 *peer = (const void *)&at[1];
	int size[2] = { sizeof(at[0]), sizeof(at[1]) };
	const int domain = option(fd, SO_DOMAIN);

	if (domain != AF_INET && domain != AF_INET6)
		return domain == AF_UNIX;
	if (os_call(SYS_getsockname, fd, (long)&at[0], (long)&size[0], 0, 0, 0) != 0 ||
	    os_call(SYS_getpeername, fd, (long)&at[1], (long)&size[1], 0, 0, 0) != 0)
		return true; /* not connected: from anybody */
	if (domain == AF_INET6)
		return memcmp(&at[0].sin6_addr, &at[1].sin6_addr,
			      sizeof(at[0].sin6_addr)) == 0;
	return ntohl(peer->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET ||
	       peer->sin_addr.s_addr == own->sin_addr.s_addr;
}

/* Can the program read here what it has itself written? */
static bool can_carry(int fd, bool is_socket)
{
	const long flags = os_call(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0);

	return flags >= 0 && (flags & O_ACCMODE) != O_WRONLY &&
	       (!is_socket || is_near(fd));
}

/* The calling thread may have a table of descriptors of its own. */
static void see_descriptor(const char *name, void *arg)
{
	struct inflight *f = arg;
	bool is_socket = false;
	char path[64], kind[8];
	int fd = 0, copy;
	long n;

	fmt_string(path, sizeof(path), "/proc/%d/fd/%s", f->pid, name);
	n = os_readlink(path, kind, sizeof(kind));
	is_socket = n >= 7 && memcmp(kind, "socket:", 7) == 0;
	if (!is_socket && (n < 5 || memcmp(kind, "pipe:", 5) != 0))
		return;
	for (; *name; name++)
		fd = fd * 10 + (*name - '0');
	copy = (int)os_call(PIDFD_GETFD, f->process, fd, 0, 0, 0, 0);
	if (copy >= 0 && f->n < MAX_DESCRIPTORS && can_carry(copy, is_socket)) {
		f->list[f->n++] = (struct descriptor){ copy, is_socket };
		return;
	}
	f->incomplete |= (copy < 0 && copy != -EBADF) || f->n == MAX_DESCRIPTORS;
	if (copy >= 0)
		os_close(copy);
}

struct inflight *inflight_new(int pid)
{
	struct inflight *f = meta_map(sizeof(*f), META_THREAD);

	if (!f)
		return NULL;
	f->pid = pid;
	f->process = (int)os_call(PIDFD_OPEN, pid, 0, 0, 0, 0, 0);
	if (!kernelrefs_descriptors(pid, see_descriptor, f))
		f->incomplete = true;
	if (os_call(SYS_pipe2, (long)f->ours, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0) != 0) {
		f->incomplete = true;
		f->ours[0] = f->ours[1] = -1;
	}
	return f;
}

void inflight_free(struct inflight *f)
{
	if (!f)
		return;
	for (uint32_t i = 0; i < f->n; i++)
		os_close(f->list[i].fd);
	for (int i = 0; i < 2; i++)
		if (f->ours[i] >= 0)
			os_close(f->ours[i]);
	if (f->process >= 0)
		os_close(f->process);
	meta_unmap(f, sizeof(*f), META_THREAD);
}

/* How many bytes were copied, or -errno. */
static long copy_pipe(struct inflight *f, int fd, size_t waiting)
{
	long n = os_call(SYS_tee, fd, f->ours[1], (long)waiting, SPLICE_F_NONBLOCK, 0, 0);

	return n <= 0 ? n : os_read(f->ours[0], f->bytes + f->used, (size_t)n);
}

static long copy_socket(struct inflight *f, int fd, size_t waiting)
{
	if (option(fd, SO_TYPE) != SOCK_STREAM)
		return -EOPNOTSUPP; /* only the first message could be seen */
	return os_call(SYS_recvfrom, fd, (long)(f->bytes + f->used), (long)waiting,
		       MSG_PEEK | MSG_DONTWAIT, 0, 0);
}

/* A signal that waits for somebody who asks for it may carry a pointer. */
static bool see_pending(char *line, void *arg)
{
	struct inflight *f = arg;

	if (strncmp(line, "ShdPnd:", 7) != 0)
		return true;
	for (const char *p = line + 7; *p; p++)
		f->incomplete |= *p >= '1' && *p <= 'f';
	return false;
}

void inflight_take(struct inflight *f)
{
	char path[32];

	if (!f)
		return;
	fmt_string(path, sizeof(path), "/proc/%d/status", f->pid);
	os_each_line(path, see_pending, f);
	for (uint32_t i = 0; i < f->n; i++) {
		const struct descriptor *d = &f->list[i];
		int waiting = 0, unsent = 0;
		long n = 0;

		if (d->is_socket && option(d->fd, SO_DOMAIN) != AF_UNIX &&
		    os_call(SYS_ioctl, d->fd, TIOCOUTQ, (long)&unsent, 0, 0, 0) == 0 &&
		    unsent > 0)
			f->incomplete = true;
		if (os_call(SYS_ioctl, d->fd, FIONREAD, (long)&waiting, 0, 0, 0) != 0 ||
		    waiting <= 0)
			continue;
		if ((size_t)waiting <= MAX_BYTES - f->used && waiting <= PIPE_BYTES)
			n = d->is_socket ? copy_socket(f, d->fd, (size_t)waiting)
					 : copy_pipe(f, d->fd, (size_t)waiting);
		if (n != waiting)
			f->incomplete = true;
		if (n > 0)
			f->used += (size_t)n;
	}
}

bool inflight_each(const struct inflight *f, void (*fn)(uintptr_t word, void *arg),
		   void *arg)
{
	for (size_t at = 0; f && at + sizeof(uintptr_t) <= f->used; at++) {
		uintptr_t word;

		memcpy(&word, f->bytes + at, sizeof(word));
		fn(word, arg);
	}
	return !f || !f->incomplete;
}
