/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile: heap, allocs and peak profiles from the sites' counters, and the figures of
 * the summary.
 */
#include <errno.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/pprof/pprof.h"
#include "profiler/sample/rss.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/trail.h"

#define COMMENT_MAX 512

static struct {
	const char *command; /* of the process that has ended; NULL: we are it */
	bool lifetimes;	     /* it kept them */
} origin;

#define COMMENTS 8

static int64_t whole_objects(uint64_t fixed)
{
	return (int64_t)((fixed + ((uint64_t)1 << (SITE_SHIFT - 1))) >> SITE_SHIFT);
}

/* A counter of frees is read before the one of allocations, so a difference is never
 * negative but for torn pairs of a running program: those count as nothing. */
static uint64_t minus(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

struct writer {
	struct pprof *file;
	uintptr_t *pcs;
	int max;
	bool peak;
};

int sample_labels(const struct labels *labels, struct pprof_label *list)
{
	int n = 0;

	if (labels->thread[0])
		list[n++] =
			(struct pprof_label){ .key = "thread", .text = labels->thread };
	if (labels->size)
		list[n++] = (struct pprof_label){ .key = "bytes",
						  .number = (int64_t)labels->size,
						  .unit = "bytes" };
	return n;
}

static bool write_site(uint32_t site, struct site_counters *c, void *arg)
{
	struct writer *w = arg;
	struct pprof_label list[LABEL_MAX];
	struct labels labels;
	int64_t v[4];
	int n;

	if (w->peak) {
		uint64_t objects, bytes;

		peak_read(c, &objects, &bytes);
		v[0] = whole_objects(objects);
		v[1] = (int64_t)bytes;
	} else {
		uint64_t freed = atomic_load_relaxed(&c->free_objects);
		uint64_t freed_bytes = atomic_load_relaxed(&c->free_bytes);
		uint64_t made = atomic_load_relaxed(&c->alloc_objects);
		uint64_t made_bytes = atomic_load_relaxed(&c->alloc_bytes);

		v[0] = whole_objects(made);
		v[1] = (int64_t)made_bytes;
		v[2] = whole_objects(minus(made, freed));
		v[3] = (int64_t)minus(made_bytes, freed_bytes);
	}
	if (v[0] == 0 && v[1] == 0)
		return true;
	site = label_read(site, &labels);
	n = site_stack(site, w->pcs, w->max);
	pprof_sample(w->file, w->pcs, n, false, v, list, sample_labels(&labels, list));
	return true;
}

/* "argv[0] argv[1] ..." into buf. */
static void command_line(char *buf, size_t size)
{
	int fd = os_open("/proc/thread-self/cmdline", 0, 0);
	long n = fd >= 0 ? os_read(fd, buf, size - 1) : 0;

	if (fd >= 0)
		os_close(fd);
	if (n < 0)
		n = 0;
	while (n > 0 && buf[n - 1] == '\0')
		n--;
	for (long i = 0; i < n; i++)
		if (buf[i] == '\0')
			buf[i] = ' ';
	buf[n] = '\0';
}

struct comments {
	char text[COMMENTS][COMMENT_MAX];
	const char *list[COMMENTS + 1];
};

static void describe_mode(char text[COMMENT_MAX])
{
	const struct period *p = period_latest();
	size_t at;

	if (!p->on)
		at = fmt_string(text, COMMENT_MAX, "mode: off");
	else if (p->exact)
		at = fmt_string(text, COMMENT_MAX, "mode: exact");
	else
		at = fmt_string(text, COMMENT_MAX,
				"mode: sampled, one in %zu bytes on average", p->sample);
	if (p->started_ns)
		fmt_string(text + at, COMMENT_MAX - at, ", since %lu seconds ago",
			   (os_realtime_ns() - p->started_ns) / 1000000000u);
}

static void make_comments(struct comments *c)
{
	const struct rss *r = rss_get();
	struct sample_total t;
	struct trail_stats stacks;
	int at, n;

	sample_get_total(&t);
	fmt_string(c->text[0], COMMENT_MAX, "seep " SEEP_VERSION);
	at = (int)fmt_string(c->text[1], COMMENT_MAX, "command: %s",
			     origin.command ? origin.command : "");
	if (!origin.command)
		command_line(c->text[1] + at, COMMENT_MAX - (size_t)at);
	describe_mode(c->text[2]);
	fmt_string(c->text[3], COMMENT_MAX, "live %lu bytes, peak %lu bytes",
		   t.live_bytes, t.peak_bytes);
	fmt_string(c->text[4], COMMENT_MAX,
		   "recorded %lu allocations, dropped %lu, stacks truncated %lu",
		   t.samples, t.dropped, t.truncated);
	trail_get_stats(&stacks);
	fmt_string(c->text[5], COMMENT_MAX,
		   "stacks captured %lu, from scratch %lu, not remembered %lu, frames "
		   "walked %lu, words compared %lu",
		   stacks.captures, stacks.full, stacks.refused, stacks.walked,
		   stacks.compared);
	n = 6;
	if (r->total)
		fmt_string(c->text[n++], COMMENT_MAX,
			   "resident %lu bytes = live %lu + slack %lu + free in the "
			   "allocator %lu + metadata %lu + profiler %lu + outside the "
			   "heap %lu",
			   r->total, r->part[RSS_LIVE], r->part[RSS_SLACK],
			   r->part[RSS_FREE], r->part[RSS_METADATA],
			   r->part[RSS_PROFILER], r->part[RSS_OTHER]);
	if (origin.command)
		fmt_string(c->text[n++], COMMENT_MAX,
			   "the process was killed; this is what it had recorded");
	for (int i = 0; i < n; i++)
		c->list[i] = c->text[i];
	c->list[n] = NULL;
}

/* heap and allocs hold the same. How many of the kinds are written by one of these. */
static size_t pair_at(const struct pprof_kind *const *kinds, size_t n)
{
	return n > 1 && kinds[0] == &pprof_kind_heap && kinds[1] == &pprof_kind_allocs
		       ? 2
		       : 1;
}

/* The first of the kinds, or a pair. */
static int write_one(const struct pprof_kind *const *kinds, size_t n, const char *prefix,
		     int fd, const struct comments *c, struct writer *w)
{
	int64_t period = sample_is_exact() ? 1 : (int64_t)sample_period();
	const struct pprof_kind *kind = kinds[0];
	int error;

	if (n == 2)
		error = pprof_begin_pair(&w->file, kinds, prefix, period, c->list);
	else if (prefix)
		error = pprof_begin(&w->file, kind, prefix, period, c->list);
	else
		error = pprof_begin_fd(&w->file, kind, fd, period, c->list);
	if (error)
		return error;
	w->peak = kind == &pprof_kind_peak;
	if (kind != &pprof_kind_lifetimes) {
		site_each(write_site, w);
	} else if (!lifetime_write(w->file, w->pcs, w->max)) {
		pprof_abandon(w->file);
		return -ENOMEM;
	}
	return pprof_finish(w->file);
}

/* prefix NULL: into fd. */
static int write_kinds(const struct pprof_kind *const *kinds, size_t n,
		       const char *prefix, int fd)
{
	int max = (int)opt_get()->stack + 1;
	struct writer w = { .max = max };
	struct comments *c = meta_map(sizeof(*c), META_SAMPLE);
	int error = 0;

	w.pcs = meta_map((size_t)max * sizeof(*w.pcs), META_SAMPLE);
	if (!c || !w.pcs) {
		error = -ENOMEM;
		n = 0;
	} else {
		peak_settle();
		make_comments(c);
	}
	for (size_t i = 0; i < n;) {
		size_t both = pair_at(kinds + i, n - i);
		int e = write_one(kinds + i, both, prefix, fd, c, &w);

		i += both;
		if (error == 0)
			error = e;
	}
	meta_unmap(w.pcs, (size_t)max * sizeof(*w.pcs), META_SAMPLE);
	meta_unmap(c, sizeof(*c), META_SAMPLE);
	return error;
}

int sample_write_profiles(const char *prefix)
{
	static const struct pprof_kind *const kinds[] = { &pprof_kind_heap,
							  &pprof_kind_allocs,
							  &pprof_kind_peak,
							  &pprof_kind_lifetimes };
	bool all = origin.command ? origin.lifetimes : opt_get()->lifetimes;

	return write_kinds(kinds, ARRAY_LEN(kinds) - !all, prefix, -1);
}

int sample_write_fd(const struct pprof_kind *kind, int fd)
{
	return write_kinds(&kind, 1, NULL, fd);
}

static bool add_site(uint32_t site, struct site_counters *c, void *arg)
{
	struct sample_total *t = arg;
	uint64_t freed = atomic_load_relaxed(&c->free_objects);
	uint64_t freed_bytes = atomic_load_relaxed(&c->free_bytes);

	(void)site;
	t->alloc_objects += atomic_load_relaxed(&c->alloc_objects);
	t->alloc_bytes += atomic_load_relaxed(&c->alloc_bytes);
	t->live_objects += minus(atomic_load_relaxed(&c->alloc_objects), freed);
	t->live_bytes += minus(atomic_load_relaxed(&c->alloc_bytes), freed_bytes);
	return true;
}

void sample_get_total(struct sample_total *out)
{
	memset(out, 0, sizeof(*out));
	site_each(add_site, out);
	out->alloc_objects >>= SITE_SHIFT;
	out->live_objects >>= SITE_SHIFT;
	out->peak_bytes = peak_bytes();
	sample_add_counts(out);
}

static bool add_samples(uint32_t site, struct site_counters *c, void *arg)
{
	uint64_t *sum = arg;

	(void)site;
	*sum += c->samples;
	return true;
}

void sample_store_move(void)
{
	if (sampler.record_size >= RECORD_STORED && store_is_own())
		lifetime_store_move();
}

void sample_adopt(const struct store_header *h)
{
	uint64_t samples = 0;

	origin.command = h->command;
	origin.lifetimes = h->latest_ns != 0;
	lifetime_adopt(h);
	site_each(add_samples, &samples);
	peak_adopt();
	sample_set_origin(h->period, samples);
}
