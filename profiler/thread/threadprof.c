/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threadprof: see threadprof.h. While the world stands still only program counters are
 * copied; names are looked up and the file is written after it goes on.
 */
#include "profiler/thread/threadprof.h"

#include <errno.h>
#include <link.h>

#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "profiler/leak/stop.h"
#include "profiler/pprof/pprof.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define MAX_THREADS  (STOP_MAX_THREADS + 1)
#define STACKS_BYTES (MAX_THREADS * sizeof(struct thread_stack))
#define POOL_PCS     ((size_t)1 << 20) /* of all stacks together; touched as needed */
#define POOL_BYTES   (POOL_PCS * sizeof(uintptr_t))

struct thread_stack {
	uint32_t count; /* threads with this stack; 0: merged into another */
	uint32_t nframes;
	uint32_t hash;
	bool precise;
	const uintptr_t *pcs; /* in the pool */
};

struct snapshot {
	struct world world;
	struct thread_stack *stacks;
	uint32_t nstacks;
	uintptr_t *pool;
	size_t used;
	struct frame *frames; /* room for one stack */
	int max_frames;
	uint64_t pause_ns;
	int error;
};

/* A stack for which the pool has no room left ends early. */
static void keep(struct snapshot *s, int n, bool precise)
{
	struct thread_stack *t = &s->stacks[s->nstacks++];
	uintptr_t *pcs = s->pool + s->used;

	t->count = 1;
	t->precise = precise;
	t->pcs = pcs;
	for (int i = 0; i < n && s->used < POOL_PCS; i++) {
		pcs[i] = s->frames[i].pc;
		t->hash = (t->hash ^ (uint32_t)pcs[i]) * 0x9e3779b1u;
		t->nframes++;
		s->used++;
	}
	if (t->nframes > 0 && t->nframes < (uint32_t)n)
		pcs[t->nframes - 1] = FRAME_TRUNCATED_PC;
}

static void walk_threads(struct snapshot *s)
{
	for (uint32_t i = 0; i < s->world.nthreads; i++) {
		const struct stopped_thread *t = &s->world.threads[i];
		const struct thread_info *info = thread_find_tid(t->tid);
		enum unwind_end end;
		int n;

		if (!t->captured)
			continue;
		n = unwind_regs(&t->regs, info ? info->stack_lo : 0,
				info ? info->stack_hi : 0, s->frames, s->max_frames,
				&end);
		keep(s, n, true);
	}
}

static NO_LOCK_CHECK int with_loader_locked(struct dl_phdr_info *info, size_t size,
					    void *arg)
{
	struct snapshot *s = arg;
	uint64_t start = os_now_ns();

	(void)info;
	(void)size;
	thread_lock();
	heap_lock_all();
	sample_pool_fork_prepare();
	meta_fork_prepare();
	s->error = world_stop(&s->world);
	meta_fork_done(false);
	sample_pool_fork_done(false);
	if (s->error == 0)
		walk_threads(s);
	world_resume(&s->world);
	s->pause_ns = os_now_ns() - start;
	heap_unlock_all();
	thread_unlock();
	return 1;
}

static bool same_stack(const struct thread_stack *a, const struct thread_stack *b)
{
	if (a->hash != b->hash || a->nframes != b->nframes || a->precise != b->precise)
		return false;
	for (uint32_t i = 0; i < a->nframes; i++)
		if (a->pcs[i] != b->pcs[i])
			return false;
	return true;
}

static void group(struct snapshot *s)
{
	for (uint32_t i = 0; i < s->nstacks; i++)
		for (uint32_t k = 0; k < i; k++) {
			if (s->stacks[k].count == 0 ||
			    !same_stack(&s->stacks[i], &s->stacks[k]))
				continue;
			s->stacks[k].count += s->stacks[i].count;
			s->stacks[i].count = 0;
			break;
		}
}

static void keep_own(struct snapshot *s)
{
	enum unwind_end end;

	keep(s, unwind_here(s->frames, s->max_frames, &end), false);
}

/* prefix NULL: into fd. */
static int write_file(const struct snapshot *s, const char *prefix, int fd)
{
	const char *const comments[] = { "seep " SEEP_VERSION,
					 prefix ? "threads at the end of the process"
						: "threads of a running process",
					 NULL };
	struct pprof *p;
	int error;

	if (prefix)
		error = pprof_begin(&p, &pprof_kind_threads, prefix, 1, comments);
	else
		error = pprof_begin_fd(&p, &pprof_kind_threads, fd, 1, comments);
	for (uint32_t i = 0; error == 0 && i < s->nstacks; i++) {
		const struct thread_stack *t = &s->stacks[i];
		const int64_t value = t->count;

		if (t->count)
			pprof_sample(p, t->pcs, (int)t->nframes, t->precise, &value, NULL,
				     0);
	}
	return error ? error : pprof_finish(p);
}

static size_t frames_bytes(const struct snapshot *s)
{
	return (size_t)s->max_frames * sizeof(struct frame);
}

static bool make_room(struct snapshot *s)
{
	s->max_frames = (int)opt_get()->stack + 1;
	s->frames = meta_map(frames_bytes(s), META_THREAD);
	s->stacks = meta_map(STACKS_BYTES, META_THREAD);
	s->pool = meta_map(POOL_BYTES, META_THREAD);
	return s->frames && s->stacks && s->pool;
}

static void give_back(struct snapshot *s)
{
	meta_unmap(s->frames, frames_bytes(s), META_THREAD);
	meta_unmap(s->stacks, STACKS_BYTES, META_THREAD);
	meta_unmap(s->pool, POOL_BYTES, META_THREAD);
	meta_unmap(s, sizeof(*s), META_THREAD);
}

static int take_and_write(struct snapshot *s, const char *prefix, int fd)
{
	int error = -ENOMEM;

	if (make_room(s) && world_prepare(&s->world) == 0) {
		if (prefix)
			keep_own(s);
		dl_iterate_phdr(with_loader_locked, s);
		world_free(&s->world);
		group(s);
		error = s->error && !prefix ? s->error : write_file(s, prefix, fd);
	}
	return error;
}

static int write_threads(const char *prefix, int fd, uint32_t *out_count,
			 uint64_t *out_pause_ns)
{
	struct snapshot *s = meta_map(sizeof(*s), META_THREAD);
	int error;

	*out_count = 0;
	*out_pause_ns = 0;
	if (!s)
		return -ENOMEM;
	thread_internal_enter();
	error = take_and_write(s, prefix, fd);
	thread_internal_leave();
	*out_count = s->nstacks;
	*out_pause_ns = s->pause_ns;
	give_back(s);
	return error;
}

int threadprof_write(const char *prefix, uint32_t *out_count)
{
	uint64_t pause_ns;

	return write_threads(prefix, -1, out_count, &pause_ns);
}

int threadprof_write_fd(int fd, uint32_t *out_count, uint64_t *out_pause_ns)
{
	return write_threads(NULL, fd, out_count, out_pause_ns);
}
