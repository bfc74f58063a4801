/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot: see snapshot.h.
 */
#include "profiler/thread/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/tls.h"
#include "profiler/leak/hidden.h"
#include "profiler/leak/stop.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"
#include "profiler/thread/inflight.h"

#define MAX_THREADS	   (STOP_MAX_THREADS + 1)
#define LG_TIDS		   16
#define TIDS		   (1u << LG_TIDS)
#define MAX_ENDED	   4096
#define POOL_PCS	   ((size_t)1 << 20) /* of all stacks together; touched as needed */
#define MAX_MAPPINGS	   65536	     /* of the process */
#define MAPPINGS_BYTES	   (MAX_MAPPINGS * sizeof(struct root_range))
#define PATIENCE_NS	   2000000000u
#define SWITCHES_OF_A_STOP 2 /* into it, and back to wait */
#define POOL_BYTES	   (POOL_PCS * sizeof(uintptr_t))

struct clock {
	int tid;
	uint64_t ran_ns, switches;
};

/* What the snapshot process tells us; memory that both share. */
struct verdicts {
	uint32_t done; /* atomic: 1 when list is whole */
	struct blocked list[STOP_MAX_THREADS];
};

struct taking {
	struct thread_snapshot s; /* first: freed through it */
	struct world world;
	struct clock *clocks;
	uint32_t nclocks;
	struct blocked_stack *stacks; /* of world.threads */
	struct thread_info **by_tid;  /* hashed; linear probing */
	struct verdicts *verdicts;
	uintptr_t *pool;
	size_t used;
	struct frame *frames; /* room for one stack */
	int max_frames;
	int pid, judge; /* the program; the snapshot process, 0: none */
	enum thread_judge how;
	struct leak_exit own; /* of the calling thread */
	struct inflight *inflight;
	struct origin origin;
	struct root_range *mappings; /* the judge's, as it begins */
	size_t nmappings;
	int error;
};

/* ---- stacks ---- */

/* A stack for which the pool has no room left ends early. */
static struct thread_record *keep(struct taking *t, int n, bool precise)
{
	struct thread_record *r = &t->s.threads[t->s.nthreads++];
	uintptr_t *pcs = t->pool + t->used;

	r->precise = precise;
	r->pcs = pcs;
	r->call = -1;
	for (int i = 0; i < n && t->used < POOL_PCS; i++) {
		pcs[i] = t->frames[i].pc;
		r->hash = (r->hash ^ (uint32_t)pcs[i]) * 0x9e3779b1u;
		r->nframes++;
		t->used++;
	}
	if (r->nframes > 0 && r->nframes < (uint32_t)n)
		pcs[r->nframes - 1] = FRAME_TRUNCATED_PC;
	return r;
}

static uint32_t tid_slot(int tid)
{
	return (uint32_t)tid * 0x9e3779b1u >> (32 - LG_TIDS);
}

static void index_tids(struct taking *t)
{
	uint32_t n = 0;

	for (struct thread_info *i = thread_list(); i; i = i->next) {
		uint32_t slot = tid_slot(i->tid);

		if (i->state != THREAD_RUNNING || n++ == TIDS / 2)
			continue;
		while (t->by_tid[slot])
			slot = (slot + 1) % TIDS;
		t->by_tid[slot] = i;
	}
}

static struct thread_info *find_tid(const struct taking *t, int tid)
{
	uint32_t slot = tid_slot(tid);

	while (t->by_tid[slot] && t->by_tid[slot]->tid != tid)
		slot = (slot + 1) % TIDS;
	return t->by_tid[slot];
}

static const struct clock *clock_of(const struct taking *t, int tid)
{
	/* Both lists are in the order of /proc: the place is the last one's next. */
	for (uint32_t i = 0; i < t->nclocks; i++) {
		const struct clock *c = &t->clocks[(i + t->s.nthreads) % t->nclocks];

		if (c->tid == tid)
			return c;
	}
	return NULL;
}

/* Since when it waits, on the scheduler's clock. A stop makes it run and wait again;
 * where that is all that has happened since the last one, it has waited since before
 * that. */
static uint64_t waits_since(const struct taking *t, const struct stopped_thread *st,
			    struct thread_info *info)
{
	const struct clock *c = st->call >= 0 ? clock_of(t, st->tid) : NULL;
	struct thread_wait *w = info ? &info->wait : NULL;
	uint64_t since_ns = c ? c->ran_ns : 0;

	if (!w)
		return since_ns;
	if (since_ns && w->since_ns && w->sp == st->regs.sp && w->call == st->call &&
	    c->switches - w->switches <= w->excused)
		since_ns = w->since_ns;
	*w = (struct thread_wait){ since_ns, c ? c->switches : 0, st->regs.sp, st->call,
				   SWITCHES_OF_A_STOP };
	return since_ns;
}

static void walk_one(struct taking *t, uint32_t i)
{
	const struct stopped_thread *st = &t->world.threads[i];
	struct thread_info *info = find_tid(t, st->tid);
	enum unwind_end end;
	struct thread_record *r;

	r = keep(t,
		 unwind_regs(&st->regs, info ? info->stack_lo : 0,
			     info ? info->stack_hi : 0, t->frames, t->max_frames, &end),
		 true);
	r->tid = st->tid;
	r->call = st->call;
	r->creator_site = info ? info->creator_site : 0;
	r->wait_ns = waits_since(t, st, info);
	t->stacks[i] = (struct blocked_stack){ info, r->pcs, r->nframes };
}

static void note_ended(struct taking *t)
{
	for (const struct thread_info *i = thread_list(); i; i = i->next)
		if (i->state == THREAD_FINISHED && !i->released &&
		    t->s.nended < MAX_ENDED)
			t->s.ended[t->s.nended++] =
				(struct ended_thread){ i->tid, i->creator_site,
						       i->stack_hi - i->stack_lo };
}

/* ---- verdicts ---- */

static bool judge(struct taking *t, bool memory)
{
	const struct blocked_world in = { .w = &t->world,
					  .stacks = t->stacks,
					  .own = &t->own,
					  .inflight = t->inflight,
					  .origin = t->origin,
					  .mappings = t->mappings,
					  .nmappings = t->nmappings,
					  .pid = t->pid,
					  .memory = memory };

	return blocked_find(&in, t->verdicts->list);
}

static bool see_mapping(char *line, void *arg)
{
	struct taking *t = arg;
	struct os_mapping m;

	if (os_parse_mapping(line, &m) && t->nmappings < MAX_MAPPINGS)
		t->mappings[t->nmappings++] = (struct root_range){ m.lo, m.hi };
	return true;
}

static __attribute__((noreturn)) void judge_main(struct taking *t)
{
	bool ok;

	world_hurry_no_more();
	os_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);
	os_call(SYS_setpriority, PRIO_PROCESS, 0, 10, 0, 0, 0);
	ok = os_each_line("/proc/thread-self/maps", see_mapping, t) == 0 &&
	     judge(t, true);
	atomic_store_release(&t->verdicts->done, (uint32_t)ok);
	os_exit_group(0);
}

/* Without a process to spare: what can be seen at once. */
static void judge_here(struct taking *t)
{
	t->judge = 0;
	judge(t, false);
	atomic_store_release(&t->verdicts->done,
			     (uint32_t)(t->how != THREAD_JUDGE_MEMORY));
}

static void start_judge(struct taking *t)
{
	if (t->how != THREAD_JUDGE_MEMORY) {
		judge_here(t);
		return;
	}
	inflight_take(t->inflight);
	/* No exit signal: the program cannot wait for it and hears nothing of its end. */
	t->judge = (int)os_call(SYS_clone, 0, 0, 0, 0, 0, 0);
	if (t->judge == 0)
		judge_main(t);
	if (t->judge < 0)
		judge_here(t);
}

/* Reads what the thread waits in: "202 0x7f..", or "running". False: it has ended. */
static bool read_call(const struct taking *t, int tid, char *text, size_t size)
{
	char path[64];
	long n;
	int fd;

	fmt_string(path, sizeof(path), "/proc/%d/task/%d/syscall", t->pid, tid);
	fd = os_open(path, O_RDONLY, 0);
	n = fd;
	if (fd >= 0) {
		n = os_read(fd, text, size - 1);
		os_close(fd);
	}
	text[n > 0 ? n : 0] = '\0';
	return n != -ENOENT && n != -ESRCH;
}

/* The program has run on meanwhile: does the thread still wait where it did? The stop has
 * made it run, too, until it comes to wait again. */
static bool waits_still(const struct taking *t, const struct stopped_thread *st)
{
	const uint64_t deadline = os_now_ns() + PATIENCE_NS;
	char text[256], same[64];

	fmt_string(same, sizeof(same), "%d 0x%lx ", st->call, (unsigned long)st->args[0]);
	do {
		if (!read_call(t, st->tid, text, sizeof(text)))
			return false;
		if (strncmp(text, "running", 7) != 0)
			break;
		os_yield();
	} while (os_now_ns() < deadline);
	return !text[0] || strncmp(text, same, strlen(same)) == 0;
}

static void hear_judge(struct taking *t)
{
	uint32_t at = 0;

	if (t->judge > 0)
		while (os_call(SYS_wait4, t->judge, 0, __WALL, 0, 0, 0) == -EINTR)
			;
	t->s.only_cycles = t->how == THREAD_JUDGE_CYCLES;
	t->s.judged = atomic_load_acquire(&t->verdicts->done) == 1;
	for (uint32_t i = 0; i < t->world.nthreads; i++) {
		struct blocked *b = &t->verdicts->list[i];

		if (!t->world.threads[i].captured)
			continue;
		if (b->why && !waits_still(t, &t->world.threads[i]))
			b->why = BLOCKED_NOT;
		t->s.threads[at].blocked = *b;
		at++;
	}
}

/* ---- the stop ---- */

static NO_LOCK_CHECK int with_loader_locked(struct dl_phdr_info *info, size_t size,
					    void *arg)
{
	struct taking *t = arg;
	uint64_t start;

	(void)info;
	(void)size;
	world_list(&t->world);
	start = os_now_ns();
	thread_lock();
	heap_lock_all();
	sample_pool_fork_prepare();
	meta_fork_prepare();
	world_hurry(); /* not before: who holds a lock must come to run */
	t->error = world_stop(&t->world);
	meta_fork_done(false);
	sample_pool_fork_done(false);
	if (t->error == 0) {
		index_tids(t);
		for (uint32_t i = 0; i < t->world.nthreads; i++)
			if (t->world.threads[i].captured)
				walk_one(t, i);
		note_ended(t);
		start_judge(t);
	}
	world_resume(&t->world);
	t->s.pause_ns = os_now_ns() - start;
	world_hurry_no_more();
	heap_unlock_all();
	thread_unlock();
	return 1;
}

/* Before they all run because of us. */
static void read_clocks(struct taking *t)
{
	t->nclocks = world_list(&t->world);
	for (uint32_t i = 0; i < t->nclocks; i++) {
		int tid = t->world.threads[i].tid;

		t->clocks[i].tid = tid;
		t->clocks[i].ran_ns = state_ran_ns(t->pid, tid, &t->clocks[i].switches);
	}
}

static void finish(struct taking *t, uint64_t now_ns)
{
	for (uint32_t i = 0; i < t->s.nthreads; i++) {
		struct thread_record *r = &t->s.threads[i];

		r->wait_ns = r->wait_ns && now_ns > r->wait_ns ? now_ns - r->wait_ns : 0;
		state_name(t->pid, r->tid, r->name);
	}
	t->s.nmissed = t->world.nmissed;
}

/* The caller's own stack, last, so that the others' places are those of the world. */
static void keep_own(struct taking *t, const struct unwind_regs *regs)
{
	const struct thread_info *own = seep_tls.thread;
	enum unwind_end end;
	struct thread_record *r;
	int n;

	if (regs)
		n = unwind_regs(regs, own ? own->stack_lo : 0, own ? own->stack_hi : 0,
				t->frames, t->max_frames, &end);
	else
		n = unwind_here(t->frames, t->max_frames, &end);
	r = keep(t, n, regs != NULL);
	r->tid = os_gettid();
}

/* ---- memory ---- */

static size_t frames_bytes(const struct taking *t)
{
	return (size_t)t->max_frames * sizeof(struct frame);
}

static bool make_room(struct taking *t)
{
	t->max_frames = (int)opt_get()->stack + 1;
	t->frames = meta_map(frames_bytes(t), META_THREAD);
	t->s.threads = meta_map(MAX_THREADS * sizeof(*t->s.threads), META_THREAD);
	t->s.ended = meta_map(MAX_ENDED * sizeof(*t->s.ended), META_THREAD);
	t->stacks = meta_map(MAX_THREADS * sizeof(*t->stacks), META_THREAD);
	t->clocks = meta_map(MAX_THREADS * sizeof(*t->clocks), META_THREAD);
	t->by_tid = meta_map(TIDS * sizeof(*t->by_tid), META_THREAD);
	t->pool = meta_map(POOL_BYTES, META_THREAD);
	t->verdicts = meta_map_shared(sizeof(*t->verdicts), META_THREAD);
	return t->frames && t->s.threads && t->s.ended && t->stacks && t->clocks &&
	       t->by_tid && t->pool && t->verdicts;
}

void thread_snapshot_free(struct thread_snapshot *s)
{
	struct taking *t = (struct taking *)s;

	meta_unmap(t->frames, frames_bytes(t), META_THREAD);
	meta_unmap(t->s.threads, MAX_THREADS * sizeof(*t->s.threads), META_THREAD);
	meta_unmap(t->s.ended, MAX_ENDED * sizeof(*t->s.ended), META_THREAD);
	meta_unmap(t->stacks, MAX_THREADS * sizeof(*t->stacks), META_THREAD);
	meta_unmap(t->clocks, MAX_THREADS * sizeof(*t->clocks), META_THREAD);
	meta_unmap(t->by_tid, TIDS * sizeof(*t->by_tid), META_THREAD);
	meta_unmap(t->pool, POOL_BYTES, META_THREAD);
	meta_unmap(t->verdicts, sizeof(*t->verdicts), META_THREAD);
	inflight_free(t->inflight);
	meta_unmap(t->mappings, MAPPINGS_BYTES, META_THREAD);
	hidden_close(&t->origin);
	meta_unmap(t, sizeof(*t), META_THREAD);
}

/* What a copy of the process could not ask for any more. */
static bool prepare_judge(struct taking *t)
{
	t->inflight = inflight_new(t->pid);
	t->mappings = meta_map(MAPPINGS_BYTES, META_THREAD);
	hidden_open(&t->origin);
	return t->inflight && t->mappings;
}

int thread_snapshot_take(struct thread_snapshot **out, bool own,
			 const struct unwind_regs *regs, enum thread_judge how)
{
	struct taking *t = meta_map(sizeof(*t), META_THREAD);
	uint64_t now_ns;

	*out = NULL;
	if (!t)
		return -ENOMEM;
	t->pid = os_getpid();
	t->how = how;
	t->origin = (struct origin){ .maps = -1, .memory = -1, .smaps = -1 };
	if (!make_room(t) || (how == THREAD_JUDGE_MEMORY && !prepare_judge(t)) ||
	    world_prepare(&t->world) != 0) {
		thread_snapshot_free(&t->s);
		return -ENOMEM;
	}
	blocked_prepare();
	if (own && !regs)
		leak_find_exit(&t->own);
	now_ns = state_now_ns();
	read_clocks(t);
	loader_with_lock(with_loader_locked, t);
	if (t->error == 0)
		hear_judge(t);
	if (own)
		keep_own(t, regs);
	finish(t, now_ns);
	world_free(&t->world);
	if (t->error && !own) {
		int error = t->error;

		thread_snapshot_free(&t->s);
		return error;
	}
	*out = &t->s;
	return 0;
}
