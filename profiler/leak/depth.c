/* SPDX-License-Identifier: Apache-2.0 */
/* depth: see depth.h. */
#include "profiler/leak/depth.h"

#include <fcntl.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"

#define DEPTH_TEXT 256
#define SETTLE_NS  8000000u /* for running threads to wait again */

static long read_small(int tid, const char *name, char *text)
{
	char path[64];
	long n;
	int fd;

	fmt_string(path, sizeof(path), "/proc/self/task/%d/%s", tid, name);
	fd = os_open(path, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	n = os_read(fd, text, DEPTH_TEXT - 1);
	os_close(fd);
	if (n > 0)
		text[n] = '\0';
	return n;
}

static uint32_t hash_text(const char *text, uint32_t hash)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 0x01000193u;
	return hash ? hash : 1;
}

/* "NR ARG... SP PC", all but the first in hexadecimal; "running". */
static uintptr_t parse_sp(const char *text)
{
	const char *at = strrchr(text, ' ');
	uintptr_t sp = 0;

	while (at && at > text && at[-1] != ' ')
		at--;
	if (!at || at == text || at[0] != '0' || at[1] != 'x')
		return 0;
	for (at += 2; *at != ' '; at++) {
		unsigned digit =
			*at <= '9' ? (unsigned)(*at - '0') : (unsigned)(*at - 'a' + 10);

		sp = sp << 4 | digit;
	}
	return sp;
}

static struct depth depth_of(int tid)
{
	char call[DEPTH_TEXT], ran[DEPTH_TEXT];
	struct depth d = { 0, 0 };

	/* Run time and number of turns: a thread that has run has others. */
	if (read_small(tid, "schedstat", ran) <= 0 ||
	    read_small(tid, "syscall", call) <= 0)
		return d;
	d.sp = parse_sp(call);
	if (d.sp)
		d.hash = hash_text(call, hash_text(ran, 0x811c9dc5u));
	return d;
}

/* How many are not known yet. */
static uint32_t read_unknown(struct depth *list, const struct world *w)
{
	uint32_t unknown = 0;

	for (uint32_t i = 0; i < w->nthreads; i++) {
		if (!list[i].hash)
			list[i] = depth_of(w->threads[i].tid);
		unknown += !list[i].hash;
	}
	return unknown;
}

void depth_read(struct depth *list, struct world *w)
{
	const uint64_t until = os_now_ns() + SETTLE_NS;
	const uint32_t never = 0;

	world_list(w);
	memset(list, 0, w->nthreads * sizeof(*list));
	while (read_unknown(list, w) > 0 && os_now_ns() < until)
		os_futex_wait(&never, 0, SETTLE_NS / 16);
}

static bool has_not_run(const struct depth *d, int tid)
{
	return d->hash && depth_of(tid).hash == d->hash;
}

void depth_compare(const struct depth *list, const struct world *w, bool *out_valid)
{
	for (uint32_t i = 0; i < w->nthreads; i++)
		out_valid[i] = has_not_run(&list[i], w->threads[i].tid);
}

void depth_trust(const struct depth *list, struct world *w)
{
	for (uint32_t i = 0; i < w->nthreads; i++) {
		w->threads[i].captured = list[i].hash != 0;
		w->threads[i].regs.sp = list[i].sp;
	}
}

void depth_doubt(const struct depth *list, struct world *w)
{
	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].captured && !has_not_run(&list[i], w->threads[i].tid))
			w->threads[i].captured = false;
}
