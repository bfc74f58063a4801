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

/* The hexadecimal number that ends at end; *out_end: where the one before it does. 0: it
 * is none. */
static uintptr_t parse_last(const char *text, const char *end, const char **out_end)
{
	const char *at = end;
	uintptr_t n = 0;

	while (at > text && at[-1] != ' ')
		at--;
	*out_end = at > text ? at - 1 : text;
	if (at[0] != '0' || at[1] != 'x')
		return 0;
	for (at += 2; at<end && * at> ' '; at++) {
		unsigned digit =
			*at <= '9' ? (unsigned)(*at - '0') : (unsigned)(*at - 'a' + 10);

		n = n << 4 | digit;
	}
	return n;
}

/* "NR ARG... SP PC", all but the first in hexadecimal; "running". */
static void parse_call(const char *text, struct depth *d)
{
	const char *end = text + strlen(text);

	d->pc = parse_last(text, end, &end);
	d->sp = parse_last(text, end, &end);
	d->call = 0;
	for (; *text >= '0' && *text <= '9' && d->call < 100000; text++)
		d->call = d->call * 10 + (*text - '0');
	if (*text != ' ' || d->pc == 0)
		d->call = -1;
}

static struct depth depth_of(int tid)
{
	char call[DEPTH_TEXT], ran[DEPTH_TEXT];
	struct depth d = { .call = -1 };

	/* Run time and number of turns: a thread that has run has others. */
	if (read_small(tid, "schedstat", ran) <= 0 ||
	    read_small(tid, "syscall", call) <= 0)
		return d;
	parse_call(call, &d);
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

void depth_put(const struct depth *d, struct stopped_thread *t)
{
	t->regs.sp = d->sp;
	t->regs.ip = d->pc;
	t->call = d->call;
}

void depth_trust(const struct depth *list, struct world *w)
{
	for (uint32_t i = 0; i < w->nthreads; i++) {
		w->threads[i].captured = list[i].hash != 0;
		depth_put(&list[i], &w->threads[i]);
	}
}

void depth_doubt(const struct depth *list, struct world *w)
{
	for (uint32_t i = 0; i < w->nthreads; i++)
		if (w->threads[i].captured && !has_not_run(&list[i], w->threads[i].tid))
			w->threads[i].captured = false;
}
