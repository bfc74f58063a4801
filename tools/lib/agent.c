/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent: see agent.h.
 */
#include "tools/lib/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tools/lib/deliver.h"
#include "tools/lib/inject.h"
#include "tools/lib/proc.h"
#include "tools/lib/say.h"

#define ASK_AGAIN_MS	100  /* the agent may be busy with somebody else */
#define ASK_TIMES	150  /* so often */
#define STOPPED_MS	5    /* look again whether it is stopped */
#define STOPPED_TIMES	40   /* so often */
#define STAYS_STOPPED	10   /* calls without an answer */
#define STAYS_DEAF	50   /* the same */
#define STAYS_FULL	30   /* the same */
#define LOADING_MS	5    /* look again whether the library has come */
#define LOADING_TIMES	2000 /* so often */
#define LOADING_REFUSED 3
#define SLICES_A_SECOND 100 /* of the wait for a reply, while a signal is on its way */
#define TRACE_EVERY	10  /* calls without an answer, try another way */
#define REPLY_S		60  /* of work, for a very large program */

struct line {
	const struct agent_target *target;
	int signal;
	uint64_t key;
	int listener;
	bool trace;    /* the signal cannot be used */
	bool early;    /* the library has not begun yet */
	bool filtered; /* it refuses itself system calls, and was asked all the same */
	struct delivery delivery;
	char *path; /* of the socket, or NULL: abstract */
};

/* ---- may we? ---- */

int agent_parse_pid(const char *text)
{
	char *end;
	long pid = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || pid <= 0 || pid > INT32_MAX)
		die(EXIT_USAGE, "%s: not a process id", text);
	return (int)pid;
}

void agent_option(struct agent_target *t, int option)
{
	if (option == AGENT_OPTION_FORCE) {
		t->force = true;
		return;
	}
	t->signal = (int)parse_number("--signal", optarg, 1, 64);
}

char *agent_program(int pid)
{
	char *path = format_string("/proc/%d/exe", proc_view(pid));
	char file[4096];
	ssize_t n = readlink(path, file, sizeof(file) - 1);
	char *slash;

	free(path);
	file[n > 0 ? n : 0] = '\0';
	slash = strrchr(file, '/');
	return format_string("%s", n > 0 ? slash + 1 : "unknown");
}

static char *read_status(int pid)
{
	char *status = proc_read_of(pid, "status", NULL);

	if (!status)
		die(EXIT_INCOMPLETE, "process %d: %s", pid,
		    errno == ENOENT || errno == ESRCH ? "no such process"
						      : strerror(errno));
	return status;
}

/* signal=N of the environment that the program was started with; 0: says nothing. */
static int signal_of_environment(int pid)
{
	long size = 0;
	char *all = proc_read_of(pid, "environ", &size);
	int signal = 0;

	for (const char *at = all; at && at < all + size; at += strlen(at) + 1) {
		const char *p = at;

		if (strncmp(at, "SEEP_OPTIONS=", 13) != 0)
			continue;
		while ((p = strstr(p, "signal="))) {
			if (p[-1] == '=' || p[-1] == ':')
				signal = p[7] == '0' ? -1 : atoi(p + 7);
			p++;
		}
	}
	free(all);
	return signal;
}

/* As proc_has_library(); waits for a process that has only just been started. */
static int await_library(int pid)
{
	const struct timespec moment = { 0, LOADING_MS * 1000000L };
	int has = proc_has_library(pid);

	int refused = 0; /* in a row: an exec shows nothing for a moment */

	for (int i = 0; has == 0 && i < LOADING_TIMES && refused < LOADING_REFUSED; i++) {
		refused = proc_may_load_library(pid) ? 0 : refused + 1;
		nanosleep(&moment, NULL);
		has = proc_has_library(pid);
	}
	return has;
}

static void check_library(int pid)
{
	int has = await_library(pid);

	if (has < 0)
		die(EXIT_INCOMPLETE,
		    "process %d: cannot look into it (%s): it is another user's, or has "
		    "changed its user; try as root",
		    pid, strerror(errno));
	if (!has)
		die(EXIT_INCOMPLETE,
		    "process %d: libseep.so is not loaded; start it with LD_PRELOAD or "
		    "seep run",
		    pid);
}

/* A filter that we have ourselves is a container's, and lets a socket be made. */
static bool check_seccomp(const struct agent_target *t, const char *status)
{
	char *own = read_status((int)getpid());
	uint64_t theirs = proc_number(status, "Seccomp", 10, 0);
	uint64_t count = proc_number(status, "Seccomp_filters", 10, theirs);

	const bool more =
		theirs == 2 && count > proc_number(own, "Seccomp_filters", 10,
						   proc_number(own, "Seccomp", 10, 0));

	if (theirs == 1 || (more && !t->force))
		die(EXIT_INCOMPLETE,
		    "process %d has a seccomp filter, which might kill it for "
		    "answering%s",
		    t->pid, theirs == 1 ? "" : "; --force asks all the same");
	free(own);
	return more;
}

/* Under strace it stops at every call, for a moment. */
static char *read_status_settled(int pid)
{
	const struct timespec moment = { 0, STOPPED_MS * 1000000L };
	char *status = read_status(pid);

	for (int i = 0; i < STOPPED_TIMES && strchr("Tt", proc_state(status)); i++) {
		free(status);
		nanosleep(&moment, NULL);
		status = read_status(pid);
	}
	return status;
}

/* Dies if it is. */
static void refuse_stopped(const struct line *l, int pid, const char *status)
{
	const uint64_t tracer = proc_number(status, "TracerPid", 10, 0);

	if (!strchr("Tt", proc_state(status)))
		return;
	if (tracer && l)
		die(EXIT_INCOMPLETE,
		    "process %d was stopped by its debugger (process %llu) when it got "
		    "signal %d: let it go on; in gdb \"handle SIG%d nostop noprint "
		    "pass\" "
		    "lets the next one through",
		    pid, (unsigned long long)tracer, l->signal, l->signal);
	if (tracer)
		die(EXIT_INCOMPLETE,
		    "process %d is stopped by its debugger (process %llu): let it go on "
		    "first",
		    pid, (unsigned long long)tracer);
	die(EXIT_INCOMPLETE,
	    "process %d is stopped by a signal (SIGSTOP): let it go on first", pid);
}

/* Its status, if it can be asked. */
static char *check_process(int pid)
{
	char *status = read_status_settled(pid);

	if (strchr("ZXx", proc_state(status)))
		die(EXIT_INCOMPLETE, "process %d has ended", pid);
	refuse_stopped(NULL, pid, status);
	check_library(pid);
	return status;
}

void agent_expect(const struct agent_target *t)
{
	free(check_process(t->pid));
}

static void check(struct line *l)
{
	const int pid = l->target->pid;
	char *status = check_process(pid);

	l->signal = l->target->signal ? l->target->signal : signal_of_environment(pid);
	if (l->signal < 0)
		die(EXIT_INCOMPLETE,
		    "process %d was started with signal=0: it cannot be "
		    "asked",
		    pid);
	if (l->signal == 0)
		l->signal = AGENT_SIGNAL;
	if (l->signal > 64)
		die(EXIT_USAGE, "%d: no such signal", l->signal);
	l->filtered = check_seccomp(l->target, status);
	free(status);
}

/* ---- the line ---- */

static void hang_up(void);
static struct line *open_line;

static void listen_at(struct line *l, const struct sockaddr_un *a, size_t path_bytes)
{
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_bytes);
	mode_t mask = umask(0177);

	l->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (l->listener < 0 || bind(l->listener, (const struct sockaddr *)a, size) != 0 ||
	    listen(l->listener, 4) != 0)
		die(EXIT_INCOMPLETE, "process %d: cannot make a socket%s%s: %s",
		    l->target->pid, l->path ? " at " : "", l->path ? l->path : "",
		    strerror(errno));
	umask(mask);
}

/* A process in another network does not see our abstract sockets: a path in its root. */
static void open_socket(struct line *l)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int n;

	if (getrandom(&l->key, sizeof(l->key), 0) != (ssize_t)sizeof(l->key))
		die(EXIT_INCOMPLETE, "getrandom: %s", strerror(errno));
	if (proc_same_namespace(l->target->pid, "net")) {
		n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, AGENT_NAME, l->key);
		listen_at(l, &a, (size_t)n + 1);
		return;
	}
	n = snprintf(a.sun_path, sizeof(a.sun_path), "/proc/%d/root" AGENT_PATH,
		     proc_view(l->target->pid), l->key);
	l->path = format_string("%s", a.sun_path);
	open_line = l;
	atexit(hang_up);
	listen_at(l, &a, (size_t)n + 1);
	/* It may run as another user than root, and only its user may connect. */
	if (geteuid() == 0) {
		char *own = format_string("/proc/%d", proc_view(l->target->pid));
		struct stat st;

		if (stat(own, &st) != 0 || lchown(l->path, st.st_uid, st.st_gid) != 0)
			say("warning: %s: %s", l->path, strerror(errno));
		free(own);
	}
}

static void hang_up(void)
{
	if (open_line)
		unlink(open_line->path);
}

/* By ptrace. why: the signal cannot be used. */
static void ring_by_trace(struct line *l, const char *why)
{
	char *also = inject_call(l->target->pid, l->key, &l->early);

	if (also && !l->early)
		die(EXIT_INCOMPLETE, "process %d: signal %d cannot be used: %s; and %s",
		    l->target->pid, l->signal, why, also);
	free(also);
}

static bool is_pending(const struct line *l, int tid)
{
	char *path = format_string("/proc/%d/task/%d/status", l->target->pid, tid);
	char *status = proc_read(path, NULL);
	bool is = status && proc_number(status, "SigPnd", 16, 0) >> (l->signal - 1) & 1;

	free(path);
	free(status);
	return is;
}

static void ring(struct line *l)
{
	siginfo_t info = { .si_signo = l->signal, .si_code = SI_QUEUE };
	int pid = l->target->pid, tid;

	if (!proc_is_alive(pid))
		die(EXIT_INCOMPLETE, "process %d has ended", pid);
	if (l->delivery.tid) {
		deliver_continue(&l->delivery);
		return;
	}
	if (proc_is_in_exec(pid))
		return;
	if (l->trace || !proc_handles(pid, l->signal)) {
		ring_by_trace(l, "it does not handle it");
		return;
	}
	tid = proc_pick_thread(pid, l->signal);
	if (tid == 0) {
		ring_by_trace(l, "every thread blocks it");
		return;
	}
	if (is_pending(l, tid))
		return;
	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_ptr = (void *)(uintptr_t)l->key;
	if (!deliver_begin(&l->delivery, pid, tid, &info) && errno != ESRCH &&
	    errno != EAGAIN)
		die(EXIT_INCOMPLETE, "process %d: cannot send a signal: %s", pid,
		    strerror(errno));
}

/* The process itself, not one that guessed the key. */
static int accept_target(const struct line *l)
{
	struct ucred peer = { 0 };
	socklen_t size = sizeof(peer);
	int s = accept4(l->listener, NULL, NULL, SOCK_CLOEXEC);

	if (s < 0)
		return -1;
	if (getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
	    peer.pid == l->target->pid)
		return s;
	close(s);
	return -1;
}

/* Perhaps the signal has another handler by now. */
static void try_trace(struct line *l)
{
	char *why;

	deliver_give_up(&l->delivery);
	if (l->delivery.tid || proc_is_in_exec(l->target->pid))
		return;
	why = inject_call(l->target->pid, l->key, &l->early);
	l->trace = !why;
	free(why);
}

/* Calls in a row without hope; dies of too many. */
struct hopeless {
	int stopped, deaf, full;
};

static _Noreturn void refuse_full(int pid)
{
	struct rlimit limit = { 0, 0 };

	prlimit(pid, RLIMIT_NOFILE, NULL, &limit);
	die(EXIT_INCOMPLETE,
	    "process %d did not answer: it has no descriptor left; raise its limit: "
	    "prlimit --pid %d --nofile=%llu",
	    pid, pid, (unsigned long long)limit.rlim_cur + 16);
}

static void look_at_state(const struct line *l, struct hopeless *h)
{
	const int pid = l->target->pid;
	char *status = read_status(pid);
	const bool stopped =
		strchr("Tt", proc_state(status)) != NULL &&
		proc_number(status, "TracerPid", 10, 0) != (uint64_t)getpid();

	h->stopped = stopped ? h->stopped + 1 : 0;
	h->full = proc_has_descriptor(pid) ? 0 : h->full + 1;
	h->deaf = proc_is_in_exec(pid) || proc_is_deaf(proc_pick_thread(pid, 0))
			  ? h->deaf + 1
			  : 0;
	if (h->stopped == STAYS_STOPPED)
		refuse_stopped(l, pid, status);
	if (h->full == STAYS_FULL)
		refuse_full(pid);
	if (h->deaf == STAYS_DEAF)
		die(EXIT_INCOMPLETE,
		    "process %d did not answer: it waits in the kernel where no signal "
		    "comes, for a child of vfork(), for a disk or in exec()",
		    pid);
	free(status);
}

static int dial(struct line *l)
{
	struct pollfd p = { .fd = l->listener, .events = POLLIN };
	struct hopeless hopeless = { 0, 0, 0 };

	for (int i = 0; i < ASK_TIMES; i++) {
		int s;

		ring(l);
		if (poll(&p, 1, ASK_AGAIN_MS) <= 0) {
			look_at_state(l, &hopeless);
			if (i % TRACE_EVERY == TRACE_EVERY - 1 && !l->trace)
				try_trace(l);
			continue;
		}
		s = accept_target(l);
		if (s >= 0)
			return s;
	}
	die(EXIT_INCOMPLETE, "process %d did not answer: it %s", l->target->pid,
	    l->early ? "is still loading its libraries"
	    : l->filtered
		    ? "has a seccomp filter, which refuses what an answer takes"
		    : "is busy with another request, or no thread or descriptor can be "
		      "made in it (RLIMIT_NPROC, RLIMIT_NOFILE, pids.max)");
}

static bool send_request(int s, const struct agent_request *q, const int *fds, int nfds)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(AGENT_FILES * sizeof(int))];
	} control = { .bytes = { 0 } };
	const size_t bytes = (size_t)nfds * sizeof(int);
	struct iovec v = { (void *)(uintptr_t)q, sizeof(*q) };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	if (nfds > 0) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(bytes);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(bytes);
		memcpy(CMSG_DATA(&control.head), fds, bytes);
	}
	return sendmsg(s, &m, MSG_NOSIGNAL) == (ssize_t)sizeof(*q);
}

/* A signal may still be on its way, one too many: the thread stands still when it comes,
 * and the agent, which may need that thread, waits for us. */
static bool await_reply(struct line *l, int s)
{
	struct pollfd p = { .fd = s, .events = POLLIN };
	const int patience_s = l->target->patience_s ? l->target->patience_s : REPLY_S;

	for (int i = 0; l->delivery.tid && i < patience_s * SLICES_A_SECOND; i++) {
		if (poll(&p, 1, 1000 / SLICES_A_SECOND) > 0)
			return true;
		deliver_continue(&l->delivery);
	}
	return poll(&p, 1, patience_s * 1000) > 0;
}

static bool get_reply(struct line *l, int s, struct agent_reply *r)
{
	const bool came = await_reply(l, s) && recv(s, r, sizeof(*r), 0) == sizeof(*r);

	deliver_give_up(&l->delivery);
	if (!came)
		return false;
	r->text[sizeof(r->text) - 1] = '\0';
	return r->magic == AGENT_MAGIC && r->version == AGENT_VERSION;
}

void agent_ask(const struct agent_target *t, struct agent_request *q, int fd,
	       struct agent_reply *r)
{
	agent_ask_files(t, q, &fd, fd >= 0, r);
}

void agent_ask_files(const struct agent_target *t, struct agent_request *q,
		     const int *fds, int nfds, struct agent_reply *r)
{
	struct line l = { .target = t };
	int s;

	check(&l);
	open_socket(&l);
	s = dial(&l);
	hang_up();
	open_line = NULL;
	q->magic = AGENT_MAGIC;
	q->version = AGENT_VERSION;
	if (!send_request(s, q, fds, nfds) || !get_reply(&l, s, r))
		die(EXIT_INCOMPLETE, "process %d hung up: it ended, or %s", t->pid,
		    l.filtered ? "its seccomp filter refuses what an answer takes"
			       : "its libseep.so is of another version");
	close(s);
	close(l.listener);
	if (r->error == -EBUSY && t->busy[0])
		die(EXIT_INCOMPLETE, "process %d: %s, but %s", t->pid, r->text, t->busy);
	if (r->error)
		die(EXIT_INCOMPLETE, "process %d: %s", t->pid,
		    r->text[0] ? r->text : strerror(-r->error));
}
