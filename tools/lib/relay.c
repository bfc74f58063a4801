/* SPDX-License-Identifier: Apache-2.0 */
/* relay: see relay.h. */
#include "tools/lib/relay.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOMENT_NS   20000000 /* between the first and the last who get a signal */
#define PATIENCE_MS 1000     /* with a witness that has been stopped */
#define SIGNALS	    65
#define FEW_FILES   1024

static struct {
	pid_t witness;	 /* 0: none */
	int talk;	 /* to it; while there is one */
	uint64_t noted;	 /* bits of signals that wait for the end of the moment ... */
	uint64_t shared; /* ... of which the terminal has sent these to all */
	int order[SIGNALS];
	size_t count;
	struct timespec due; /* the moment's end */
} relay;

static uint64_t bit_of(int sig)
{
	return (uint64_t)1 << (sig - 1);
}

/* ---- the witness ---- */

/* What has come since the last time. */
static uint64_t take_pending(void)
{
	const struct timespec at_once = { 0, 0 };
	uint64_t came = 0;
	sigset_t all;
	int sig;

	sigfillset(&all);
	while ((sig = sigtimedwait(&all, NULL, &at_once)) > 0)
		if (sig < SIGNALS)
			came |= bit_of(sig);
	return came;
}

/* Holds no file of anybody's open: somebody may wait for the end of a pipe. */
static void close_all_but(int kept)
{
	for (int fd = 0; fd < kept; fd++)
		close(fd);
	if (close_range((unsigned)kept + 1, ~0u, 0) == 0)
		return;
	for (int fd = kept + 1; fd < FEW_FILES; fd++)
		close(fd);
}

static void hide(char **command)
{
	char *end = program_invocation_name;

	for (; *command; command++)
		if (*command + strlen(*command) > end)
			end = *command + strlen(*command);
	memset(program_invocation_name, 0, (size_t)(end - program_invocation_name));
	prctl(PR_SET_NAME, "witness");
}

static __attribute__((noreturn)) void be_witness(int talk, pid_t tool, char **command)
{
	uint64_t came = 0;
	char question;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	hide(command);
	close_all_but(talk);
	if (write(talk, &came, sizeof(came)) != (ssize_t)sizeof(came))
		_exit(1);
	while (getppid() == tool && read(talk, &question, 1) == 1) {
		came = take_pending();
		if (write(talk, &came, sizeof(came)) != (ssize_t)sizeof(came))
			break;
	}
	_exit(0);
}

static void dismiss_witness(void)
{
	if (!relay.witness)
		return;
	close(relay.talk);
	kill(relay.witness, SIGKILL);
	while (waitpid(relay.witness, NULL, 0) < 0 && errno == EINTR)
		;
	relay.witness = 0;
}

/* What the witness says; false: it has been stopped, or killed. */
static bool hear(uint64_t *out)
{
	struct pollfd answers = { .fd = relay.talk, .events = POLLIN };

	return poll(&answers, 1, PATIENCE_MS) == 1 &&
	       read(relay.talk, out, sizeof(*out)) == (ssize_t)sizeof(*out);
}

void relay_begin(char **command)
{
	const pid_t tool = getpid();
	uint64_t came;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		return;
	relay.witness = fork();
	if (relay.witness == 0)
		be_witness(fds[1], tool, command);
	close(fds[1]);
	relay.talk = fds[0];
	if (relay.witness < 0) { /* no more processes: all is passed on */
		relay.witness = 0;
		close(fds[0]);
	} else if (!hear(&came)) {
		dismiss_witness();
	}
}

static uint64_t ask_witness(void)
{
	uint64_t came = 0;

	if (!relay.witness)
		return 0;
	if (send(relay.talk, "", 1, MSG_NOSIGNAL) == 1 && hear(&came))
		return came;
	dismiss_witness();
	return 0;
}

/* ---- passing on ---- */

static void note(const siginfo_t *info)
{
	const int sig = info->si_signo;

	if (relay.noted == 0) {
		clock_gettime(CLOCK_MONOTONIC, &relay.due);
		relay.due.tv_nsec += MOMENT_NS;
		if (relay.due.tv_nsec >= 1000000000) {
			relay.due.tv_nsec -= 1000000000;
			relay.due.tv_sec++;
		}
	}
	if (!(relay.noted & bit_of(sig)))
		relay.order[relay.count++] = sig;
	relay.noted |= bit_of(sig);
	/* The kernel's own (from the terminal) went to the whole group already. */
	if (info->si_code > 0)
		relay.shared |= bit_of(sig);
}

/* False: the moment is over. */
static bool time_left(struct timespec *out)
{
	struct timespec now;
	int64_t ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ns = (int64_t)(relay.due.tv_sec - now.tv_sec) * 1000000000 + relay.due.tv_nsec -
	     now.tv_nsec;
	*out = (struct timespec){ 0, ns > MOMENT_NS ? MOMENT_NS : ns };
	return ns > 0;
}

/* A program that has a group of its own gets what ours gets from us alone. */
static void pass_on(pid_t pid)
{
	uint64_t seen = ask_witness();

	if (getpgid(pid) != getpgrp())
		seen = 0;
	seen |= relay.shared;
	for (size_t i = 0; i < relay.count; i++)
		if (!(seen & bit_of(relay.order[i])))
			kill(pid, relay.order[i]);
	relay.count = 0;
	relay.noted = relay.shared = 0;
}

bool relay_until_end(pid_t pid, const sigset_t *set, int *out_status,
		     struct rusage *out_used, volatile sig_atomic_t *out_asked)
{
	sigset_t awaited = *set;
	struct timespec left;
	siginfo_t info;
	pid_t ended;

	sigaddset(&awaited, SIGCHLD);
	for (;;) {
		ended = wait4(pid, out_status, WNOHANG, out_used);
		if (ended == pid || (ended < 0 && errno != EINTR))
			break;
		if (relay.noted && !time_left(&left)) {
			pass_on(pid);
			continue;
		}
		if (sigtimedwait(&awaited, &info, relay.noted ? &left : NULL) <= 0 ||
		    info.si_signo == SIGCHLD)
			continue;
		if (info.si_signo == SIGINT || info.si_signo == SIGTERM)
			(*out_asked)++;
		note(&info);
	}
	dismiss_witness();
	return ended == pid;
}
