/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve: one request of the seep command, from connecting to the reply. Runs in the
 * agent's thread. Nothing that comes over the socket is trusted but the user that the
 * kernel names as its other end.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"
#include "profiler/control/agent_int.h"
#include "profiler/control/request.h"
#include "profiler/leak/live.h"
#include "profiler/pprof/pprof.h"
#include "profiler/pprof/symbol.h"
#include "profiler/sample/rss.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/module.h"
#include "profiler/stack/unwind.h"
#include "profiler/thread/threadprof.h"

#define PATIENCE_S 10
#define MAX_SAMPLE ((uint64_t)1 << 40)

struct session {
	int socket;
	struct agent_request request;
	struct agent_reply reply;
	int files[AGENT_FILES]; /* that came with the request; -1: none */
	const char *refusal;
};

/* ---- the line ---- */

static bool connect_to(int s, const struct sockaddr_un *a, size_t path_bytes)
{
	size_t size = offsetof(struct sockaddr_un, sun_path) + path_bytes;

	return os_call(SYS_connect, s, (long)a, (long)size, 0, 0, 0) == 0;
}

static bool dial(int s, uint64_t key)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval t = { .tv_sec = PATIENCE_S };
	size_t n;

	os_call(SYS_setsockopt, s, SOL_SOCKET, SO_RCVTIMEO, (long)&t, sizeof(t), 0);
	os_call(SYS_setsockopt, s, SOL_SOCKET, SO_SNDTIMEO, (long)&t, sizeof(t), 0);
	n = fmt_string(a.sun_path + 1, sizeof(a.sun_path) - 1, AGENT_NAME, key);
	if (connect_to(s, &a, n + 1))
		return true;
	n = fmt_string(a.sun_path, sizeof(a.sun_path), AGENT_PATH, key);
	return connect_to(s, &a, n + 1);
}

/* The one who listens is root or the user that this process works for. */
static bool peer_is_allowed(int s)
{
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t size = sizeof(peer);

	if (os_call(SYS_getsockopt, s, SOL_SOCKET, SO_PEERCRED, (long)&peer, (long)&size,
		    0) != 0)
		return false;
	return peer.uid == 0 ||
	       (long)peer.uid == os_call(SYS_geteuid, 0, 0, 0, 0, 0, 0) ||
	       (long)peer.uid == os_call(SYS_getuid, 0, 0, 0, 0, 0, 0);
}

static void take_files(struct session *s, const struct cmsghdr *head)
{
	size_t bytes = head->cmsg_len - CMSG_LEN(0);

	if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
	    head->cmsg_len > CMSG_LEN(0) && bytes <= sizeof(s->files))
		memcpy(s->files, CMSG_DATA(head), bytes);
}

/* Exactly one request, with at most two descriptors. */
static bool hear(struct session *s)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(AGENT_FILES * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec v = { &s->request, sizeof(s->request) };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	long n = os_call(SYS_recvmsg, s->socket, (long)&m, MSG_CMSG_CLOEXEC, 0, 0, 0);

	if (n != (long)sizeof(s->request) || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return false;
	if (m.msg_controllen >= CMSG_LEN(sizeof(int)))
		take_files(s, &control.head);
	return s->request.magic == AGENT_MAGIC && s->request.version == AGENT_VERSION &&
	       (s->request.flags & ~(uint32_t)AGENT_FLAGS) == 0 &&
	       s->request.command > AGENT_NOTHING && s->request.command < AGENT_COMMANDS;
}

static void answer(struct session *s)
{
	struct agent_reply *r = &s->reply;

	r->magic = AGENT_MAGIC;
	r->version = AGENT_VERSION;
	r->mode = (uint32_t)sample_mode();
	r->sample = sample_period();
	os_call(SYS_sendto, s->socket, (long)r, sizeof(*r), MSG_NOSIGNAL, 0, 0);
}

/* ---- requests ---- */

static int fail(struct session *s, int error, const char *why)
{
	fmt_string(s->reply.text, sizeof(s->reply.text), "%s", why);
	return error;
}

/* Writing to it must end: a pipe might not. */
static bool is_regular(int fd)
{
	struct stat st;
	long flags = os_call(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0);

	return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && os_stat(fd, &st) == 0 &&
	       S_ISREG(st.st_mode);
}

static int write_profile(struct session *s)
{
	static const struct pprof_kind *const kinds[] = {
		[AGENT_HEAP] = &pprof_kind_heap,
		[AGENT_ALLOCS] = &pprof_kind_allocs,
		[AGENT_PEAK] = &pprof_kind_peak,
		[AGENT_LIFETIMES] = &pprof_kind_lifetimes,
	};

	if (s->files[0] < 0 || !is_regular(s->files[0]))
		return fail(s, -EBADF, "no regular file came with the request");
	module_refresh();
	if (s->request.command == AGENT_THREADS)
		return threadprof_write_fd(s->files[0], !(s->request.flags & AGENT_QUICK),
					   &s->reply.count, &s->reply.pause_ns);
	if (s->request.command == AGENT_THREADCREATE)
		return threadprof_write_creators_fd(s->files[0]);
	if (!sample_was_on())
		return fail(s, -ENODATA,
			    "nothing was recorded: mode=off since the start");
	if (s->request.command == AGENT_LIFETIMES && !opt_get()->lifetimes)
		return fail(s, -ENODATA, "the process was not started with lifetimes=on");
	rss_measure();
	return sample_write_fd(kinds[s->request.command], s->files[0]);
}

static int check_leaks(struct session *s)
{
	const struct live_request q = {
		.stop = s->request.flags & AGENT_STOP,
		.reachable = s->request.flags & AGENT_REACHABLE,
		.standing = s->request.flags & AGENT_STANDING,
		.brief = s->request.flags & AGENT_BRIEF,
		.snapshot = s->request.flags & AGENT_SNAPSHOT,
		.unstopped = s->request.flags & AGENT_UNSTOPPED,
		.uncopied = s->request.flags & AGENT_UNCOPIED,
		.limited = s->request.flags & AGENT_LIMITED,
		.report = s->files[0],
		.profile = s->files[1],
	};
	struct live_answer a;
	int error;

	os_call(SYS_prctl, PR_SET_NAME, (long)AGENT_COMM, 0, 0, 0, 0);
	if (q.report < 0 || !is_regular(q.report) ||
	    (q.profile >= 0 && !is_regular(q.profile)))
		return fail(s, -EBADF, "no regular file came with the request");
	error = live_check(&q, &a);
	s->reply.pause_ns = a.pause_ns;
	s->reply.count = a.nthreads;
	return error ? fail(s, error, a.why) : 0;
}

static int set(struct session *s)
{
	const struct agent_request *r = &s->request;
	uint32_t mode = r->mode == AGENT_KEEP ? (uint32_t)sample_mode() : r->mode;
	uint64_t sample = r->sample ? r->sample : sample_period();

	if (mode > OPT_MODE_EXACT || sample > MAX_SAMPLE)
		return fail(s, -EINVAL, "no such mode or sample");
	module_refresh();
	unwind_init();
	if (sample_change((enum opt_mode)mode, sample) != 0)
		return fail(s, -ENOSPC, "the settings were changed too often");
	return 0;
}

static void work(struct session *s)
{
	if (s->request.command == AGENT_SHOW)
		s->reply.error = 0;
	else if (s->refusal && s->request.command != AGENT_THREADS &&
		 s->request.command != AGENT_THREADCREATE)
		s->reply.error = fail(s, -ENOTSUP, s->refusal);
	else if (s->request.command == AGENT_SET)
		s->reply.error = set(s);
	else if (s->request.command == AGENT_LEAK)
		s->reply.error = check_leaks(s);
	else
		s->reply.error = write_profile(s);
	answer(s);
}

void serve(uint64_t key, const char *refusal)
{
	struct session s = { .files = { -1, -1 }, .refusal = refusal };

	s.socket = (int)os_call(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0,
				0, 0);
	if (s.socket >= 0 && dial(s.socket, key) && peer_is_allowed(s.socket) &&
	    hear(&s)) {
		work(&s);
		live_finish();
		symbol_rest();
	}
}
