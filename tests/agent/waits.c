/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waits: blocks in one system call, named by the argument, until standard input has data
 * or half a second is over; prints how it ended: what the call returned and errno.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const struct timespec half = { 0, 500000000 };

static struct timespec deadline(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	t.tv_sec++;
	return t;
}

static int wait_select(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(0, &set);
	return select(1, &set, NULL, NULL, NULL);
}

static int wait_epoll(int ms)
{
	struct epoll_event e = { .events = EPOLLIN };
	int fd = epoll_create1(0);

	epoll_ctl(fd, EPOLL_CTL_ADD, 0, &e);
	return epoll_wait(fd, &e, 1, ms);
}

static int wait_nanosleep(void)
{
	struct timespec rest = { 0, 0 };

	return nanosleep(&half, &rest);
}

static int wait_sem(void)
{
	struct timespec t = deadline(CLOCK_REALTIME);
	sem_t s;

	sem_init(&s, 0, 0);
	return sem_timedwait(&s, &t) == -1 && errno == ETIMEDOUT ? 0 : -1;
}

static int wait_cond(void)
{
	struct timespec t = deadline(CLOCK_REALTIME);
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;

	pthread_mutex_lock(&m);
	return pthread_cond_timedwait(&c, &m, &t) == ETIMEDOUT ? 0 : -1;
}

static int wait_recv(void)
{
	struct timeval t = { 0, 500000 };
	char c;
	int s[2];

	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	return recv(s[0], &c, 1, 0) == -1 && errno == EAGAIN ? 0 : -1;
}

static int wait_sigtimedwait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return sigtimedwait(&set, NULL, &half) == -1 && errno == EAGAIN ? 0 : -1;
}

static int wait_semop(void)
{
	struct sembuf op = { 0, -1, 0 };
	int id = semget(IPC_PRIVATE, 1, 0600), ret, error;

	ret = semtimedop(id, &op, 1, &half);
	error = errno;
	semctl(id, 0, IPC_RMID);
	errno = error;
	return ret == -1 && errno == EAGAIN ? 0 : -1;
}

static void on_usr1(int sig)
{
	(void)sig;
}

/* A signal of the program's own must still end it. */
static int wait_pause(void)
{
	struct sigaction act = { .sa_handler = on_usr1 };

	sigaction(SIGUSR1, &act, NULL);
	return pause() == -1 && errno == EINTR ? 0 : -1;
}

static int wait_in(const char *name)
{
	struct pollfd p = { .fd = 0, .events = POLLIN };
	char c;

	if (strcmp(name, "read") == 0)
		return read(0, &c, 1) == 1 ? 0 : -1;
	if (strcmp(name, "poll") == 0)
		return poll(&p, 1, -1) == 1 ? 0 : -1;
	if (strcmp(name, "ppoll") == 0)
		return ppoll(&p, 1, NULL, NULL) == 1 ? 0 : -1;
	if (strcmp(name, "select") == 0)
		return wait_select() == 1 ? 0 : -1;
	if (strcmp(name, "epoll") == 0)
		return wait_epoll(-1) == 1 ? 0 : -1;
	if (strcmp(name, "epoll-time") == 0)
		return wait_epoll(500) == 0 ? 0 : -1;
	if (strcmp(name, "poll-time") == 0)
		return poll(NULL, 0, 500) == 0 ? 0 : -1;
	if (strcmp(name, "nanosleep") == 0)
		return wait_nanosleep();
	if (strcmp(name, "clock-nanosleep") == 0)
		return clock_nanosleep(CLOCK_MONOTONIC, 0, &half, NULL);
	if (strcmp(name, "usleep") == 0)
		return usleep(500000);
	if (strcmp(name, "semaphore") == 0)
		return wait_sem();
	if (strcmp(name, "condition") == 0)
		return wait_cond();
	if (strcmp(name, "recv") == 0)
		return wait_recv();
	if (strcmp(name, "sigtimedwait") == 0)
		return wait_sigtimedwait();
	if (strcmp(name, "semop") == 0)
		return wait_semop();
	return wait_pause();
}

int main(int argc, char **argv)
{
	int ret;

	(void)argc;
	write(1, ".", 1);
	errno = 0;
	ret = wait_in(argv[1]);
	dprintf(1, "%d %s\n", ret, ret ? strerror(errno) : "ok");
	return ret != 0;
}
