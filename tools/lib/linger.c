/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/lib/linger.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tools/lib/say.h"

#define STEP_MS	 5    /* between two looks */
#define BIRTH_MS 1000 /* for a child to take its row */
#define QUIET_MS 1000 /* what is shorter is not worth a line */

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static const struct runtable_row *left_behind(const struct launch *l)
{
	for (unsigned i = 0; i < launch_rows(l); i++) {
		const struct runtable_row *r = &l->table->rows[i];

		if (r->state == RUNROW_CLAIMED && launch_is_running(r))
			return r;
	}
	return NULL;
}

/* Is row i of a process that is about to be another program, which has no row yet? */
static bool is_becoming(const struct launch *l, unsigned i)
{
	const struct runtable_row *r = &l->table->rows[i];

	if (r->state != RUNROW_SPAWNED &&
	    (r->state != RUNROW_DONE || r->end != RUNROW_EXEC))
		return false;
	for (unsigned k = i + 1; k < launch_rows(l); k++)
		if (l->table->pids[k] == r->pid)
			return false;
	return launch_is_running(r);
}

/* Those whose parent has ended may not have come so far that they have a row. */
static bool has_births(const struct launch *l)
{
	if (__atomic_load_n(&l->table->forking, __ATOMIC_ACQUIRE) > 0)
		return true;
	for (unsigned i = 0; i < launch_rows(l); i++)
		if (is_becoming(l, i))
			return true;
	return false;
}

/* Until r has ended, at most so long; a signal ends it, too. */
static void await_end(const struct runtable_row *r, int ms)
{
	int fd = (int)syscall(SYS_pidfd_open, r->pid, 0);
	struct pollfd ended = { .fd = fd, .events = POLLIN };

	if (fd >= 0)
		poll(&ended, 1, ms);
	else if (errno != ESRCH)
		poll(NULL, 0, ms < STEP_MS ? ms : STEP_MS);
	if (fd >= 0)
		close(fd);
}

void linger(const struct launch *l, int seconds, bool quiet)
{
	const long long begin = now_ms(), end = begin + seconds * 1000LL;
	const int asks = launch_asks();
	bool said = quiet;

	while (launch_asks() == asks) {
		const struct runtable_row *r = left_behind(l);
		long long now = now_ms();
		long long until = said ? end : begin + QUIET_MS;

		if (now >= end || (!r && (!has_births(l) || now >= begin + BIRTH_MS)))
			return;
		if (!r) {
			poll(NULL, 0, STEP_MS);
		} else if (!said && now >= until) {
			say("waiting for %s (process %d), which the command has left "
			    "behind: %d s at most",
			    r->exe, r->pid, seconds);
			said = true;
		} else {
			await_end(r, (int)((until < end ? until : end) - now));
		}
	}
}
