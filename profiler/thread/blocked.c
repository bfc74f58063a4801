/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocked: the fixpoint, see blocked.h.
 *
 * Rather silent than wrong: a thread that libc's registry does not know, a word that is
 * shared between processes, a robust or priority-inheriting mutex, a wait with a limit,
 * in a program with signal handlers a wait that these might end, and a word outside the
 * heap and the suspects' stacks all count as able to run. Pointers that only the kernel
 * holds for an epoll set are roots.
 */
#include "profiler/thread/blocked.h"

#include <link.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>

#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "profiler/stack/dynsym.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/thread.h"
#include "profiler/thread/blocked_int.h"
#include "profiler/thread/wakers.h"

#define COMMAND_MASK  0x7fu /* of a futex call, without its flags */
#define TOP_FRAMES    6	    /* the function lies among them */
#define LOCKED_WAITED 2	    /* value of a low-level lock with waiters */
/* Of pthread_mutex_t, fixed by the ABI. */
#define MUTEX_OWNER 8
#define MUTEX_KIND  16
#define KIND_PLAIN  (3 | 256 | 512) /* normal, recursive, checking, adaptive; elision */

struct function {
	uintptr_t start;
	size_t size;
};

/* Functions of libc whose waits no signal handler ends, a mutex's first. */
enum { MUTEX, CONDITION };
static const char *const restarting[] = {
	"pthread_mutex_lock",	 "pthread_cond_wait",	 "pthread_rwlock_rdlock",
	"pthread_rwlock_wrlock", "pthread_barrier_wait", "pthread_once"
};
static struct function functions[ARRAY_LEN(restarting)];
static struct function raw_call; /* syscall() */
static uintptr_t cancel;	 /* pthread_cancel() */

static int see_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t at;
	size_t bytes;

	(void)size;
	(void)arg;
	if (!dynsym_find(info, "gnu_get_libc_version", &at, &bytes))
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(restarting); i++)
		dynsym_find(info, restarting[i], &functions[i].start, &functions[i].size);
	dynsym_find(info, "syscall", &raw_call.start, &raw_call.size);
	dynsym_find(info, "pthread_cancel", &cancel, &bytes);
	return 0;
}

void blocked_prepare(void)
{
	loader_each(see_module, NULL);
	reach_prepare();
}

/* ---- suspects ---- */

static bool is_readable(uintptr_t addr)
{
	return os_call(SYS_rt_sigprocmask, -1, (long)(addr & ~(uintptr_t)7), 0, 8, 0,
		       0) != -14 /* EFAULT */;
}

static int read_int(uintptr_t addr)
{
	return *(const volatile int *)addr;
}

static bool is_in(const struct finder *f, uint32_t i, struct function in)
{
	const struct blocked_stack *s = &f->stacks[i];

	for (uint32_t k = 0; k < s->n && k < TOP_FRAMES; k++)
		if (s->pcs[k] - in.start < in.size)
			return true;
	return false;
}

static bool is_restarted(const struct finder *f, uint32_t i)
{
	for (size_t k = 0; k < ARRAY_LEN(restarting); k++)
		if (is_in(f, i, functions[k]))
			return true;
	return false;
}

/* The thread that t joins: in its descriptor, at the top of its stack, the word lies. The
 * kernel writes there at its end, so the word is not a private one. */
static const struct thread_info *joined_thread(const struct stopped_thread *w)
{
	const uintptr_t word = w->args[0];

	if (w->args[1] & FUTEX_PRIVATE_FLAG)
		return NULL;
	for (const struct thread_info *t = thread_list(); t; t = t->next)
		if (word >= t->self && word < t->stack_hi && t->self > t->stack_lo)
			return t;
	return NULL;
}

/* The word is that of a plain mutex with a holder: its tid, else 0. */
static int holder(const struct finder *f, uint32_t i)
{
	const struct stopped_thread *t = &f->w->threads[i];
	uintptr_t word = t->args[0];

	if ((t->args[1] & COMMAND_MASK) != FUTEX_WAIT ||
	    (uint32_t)t->args[2] != LOCKED_WAITED || !is_in(f, i, functions[MUTEX]) ||
	    !is_readable(word + MUTEX_KIND) ||
	    (read_int(word + MUTEX_KIND) & ~KIND_PLAIN) != 0)
		return 0;
	return read_int(word + MUTEX_OWNER);
}

/* Are there threads that libc does not know, whose end the kernel may tell any word? */
static bool has_strangers(const struct finder *f)
{
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (f->w->threads[i].tid && !f->stacks[i].info)
			return true;
	return false;
}

/*
 * No other process can wake it. libc says so of its own objects. Others do not always
 * (the C++ library's futures), but a word of the heap is in no other process either.
 */
static bool is_private(const struct finder *f, uint32_t i)
{
	const struct stopped_thread *t = &f->w->threads[i];

	return (t->args[1] & FUTEX_PRIVATE_FLAG) ||
	       (t->regs.ip - raw_call.start < raw_call.size &&
		heap_find(t->args[0], NULL) && !has_strangers(f));
}

static bool is_suspect(const struct finder *f, uint32_t i, enum wakers_handlers handlers)
{
	const struct stopped_thread *t = &f->w->threads[i];
	const struct thread_info *info = f->infos[i];
	uintptr_t op = t->args[1] & COMMAND_MASK;

	if (handlers == WAKERS_LEAVE || !t->captured || t->call != SYS_futex || !info ||
	    (op != FUTEX_WAIT && op != FUTEX_WAIT_BITSET) || t->args[3] != 0 ||
	    t->regs.sp < info->stack_lo || t->regs.sp >= info->stack_hi)
		return false;
	if (!joined_thread(t) &&
	    (!is_private(f, i) || (handlers != WAKERS_NO_HANDLER && !is_restarted(f, i))))
		return false;
	return is_readable(t->args[0]) && t->args[0] % 4 == 0 &&
	       (uint32_t)read_int(t->args[0]) == (uint32_t)t->args[2];
}

static uint32_t find_suspects(struct finder *f, enum wakers_handlers handlers)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		struct blocked *b = &f->out[i];
		const struct thread_info *joined;

		f->infos[i] = f->stacks[i].info;
		b->suspect = is_suspect(f, i, handlers);
		if (!b->suspect)
			continue;
		n++;
		b->word = f->w->threads[i].args[0];
		joined = joined_thread(&f->w->threads[i]);
		b->other = joined ? joined->tid : holder(f, i);
	}
	return n;
}

/* Is the wait one that pthread_cancel() ends? Whether the thread has forbidden it is not
 * looked at. */
static bool is_cancellable(const struct finder *f, uint32_t i)
{
	const struct stopped_thread *t = &f->w->threads[i];

	return !(is_restarted(f, i) && !is_in(f, i, functions[CONDITION])) &&
	       t->regs.ip - raw_call.start >= raw_call.size;
}

/* Those that could be cancelled, if anybody has their handles. True: there are some. */
static bool find_cancellable(struct finder *f)
{
	bool any = false, always = false;

	for (uint32_t i = 0; i < f->w->nthreads; i++)
		any |= f->ends[i] = f->out[i].suspect;
	if (!any || !wakers_names("pthread_cancel", cancel)) {
		memset(f->ends, 0, f->w->nthreads * sizeof(*f->ends));
		return false;
	}
	always = wakers_names("pthread_setcanceltype", cancel);
	any = false;
	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		f->ends[i] = f->ends[i] && (always || is_cancellable(f, i));
		any |= f->ends[i];
	}
	return any;
}

/* Index of a thread of the world, -1: no such thread. */
static int index_of(const struct finder *f, int tid)
{
	for (uint32_t i = 0; tid && i < f->w->nthreads; i++)
		if (f->w->threads[i].tid == tid)
			return (int)i;
	return -1;
}

/* ---- cycles ---- */

/* Follows who waits for whom from i; true: it comes back to i. */
static bool in_cycle(const struct finder *f, uint32_t start)
{
	int at = (int)start;

	for (uint32_t steps = 0; steps <= f->w->nthreads; steps++) {
		at = index_of(f, f->out[at].other);
		if (!blocked_waits(f, at))
			return false;
		if (at == (int)start)
			return true;
	}
	return false;
}

static void name_reasons(struct finder *f)
{
	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		struct blocked *b = &f->out[i];
		int other = index_of(f, b->other);

		if (!blocked_waits(f, (int)i))
			continue;
		if (in_cycle(f, i))
			b->why = BLOCKED_DEADLOCK;
		else if (other < 0)
			b->why = BLOCKED_LOST;
		else
			b->why = joined_thread(&f->w->threads[i]) ? BLOCKED_JOIN
								  : BLOCKED_HOLDER;
	}
}

static bool is_anybody_blocked(const struct finder *f)
{
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (blocked_waits(f, (int)i))
			return true;
	return false;
}

static void spread_cycles(struct finder *f)
{
	bool changed;

	do {
		changed = false;
		for (uint32_t i = 0; i < f->w->nthreads; i++) {
			int other = index_of(f, f->out[i].other);

			if (!blocked_waits(f, (int)i) ||
			    (blocked_waits(f, other) && !f->ends[i]))
				continue;
			f->live[i] = changed = true;
		}
	} while (changed);
}

/* Without a look at memory: all can run but those in cycles and those who wait for them.
 * The world stands still: what takes long is done only when there are any. */
static void find_cycles(struct finder *f)
{
	find_suspects(f, WAKERS_INTERRUPT);
	spread_cycles(f);
	if (!is_anybody_blocked(f) || wakers_handlers() == WAKERS_LEAVE)
		return;
	if (find_cancellable(f))
		spread_cycles(f);
	name_reasons(f);
}

/* ---- the lost ---- */

static bool can_run(struct finder *f, uint32_t i)
{
	int other = index_of(f, f->out[i].other);

	/* A holder that has ended cannot unlock, but others may, for all we know. */
	return other >= 0 ? !blocked_waits(f, other) : reach_word(f, &f->out[i]);
}

static void spread(struct finder *f)
{
	bool changed;

	do {
		changed = false;
		for (uint32_t i = 0; i < f->w->nthreads; i++) {
			if (!blocked_waits(f, (int)i) || !can_run(f, i))
				continue;
			reach_from(f, i);
			changed = true;
		}
	} while (changed);
}

static bool find_lost_once(struct finder *f)
{
	bool ok = reach_begin(f);

	if (ok) {
		spread(f);
		while (reach_more(f))
			spread(f);
		ok = !f->marker.out_of_memory;
	}
	reach_end(f);
	return ok;
}

/* Who seems to be lost is looked for once more, with what costs more time. */
static bool find_lost(struct finder *f)
{
	const struct world *w = f->w;

	if (find_suspects(f, wakers_handlers()) == 0)
		return true;
	for (uint32_t i = 0; i < w->nthreads; i++)
		f->unknown |= w->threads[i].tid &&
			      (!w->threads[i].captured || w->threads[i].signalled);
	f->unknown |= w->nmissed > 0;
	if (!find_lost_once(f))
		return false;
	if (!is_anybody_blocked(f))
		return true;
	find_cancellable(f);
	f->wide = true;
	memset(f->live, 0, w->nthreads * sizeof(*f->live));
	memset(f->found, 0, w->nthreads * sizeof(*f->found));
	if (!find_lost_once(f))
		return false;
	name_reasons(f);
	return true;
}

bool blocked_find(const struct blocked_world *in, struct blocked *out)
{
	const size_t n = in->w->nthreads;
	const size_t bytes = (n + 1) * (sizeof(void *) + 2 * sizeof(uint32_t) + 5);
	struct finder *f = meta_map(sizeof(*f) + bytes, META_THREAD);
	bool ok = true;

	memset(out, 0, n * sizeof(*out));
	if (!f)
		return false;
	f->in = in;
	f->w = in->w;
	f->stacks = in->stacks;
	f->out = out;
	f->infos = (const struct thread_info **)(f + 1);
	f->sought = (uint32_t *)(f->infos + n);
	f->handles = f->sought + n;
	f->live = (bool *)(f->handles + n);
	f->ends = f->live + n;
	f->known = f->ends + n;
	f->found = (uint8_t *)(f->known + n);
	f->before = f->found + n;
	if (in->memory)
		ok = find_lost(f);
	else
		find_cycles(f);
	meta_unmap(f, sizeof(*f) + bytes, META_THREAD);
	return ok;
}
