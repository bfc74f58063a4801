/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark_pool: several markers at once.
 *
 * Helpers are threads of this process that nobody else knows: made by clone, all signals
 * blocked as they are in the caller while the world stands, without thread-local storage
 * of their own. Work changes hands in chunks of a shared pool: whoever has plenty gives
 * when somebody is idle, and who is idle waits on a futex. Nobody waits for a worker that
 * has work, so one that the kernel does not let run holds up none but itself.
 *
 * Concurrency: the pool's lock is a spin lock that yields, held for the copy of a chunk.
 * All are done when the caller has nothing, every helper is idle and the pool is empty,
 * which is decided under that lock.
 *
 * Who has marked what travels in logs, see mark_log.c.
 *
 * Tried instead: each object belongs to one worker, and words travel to their owner. That
 * needs no atomic operations, but costs as much on two cores as they do, and on a busy
 * machine the workers wait for each other.
 */
#include <linux/futex.h>
#include <sched.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/filter.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/mark.h"
#include "profiler/stack/thread.h"

#define HELPER_STACK (64 * KIB)
#define HELPER_FLAGS                                                        \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | \
	 CLONE_SYSVSEM | CLONE_UNTRACED | CLONE_CHILD_CLEARTID)
#define CHUNK		  2048 /* objects that change hands at once */
#define CHUNKS		  MARK_WORKERS
#define OBJECTS_LEAST	  16	     /* on a stack that gives some away */
#define RANGE_LEAST	  (16 * KIB) /* of a range that is halved */
#define SPINS		  500
#define WORTH_A_HELPER	  (16u * MIB) /* of heap */
#define LOOK_AGAIN_NS	  2000000u    /* a wake-up cannot be lost for longer */
#define MAX_CPUS_IN_WORDS 16	      /* of the affinity mask */

struct mark_pool {
	uint32_t idle;	/* workers without work; written under lock, atomic */
	uint32_t count; /* of chunks; likewise */
	uint32_t lock __attribute__((aligned(CACHE_LINE)));
	uint32_t change; /* futex: any of the above has changed; atomic */
	uint32_t stop;	 /* atomic */
	struct {
		uint32_t used; /* 0: a range, in words[0] and words[1] */
		uintptr_t words[CHUNK];
	} chunks[CHUNKS]; /* guarded by lock */
};

static void pool_lock(struct mark_pool *pool)
{
	unsigned spins = 0;

	while (atomic_exchange_acquire(&pool->lock, 1u)) {
		if (++spins % SPINS == 0)
			os_yield();
		__builtin_ia32_pause();
	}
}

static void pool_unlock(struct mark_pool *pool)
{
	atomic_store_release(&pool->lock, 0u);
}

static void tell(struct mark_pool *pool)
{
	atomic_fetch_add_acq_rel(&pool->change, 1u);
	os_futex_wake(&pool->change, INT32_MAX);
}

static void wait_for_change(struct mark_pool *pool, uint32_t seen)
{
	for (unsigned i = 0; i < SPINS; i++) {
		if (atomic_load_acquire(&pool->change) != seen)
			return;
		__builtin_ia32_pause();
	}
	os_futex_wait(&pool->change, seen, LOOK_AGAIN_NS);
}

/* ---- giving and taking ---- */

unsigned mark_pool_idle(const struct mark_pool *pool)
{
	return atomic_load_relaxed(&pool->idle);
}

/* Half of the stack, at most a chunk: the older one, since what hangs on those is larger,
 * or of a large stack the newer, since that moves nothing. */
static bool give_objects(struct mark_worker *w, uintptr_t *words, uint32_t *out_used)
{
	size_t n = w->used / 2;
	uintptr_t *from = w->stack;

	if (n < OBJECTS_LEAST / 2)
		return false;
	if (n > CHUNK) {
		n = CHUNK;
		from += w->used - n;
	}
	memcpy(words, from, n * sizeof(*words));
	w->used -= n;
	if (from == w->stack)
		memmove(w->stack, w->stack + n, w->used * sizeof(*words));
	*out_used = (uint32_t)n;
	return true;
}

static bool give_range(struct mark_worker *w, uintptr_t *words, uint32_t *out_used)
{
	for (size_t i = 0; i < w->nranges; i++) {
		struct grey *g = &w->ranges[i];
		uintptr_t middle = align_down(g->lo + (g->hi - g->lo) / 2, CACHE_LINE);

		if (g->hi - g->lo < RANGE_LEAST)
			continue;
		words[0] = middle;
		words[1] = g->hi;
		g->hi = middle;
		*out_used = 0;
		return true;
	}
	return false;
}

void mark_pool_donate(struct mark_worker *w)
{
	struct mark_pool *pool = w->m->pool;
	bool given = false;
	uint32_t at;

	if ((w->used < OBJECTS_LEAST && w->nranges == 0) ||
	    atomic_load_relaxed(&pool->count) >= atomic_load_relaxed(&pool->idle))
		return;
	pool_lock(pool);
	at = pool->count;
	if (at < CHUNKS && pool->idle > at)
		given = give_range(w, pool->chunks[at].words, &pool->chunks[at].used) ||
			give_objects(w, pool->chunks[at].words, &pool->chunks[at].used);
	if (given)
		atomic_store_relaxed(&pool->count, at + 1);
	pool_unlock(pool);
	if (given)
		tell(pool);
}

/* With the lock held, into a worker that has nothing. */
static bool take_locked(struct mark_worker *w)
{
	struct mark_pool *pool = w->m->pool;
	uint32_t at = pool->count, used;

	if (at == 0)
		return false;
	at--;
	used = pool->chunks[at].used;
	if (used == 0)
		w->ranges[w->nranges++] = (struct grey){ pool->chunks[at].words[0],
							 pool->chunks[at].words[1] };
	else
		memcpy(w->stack + w->used, pool->chunks[at].words,
		       used * sizeof(uintptr_t));
	w->used += used;
	atomic_store_relaxed(&pool->count, at);
	return true;
}

static void add_idle(struct mark_pool *pool, uint32_t by)
{
	pool_lock(pool);
	atomic_store_relaxed(&pool->idle, pool->idle + by);
	pool_unlock(pool);
}

/* w, counted as idle, waits for work, and is idle no more. helpers: 0, or how many idle
 * ones make an end of it (false). */
static bool await_work(struct mark_worker *w, uint32_t helpers)
{
	struct mark_pool *pool = w->m->pool;

	for (;;) {
		uint32_t seen = atomic_load_acquire(&pool->change);
		bool taken, finished;

		pool_lock(pool);
		taken = take_locked(w);
		finished = !taken && helpers && pool->idle == helpers + 1;
		if (taken || finished)
			atomic_store_relaxed(&pool->idle, pool->idle - 1);
		pool_unlock(pool);
		if (taken || finished)
			return taken;
		if (atomic_load_acquire(&pool->stop))
			return false;
		wait_for_change(pool, seen);
	}
}

bool mark_pool_await(struct mark_worker *w)
{
	add_idle(w->m->pool, 1u);
	return await_work(w, w->m->nworkers - 1);
}

/* ---- helpers ---- */

/* The thread ends in it: a sanitizer would go on to guard its variables, wherever the
 * stack is used again. */
static __attribute__((noreturn, no_sanitize("address"))) int helper_main(void *arg)
{
	struct mark_worker *w = arg;
	struct mark_pool *pool = w->m->pool;

	while (await_work(w, 0)) { /* idle from the beginning */
		mark_work(w);
		add_idle(pool, 1u);
		tell(pool);
	}
	if (!os_is_refused(SYS_exit, 0))
		os_call_unasked(SYS_exit, 0, 0, 0, 0, 0, 0);
	/* A filter refused it: it sleeps for ever, on the stack that it has. */
	w->stays = true;
	atomic_store_release(&w->tid, 0u);
	os_call(SYS_futex, (long)&w->tid, FUTEX_WAKE, 1, 0, 0, 0);
	for (;;)
		os_call(SYS_pause, 0, 0, 0, 0, 0, 0);
}

static bool start_one(struct marker *m)
{
	struct mark_worker *w = &m->workers[m->nworkers];

	w->thread_stack = meta_map(HELPER_STACK, META_LEAK);
	w->tid = 1;
	if (w->thread_stack && mark_worker_init(m, w) && mark_log_init(w)) {
		add_idle(m->pool, 1u);
		m->nworkers++;
		if (clone(helper_main, w->thread_stack + HELPER_STACK, HELPER_FLAGS, w,
			  NULL, NULL, &w->tid) > 0)
			return true;
		m->nworkers--;
		add_idle(m->pool, UINT32_MAX);
	}
	if (w->m)
		mark_log_free(w);
	mark_worker_free(w);
	meta_unmap(w->thread_stack, HELPER_STACK, META_LEAK);
	memset(w, 0, sizeof(*w));
	return false;
}

static void free_pool(struct marker *m)
{
	mark_log_free(&m->workers[0]);
	meta_unmap(m->pool, sizeof(*m->pool), META_LEAK);
	m->pool = NULL;
}

void mark_start_helpers(struct marker *m, unsigned n)
{
	if (n == 0 || m->ndecodes > 0 || os_is_refused(SYS_clone, HELPER_FLAGS))
		return;
	m->pool = meta_map(sizeof(*m->pool), META_LEAK);
	if (m->pool && mark_log_init(&m->workers[0]))
		while (m->nworkers <= n && m->nworkers < MARK_WORKERS && start_one(m))
			;
	if (m->nworkers == 1)
		free_pool(m);
}

/* The kernel wakes whoever waits for the address as any process might. */
static void await_end(const struct mark_worker *w)
{
	uint32_t tid;

	while ((tid = atomic_load_acquire(&w->tid)) != 0)
		os_call(SYS_futex, (long)&w->tid, FUTEX_WAIT, tid, 0, 0, 0);
}

void mark_stop_helpers(struct marker *m)
{
	if (!m->pool)
		return;
	atomic_store_release(&m->pool->stop, 1u);
	tell(m->pool);
	for (; m->nworkers > 1; m->nworkers--) {
		struct mark_worker *w = &m->workers[m->nworkers - 1];

		await_end(w);
		m->workers[0].objects += w->objects;
		m->workers[0].bytes += w->bytes;
		mark_log_free(w);
		mark_worker_free(w);
		if (!w->stays)
			meta_unmap(w->thread_stack, HELPER_STACK, META_LEAK);
		memset(w, 0, sizeof(*w));
	}
	free_pool(m);
}

/* A line with a mask in hexadecimal. */
static bool see_allowed(char *line, void *arg)
{
	static const char key[] = "Cpus_allowed:";
	size_t *cpus = arg;

	if (strncmp(line, key, sizeof(key) - 1) != 0)
		return true;
	for (const char *p = line + sizeof(key) - 1; *p; p++) {
		unsigned digit = (unsigned)(*p >= 'a' ? *p - 'a' + 10 : *p - '0');

		*cpus += digit < 16 ? (size_t)__builtin_popcount(digit) : 0;
	}
	return false;
}

/* Processors that we may run on. */
static size_t allowed_cpus(void)
{
	uint64_t mask[MAX_CPUS_IN_WORDS] = { 0 };
	size_t cpus = 0;

	if (filter_from_before()) {
		os_each_line("/proc/thread-self/status", see_allowed, &cpus);
		return cpus;
	}
	os_call(SYS_sched_getaffinity, 0, sizeof(mask), (long)mask, 0, 0, 0);
	for (unsigned i = 0; i < MAX_CPUS_IN_WORDS; i++)
		cpus += (size_t)__builtin_popcountll(mask[i]);
	return cpus;
}

unsigned mark_useful_helpers(const struct marker *m)
{
	size_t cpus, most = m->heap_bytes / WORTH_A_HELPER;

	/* A filter for a program that has one thread need not let it make others. */
	if (most == 0 || (filter_from_before() && !atomic_load_relaxed(&thread_are_many)))
		return 0;
	cpus = allowed_cpus();
	cpus = cpus > 0 ? cpus - 1 : 0;
	return (unsigned)(cpus < most ? cpus : most);
}
