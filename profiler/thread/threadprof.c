/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threadprof: see threadprof.h.
 */
#include "profiler/thread/threadprof.h"

#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/suppress.h"
#include "profiler/pprof/pprof.h"
#include "profiler/site/site.h"
#include "profiler/stack/creator.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"
#include "profiler/thread/snapshot.h"

#define MAX_LABELS  7
#define COMMENT_MAX 128

struct labels {
	struct pprof_label list[MAX_LABELS];
	int n;
};

static void add_text(struct labels *l, const char *key, const char *text)
{
	if (text && *text)
		l->list[l->n++] = (struct pprof_label){ .key = key, .text = text };
}

static void add_number(struct labels *l, const char *key, uint64_t number,
		       const char *unit)
{
	if (number)
		l->list[l->n++] = (struct pprof_label){ .key = key,
							.number = (int64_t)number,
							.unit = unit };
}

static const char *reason(const struct blocked *b)
{
	static const char *const reasons[] = {
		[BLOCKED_LOST] = "what it waits for is lost",
		[BLOCKED_DEADLOCK] = "deadlock",
		[BLOCKED_HOLDER] = "the holder of the mutex is blocked for ever",
		[BLOCKED_JOIN] = "the thread it joins is blocked for ever",
	};

	if (b->why == BLOCKED_LOST && b->freed)
		return "what it waits for has been freed";
	return reasons[b->why];
}

static void write_one(struct pprof *p, const struct thread_record *r, int64_t count,
		      uint64_t wait_ns, bool each)
{
	struct labels l = { .n = 0 };

	add_text(&l, "thread", r->name);
	add_text(&l, "state", state_of_call(r->call));
	add_text(&l, "blocked", reason(&r->blocked));
	add_number(&l, "wait", wait_ns, "nanoseconds");
	if (each) {
		add_number(&l, "tid", (uint64_t)r->tid, NULL);
		add_number(&l, "other", r->blocked.why ? (uint64_t)r->blocked.other : 0,
			   NULL);
		add_number(&l, "address", r->blocked.why ? r->blocked.word : 0, NULL);
	}
	pprof_sample(p, r->pcs, (int)r->nframes, r->precise, &count, l.list, l.n);
}

/* ---- each thread ---- */

static void write_creator(struct pprof *p, uint32_t site, const char *role, int tid,
			  size_t bytes, uintptr_t *pcs, int max)
{
	struct labels l = { .n = 0 };
	const int64_t one = 1;

	add_text(&l, "role", role);
	add_number(&l, "tid", (uint64_t)tid, NULL);
	add_number(&l, "bytes", bytes, "bytes");
	pprof_sample(p, pcs, site ? site_stack(site, pcs, max) : 0, false, &one, l.list,
		     l.n);
}

static void write_ended(struct pprof *p, const struct thread_snapshot *s)
{
	int max = (int)opt_get()->stack + 1;
	size_t bytes = (size_t)max * sizeof(uintptr_t);
	uintptr_t *pcs = meta_map(bytes, META_THREAD);

	for (uint32_t i = 0; pcs && i < s->nended; i++)
		write_creator(p, s->ended[i].creator_site, "ended", s->ended[i].tid,
			      s->ended[i].stack_bytes, pcs, max);
	meta_unmap(pcs, bytes, META_THREAD);
}

static void write_each(struct pprof *p, const struct thread_snapshot *s)
{
	int max = (int)opt_get()->stack + 1;
	size_t bytes = (size_t)max * sizeof(uintptr_t);
	uintptr_t *pcs = meta_map(bytes, META_THREAD);

	for (uint32_t i = 0; i < s->nthreads; i++) {
		const struct thread_record *r = &s->threads[i];

		write_one(p, r, 1, r->wait_ns, true);
		if (pcs && r->creator_site)
			write_creator(p, r->creator_site, "created", r->tid, 0, pcs, max);
	}
	meta_unmap(pcs, bytes, META_THREAD);
}

/* ---- who makes threads ---- */

/* A copy to work on without the lock. The caller unmaps it. */
static struct creator *copy_creators(uint32_t *out_n, size_t *out_bytes)
{
	struct creator *copies;
	uint32_t n = 0;

	thread_lock();
	for (const struct creator *c = creator_list(); c; c = c->next)
		n++;
	thread_unlock();
	*out_bytes = (n + 1) * sizeof(*copies);
	copies = meta_map(*out_bytes, META_THREAD);
	*out_n = 0;
	thread_lock();
	for (const struct creator *c = creator_list(); c && copies && *out_n < n;
	     c = c->next)
		copies[(*out_n)++] = *c;
	thread_unlock();
	return copies;
}

/* role NULL: every site, as a profile of its own. */
static void write_site(struct pprof *p, const struct creator *c, const char *role,
		       uintptr_t *pcs, int max)
{
	const int64_t values[] = { role ? c->live : (int64_t)c->created, c->live };
	struct labels l = { .n = 0 };
	uint32_t q[CREATOR_QUARTERS];
	bool grows = creator_grows(c, os_now_ns(), q);
	char text[64];

	if (role && !grows)
		return;
	fmt_string(text, sizeof(text), "%u %u %u %u", q[0], q[1], q[2], q[3]);
	add_text(&l, "role", role);
	add_text(&l, "over_time", text);
	add_text(&l, "growing", grows ? "yes" : NULL);
	add_number(&l, "peak", c->peak, NULL);
	if (role)
		add_number(&l, "created", c->created, NULL);
	pprof_sample(p, pcs, c->site ? site_stack(c->site, pcs, max) : 0, false, values,
		     l.list, l.n);
}

static void write_sites(struct pprof *p, const char *role)
{
	int max = (int)opt_get()->stack + 1;
	size_t bytes = (size_t)max * sizeof(uintptr_t), copies_bytes;
	uintptr_t *pcs = meta_map(bytes, META_THREAD);
	uint32_t n;
	struct creator *c = copy_creators(&n, &copies_bytes);

	for (uint32_t i = 0; pcs && i < n; i++)
		write_site(p, &c[i], role, pcs, max);
	meta_unmap(c, copies_bytes, META_THREAD);
	meta_unmap(pcs, bytes, META_THREAD);
}

static int write_creators(const char *prefix, int fd)
{
	const char *comments[] = { "seep " SEEP_VERSION, NULL };
	struct pprof *p;
	int error;

	thread_internal_enter();
	if (prefix)
		error = pprof_begin(&p, &pprof_kind_threadcreate, prefix, 1, comments);
	else
		error = pprof_begin_fd(&p, &pprof_kind_threadcreate, fd, 1, comments);
	if (error == 0) {
		write_sites(p, NULL);
		error = pprof_finish(p);
	}
	thread_internal_leave();
	return error;
}

int threadprof_write_creators(const char *prefix)
{
	return write_creators(prefix, -1);
}

int threadprof_write_creators_fd(int fd)
{
	return write_creators(NULL, fd);
}

/* ---- groups ---- */

static bool same(const struct thread_record *a, const struct thread_record *b)
{
	return a->blocked.why != BLOCKED_DEADLOCK && a->hash == b->hash &&
	       a->nframes == b->nframes && a->precise == b->precise &&
	       a->call == b->call && a->blocked.why == b->blocked.why &&
	       strcmp(a->name, b->name) == 0 &&
	       memcmp(a->pcs, b->pcs, a->nframes * sizeof(*a->pcs)) == 0;
}

static void write_groups(struct pprof *p, const struct thread_snapshot *s)
{
	for (uint32_t i = 0; i < s->nthreads; i++) {
		const struct thread_record *r = &s->threads[i];
		uint64_t wait_ns = r->wait_ns;
		int64_t count = 1;
		uint32_t k = 0;

		while (k < i && !same(r, &s->threads[k]))
			k++;
		if (k < i)
			continue; /* counted with an earlier one */
		for (k = i + 1; k < s->nthreads; k++) {
			if (!same(r, &s->threads[k]))
				continue;
			count++;
			if (s->threads[k].wait_ns > wait_ns)
				wait_ns = s->threads[k].wait_ns;
		}
		write_one(p, r, count, wait_ns, r->blocked.why == BLOCKED_DEADLOCK);
	}
}

/* ---- leaks ---- */

static bool site_is_suppressed(uint32_t site)
{
	const struct leak_record one = { .site = site, .objects = 1 };

	return suppress_matches(&one);
}

static bool is_suppressed(const struct thread_record *r, struct frame *frames, int max)
{
	int n = 0;

	for (; n < max && n < (int)r->nframes; n++)
		frames[n] = (struct frame){ .pc = r->pcs[n] };
	return site_is_suppressed(site_intern(frames, n));
}

/* Counts, and forgets what is suppressed. */
static void judge(struct thread_snapshot *s, struct thread_leaks *out)
{
	int max;
	struct frame *frames = unwind_scratch(&max);
	uint32_t kept = 0;

	for (uint32_t i = 0; frames && i < s->nthreads; i++) {
		struct thread_record *r = &s->threads[i];

		if (r->blocked.why && is_suppressed(r, frames, max))
			r->blocked.why = BLOCKED_NOT;
		out->blocked += r->blocked.why != BLOCKED_NOT;
	}
	for (uint32_t i = 0; i < s->nended; i++)
		if (!s->ended[i].creator_site ||
		    !site_is_suppressed(s->ended[i].creator_site))
			s->ended[kept++] = s->ended[i];
	s->nended = kept;
	out->ended = kept;
	out->judged = s->judged;
}

/* ---- the interface ---- */

/* prefix NULL: into fd. */
static int write_file(const struct thread_snapshot *s, const char *prefix, int fd)
{
	char missed[COMMENT_MAX] = "";
	const char *comments[] = { "seep " SEEP_VERSION,
				   prefix ? "threads at the end of the process"
					  : "threads of a running process",
				   !s->judged	    ? "blocked: not judged"
				   : s->only_cycles ? "blocked: only deadlocks"
						    : "blocked: judged",
				   NULL, NULL };
	struct pprof *p;
	int error;

	if (s->nmissed) {
		fmt_string(missed, sizeof(missed), "%u threads could not be stopped",
			   s->nmissed);
		comments[3] = missed;
	}
	if (prefix)
		error = pprof_begin(&p, &pprof_kind_threads, prefix, 1, comments);
	else
		error = pprof_begin_fd(&p, &pprof_kind_threads, fd, 1, comments);
	if (error)
		return error;
	if (prefix)
		write_groups(p, s);
	else
		write_each(p, s);
	if (!prefix || opt_get()->thread_leaks)
		write_ended(p, s);
	if (!prefix)
		write_sites(p, "growing");
	return pprof_finish(p);
}

static int write_threads(const char *prefix, int fd, const struct unwind_regs *own,
			 enum thread_judge how, uint32_t *out_count,
			 uint64_t *out_pause_ns)
{
	struct thread_snapshot *s;
	int error;

	*out_count = 0;
	*out_pause_ns = 0;
	thread_internal_enter();
	error = thread_snapshot_take(&s, prefix != NULL, own, how);
	if (error == 0) {
		error = write_file(s, prefix, fd);
		*out_count = s->nthreads;
		*out_pause_ns = s->pause_ns;
		thread_snapshot_free(s);
	}
	thread_internal_leave();
	return error;
}

int threadprof_write(const char *prefix, const struct unwind_regs *own,
		     uint32_t *out_count)
{
	uint64_t pause_ns;

	return write_threads(prefix, -1, own, THREAD_JUDGE_CYCLES, out_count, &pause_ns);
}

int threadprof_check(const char *prefix, struct thread_leaks *out)
{
	struct thread_snapshot *s;
	int error;

	memset(out, 0, sizeof(*out));
	thread_internal_enter();
	error = thread_snapshot_take(&s, true, NULL, THREAD_JUDGE_MEMORY);
	if (error == 0) {
		judge(s, out);
		if (prefix[0])
			error = write_file(s, prefix, -1);
		thread_snapshot_free(s);
	}
	thread_internal_leave();
	return error;
}

int threadprof_write_fd(int fd, bool judge, uint32_t *out_count, uint64_t *out_pause_ns)
{
	return write_threads(NULL, fd, NULL,
			     judge ? THREAD_JUDGE_MEMORY : THREAD_JUDGE_CYCLES, out_count,
			     out_pause_ns);
}
