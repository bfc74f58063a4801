/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handlers: signal handlers that allocate while they interrupt malloc and free.
 *
 *   handlers STEPS   replaces blocks at random in the main thread and in
 * handlers, which another thread provokes as fast as it can
 *
 * Every block carries its address and owner in its first and last word: a slot that was
 * handed out twice, or lost, shows. Prints how many signals came; 0 would prove nothing.
 * One signal in a few uses each way to set a handler, and one leaves by siglongjmp.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#define BLOCKS 512

struct owner {
	uint64_t *blocks[BLOCKS];
	size_t words[BLOCKS];
	uint64_t random, tag;
};

static struct owner in_main = { .random = 1, .tag = 0x1111 };
static struct owner in_handler = { .random = 2, .tag = 0x2222 };
static atomic_long handled, jumped;
static atomic_bool done, ready;
static pthread_t victim;
static sigjmp_buf out;
static volatile sig_atomic_t may_jump;

static void fail(const char *what)
{
	fprintf(stderr, "handlers: %s\n", what);
	_Exit(1);
}

static uint64_t next(struct owner *o)
{
	o->random ^= o->random << 13;
	o->random ^= o->random >> 7;
	o->random ^= o->random << 17;
	return o->random;
}

static void check(const struct owner *o, int at)
{
	uint64_t *p = o->blocks[at];
	uint64_t want = (uint64_t)(uintptr_t)p ^ o->tag;

	if (p[0] != want || p[o->words[at] - 1] != want)
		fail("a block was changed by another owner");
}

static void replace(struct owner *o)
{
	uint64_t r = next(o);
	int at = (int)(r % BLOCKS);
	size_t bytes = 16 + (r >> 20) % (r >> 60 ? 500 : 40000);
	uint64_t *p;

	if (o->blocks[at]) {
		check(o, at);
		free(o->blocks[at]);
		o->blocks[at] = NULL;
	}
	p = r >> 58 & 1 ? calloc(1, bytes) : malloc(bytes);
	if (!p)
		fail("out of memory");
	o->words[at] = bytes / 8;
	p[0] = p[o->words[at] - 1] = (uint64_t)(uintptr_t)p ^ o->tag;
	o->blocks[at] = p;
}

static void on_plain(int sig)
{
	int saved = errno;

	(void)sig;
	replace(&in_handler);
	replace(&in_handler);
	atomic_fetch_add(&handled, 1);
	errno = saved;
}

static void on_info(int sig, siginfo_t *info, void *context)
{
	if (info->si_signo != sig || info->si_code != SI_TKILL || !context)
		fail("siginfo was lost");
	on_plain(sig);
}

/* Leaves malloc behind, as a shell's handler does; only where a loop has nothing in hand.
 */
static void on_jump(int sig)
{
	on_plain(sig);
	if (may_jump) {
		may_jump = 0;
		atomic_fetch_add(&jumped, 1);
		siglongjmp(out, 1);
	}
}

static void *provoke(void *arg)
{
	static const int signals[] = { SIGUSR1, SIGUSR2, SIGHUP, SIGWINCH };

	sigset_t all;

	(void)arg;
	sigfillset(&all); /* the timer's signals are for the main thread */
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	atomic_store(&ready, true);
	for (unsigned i = 0; !atomic_load(&done); i++) {
		long seen = atomic_load(&handled);

		pthread_kill(victim, signals[i % 4]);
		for (int spin = 0; spin < 200000 && atomic_load(&handled) == seen; spin++)
			__builtin_ia32_pause();
	}
	return NULL;
}

static void set_handlers(void)
{
	struct sigaction act = { .sa_sigaction = on_info, .sa_flags = SA_SIGINFO }, old;

	/* One at a time: the handlers share their blocks. */
	sigfillset(&act.sa_mask);
	sigaction(SIGUSR1, &act, NULL);
	sigaction(SIGUSR1, NULL, &old);
	if (old.sa_sigaction != on_info || !(old.sa_flags & SA_SIGINFO))
		fail("sigaction does not show the handler that was set");
	act.sa_handler = on_plain;
	act.sa_flags = SA_RESTART;
	sigaction(SIGUSR2, &act, NULL);
	sigaction(SIGWINCH, &act, NULL);
	sigaction(SIGALRM, &act, NULL);
	act.sa_handler = on_jump;
	sigaction(SIGHUP, &act, NULL);
	signal(SIGCONT, on_plain);
	if (signal(SIGCONT, SIG_DFL) != on_plain || signal(SIGCONT, SIG_DFL) != SIG_DFL)
		fail("signal does not return the handler that was set");
}

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 1000000;
	const struct itimerval often = { { 0, 30 }, { 0, 30 } },
			       never = { { 0, 0 }, { 0, 0 } };
	volatile long i = 0;
	pthread_t t;

	victim = pthread_self();
	set_handlers();
	pthread_create(&t, NULL, provoke, NULL);
	setitimer(ITIMER_REAL, &often,
		  NULL); /* on one processor the thread hardly runs */
	sigsetjmp(out, 1);
	for (; i < n || atomic_load(&handled) < 1000; i++) {
		replace(&in_main);
		if (i % 4096 == 0) { /* a jump loses at most what this holds */
			may_jump = 1;
			for (int k = 0; k < 200; k++)
				free(malloc(100));
			may_jump = 0;
		}
	}
	atomic_store(&done, true);
	setitimer(ITIMER_REAL, &never, NULL);
	pthread_join(t, NULL);
	signal(SIGUSR1, SIG_IGN);
	signal(SIGUSR2, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (int at = 0; at < BLOCKS; at++) {
		if (in_main.blocks[at])
			check(&in_main, at);
		if (in_handler.blocks[at])
			check(&in_handler, at);
	}
	printf("handled %ld signals, %ld left by siglongjmp\n", atomic_load(&handled),
	       atomic_load(&jumped));
	return 0;
}
