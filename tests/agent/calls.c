/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calls: 31 threads, each blocked in another call that nothing ends. Says "up", and, for
 * every line of standard input, the names of the calls that have returned.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct timespec hour = { 3600, 0 };
static int semaphores, messages, child, lock_pipe[2];
static char path[] = "/tmp/seep-calls-XXXXXX";
static pthread_t sleeper;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static struct timespec later(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	t.tv_sec += 3600;
	return t;
}

static int read_one(int fd)
{
	uint64_t buf[32];

	return (int)read(fd, buf, sizeof(buf));
}

static int listener(bool timeout)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX }; /* the kernel picks a name */
	struct timeval t = { 3600, 0 };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	bind(s, (struct sockaddr *)&a, sizeof(a.sun_family));
	listen(s, 1);
	if (timeout)
		setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	return s;
}

static int pair(bool timeout)
{
	struct timeval t = { 3600, 0 };
	int s[2];

	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	if (timeout)
		setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	return s[0];
}

static int in_futex(void)
{
	static int word;

	return (int)syscall(SYS_futex, &word, FUTEX_WAIT, 0, &hour);
}

static int in_sem_timedwait(void)
{
	struct timespec t = later(CLOCK_REALTIME);
	sem_t s;

	sem_init(&s, 0, 0);
	return sem_timedwait(&s, &t);
}

static int in_sem_wait(void)
{
	sem_t s;

	sem_init(&s, 0, 0);
	return sem_wait(&s);
}

static int in_cond_timedwait(void)
{
	struct timespec t = later(CLOCK_REALTIME);
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;

	pthread_mutex_lock(&m);
	return pthread_cond_timedwait(&c, &m, &t);
}

static int in_mutex(void)
{
	return pthread_mutex_lock(&held);
}

static int in_nanosleep(void)
{
	struct timespec rest;

	return nanosleep(&hour, &rest);
}

static int in_clock_nanosleep(void)
{
	return clock_nanosleep(CLOCK_MONOTONIC, 0, &hour, NULL);
}

static int in_usleep(void)
{
	return usleep(3600u * 1000000u - 1);
}

static int in_poll(void)
{
	return poll(NULL, 0, 3600 * 1000);
}

static int in_ppoll(void)
{
	return ppoll(NULL, 0, &hour, NULL);
}

static int in_select(void)
{
	struct timeval t = { 3600, 0 };

	return select(0, NULL, NULL, NULL, &t);
}

static int in_epoll(void)
{
	struct epoll_event e;

	return epoll_wait(epoll_create1(0), &e, 1, 3600 * 1000);
}

static int in_recv_timeout(void)
{
	char c;

	return (int)recv(pair(true), &c, 1, 0);
}

static int in_recv(void)
{
	char c;

	return (int)recv(pair(false), &c, 1, 0);
}

static int in_accept_timeout(void)
{
	return accept(listener(true), NULL, NULL);
}

static int in_accept(void)
{
	return accept(listener(false), NULL, NULL);
}

static int in_sigtimedwait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return sigtimedwait(&set, NULL, &hour);
}

static int in_semtimedop(void)
{
	struct sembuf op = { 0, -1, 0 };

	return semtimedop(semaphores, &op, 1, &hour);
}

static int in_msgrcv(void)
{
	struct {
		long type;
		char text[8];
	} m;

	return (int)msgrcv(messages, &m, sizeof(m.text), 0, 0);
}

static int in_pause(void)
{
	return pause();
}

static int in_sigsuspend(void)
{
	sigset_t set;

	sigemptyset(&set);
	return sigsuspend(&set);
}

static int in_pipe(void)
{
	int fds[2];

	return pipe(fds) == 0 ? read_one(fds[0]) : 0;
}

static int in_eventfd(void)
{
	return read_one(eventfd(0, 0));
}

static int in_timerfd(void)
{
	struct itimerspec t = { .it_value = hour };
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);

	timerfd_settime(fd, 0, &t, NULL);
	return read_one(fd);
}

static int in_inotify(void)
{
	return read_one(inotify_init1(0));
}

static int in_flock(void)
{
	int first = open(path, O_RDWR), second = open(path, O_RDWR);

	flock(first, LOCK_EX);
	return flock(second, LOCK_EX);
}

static int in_setlkw(void)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fcntl(open(path, O_RDWR), F_SETLKW, &l);
}

static int in_waitpid(void)
{
	return waitpid(child, NULL, 0);
}

static int in_join(void)
{
	return pthread_join(sleeper, NULL);
}

static int in_mq(void)
{
	struct mq_attr attr = { .mq_maxmsg = 1, .mq_msgsize = 8 };
	struct timespec t = later(CLOCK_REALTIME);
	char name[64], text[8];
	mqd_t q;

	snprintf(name, sizeof(name), "/seep-calls-%d", getpid());
	q = mq_open(name, O_RDONLY | O_CREAT | O_EXCL, 0600, &attr);
	mq_unlink(name);
	return q == (mqd_t)-1 ? pause()
			      : (int)mq_timedreceive(q, text, sizeof(text), NULL, &t);
}

static int in_inherited(void)
{
	return read_one(lock_pipe[0]);
}

static const struct call {
	const char *name;
	int (*fn)(void);
} calls[] = {
	{ "futex", in_futex },
	{ "sem_timedwait", in_sem_timedwait },
	{ "sem_wait", in_sem_wait },
	{ "pthread_cond_timedwait", in_cond_timedwait },
	{ "pthread_mutex_lock", in_mutex },
	{ "nanosleep", in_nanosleep },
	{ "clock_nanosleep", in_clock_nanosleep },
	{ "usleep", in_usleep },
	{ "poll", in_poll },
	{ "ppoll", in_ppoll },
	{ "select", in_select },
	{ "epoll_wait", in_epoll },
	{ "recv with SO_RCVTIMEO", in_recv_timeout },
	{ "recv", in_recv },
	{ "accept with SO_RCVTIMEO", in_accept_timeout },
	{ "accept", in_accept },
	{ "sigtimedwait", in_sigtimedwait },
	{ "semtimedop", in_semtimedop },
	{ "msgrcv", in_msgrcv },
	{ "pause", in_pause },
	{ "sigsuspend", in_sigsuspend },
	{ "read of a pipe", in_pipe },
	{ "read of an eventfd", in_eventfd },
	{ "read of a timerfd", in_timerfd },
	{ "read of an inotify", in_inotify },
	{ "flock", in_flock },
	{ "F_SETLKW", in_setlkw },
	{ "waitpid", in_waitpid },
	{ "pthread_join", in_join },
	{ "mq_timedreceive", in_mq },
	{ "read of an inherited pipe", in_inherited },
};
#define NCALLS (sizeof(calls) / sizeof(calls[0]))

static volatile int returned[NCALLS]; /* 1 + errno */

static void *run(void *arg)
{
	const struct call *c = arg;
	int ret;

	errno = 0;
	ret = c->fn();
	returned[c - calls] = 1 + (ret < 0 ? errno : 0);
	return NULL;
}

static void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* A child that holds a lock on the file until we end. */
static void make_child(void)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int ready[2];
	char c;

	if (pipe(ready) != 0 || pipe(lock_pipe) != 0)
		exit(1);
	child = fork();
	if (child == 0) {
		close(lock_pipe[1]);
		fcntl(open(path, O_RDWR), F_SETLK, &l);
		write(ready[1], "x", 1);
		read(lock_pipe[0], &c, 1);
		_exit(0);
	}
	read(ready[0], &c, 1);
}

int main(void)
{
	char line[64];

	close(mkstemp(path));
	semaphores = semget(IPC_PRIVATE, 1, 0600);
	messages = msgget(IPC_PRIVATE, 0600);
	make_child();
	pthread_mutex_lock(&held);
	pthread_create(&sleeper, NULL, sleep_for_ever, NULL);
	for (size_t i = 0; i < NCALLS; i++) {
		pthread_t t;

		if (pthread_create(&t, NULL, run, (void *)(uintptr_t)&calls[i]) != 0)
			return 1;
	}
	__asm__ volatile("" : : "r"(malloc(100)) : "memory"); /* something to confirm */
	printf("up %zu\n", NCALLS);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		for (size_t i = 0; i < NCALLS; i++)
			if (returned[i])
				printf("%s: %s; ", calls[i].name,
				       strerror(returned[i] - 1));
		printf("\n");
		fflush(stdout);
	}
	unlink(path);
	semctl(semaphores, 0, IPC_RMID);
	msgctl(messages, IPC_RMID, NULL);
	_exit(0);
}
