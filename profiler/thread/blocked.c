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

#include <dlfcn.h>
#include <link.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "profiler/leak/mark.h"
#include "profiler/leak/roots.h"
#include "profiler/stack/thread.h"
#include "profiler/thread/kernelrefs.h"

#define COMMAND_MASK  0x7fu /* of a futex call, without its flags */
#define RED_ZONE      128
#define TOP_FRAMES    6	   /* the function lies among them */
#define DESCRIPTOR    2304 /* bytes of libc's thread descriptor, or more */
#define LOCKED_WAITED 2	   /* value of a low-level lock with waiters */
/* Of pthread_mutex_t, fixed by the ABI. */
#define MUTEX_OWNER 8
#define MUTEX_KIND  16
#define KIND_PLAIN  (3 | 256 | 512) /* normal, recursive, checking, adaptive; elision */

struct function {
	uintptr_t start, size;
};

/* Functions of libc whose waits no signal handler ends, a mutex's first. */
static const char *const restarting[] = {
	"pthread_mutex_lock",	 "pthread_cond_wait",	 "pthread_rwlock_rdlock",
	"pthread_rwlock_wrlock", "pthread_barrier_wait", "pthread_once"
};
static struct function functions[ARRAY_LEN(restarting)];
static struct function raw_call; /* syscall() */

struct blocked_hooks blocked_hooks;

/* Where the main thread's first frame began. Owned by blocked_prepare(). */
static uintptr_t stack_end;

enum { FOUND_FRAMES = 1, FOUND_STORAGE = 2 };

struct finder {
	const struct world *w;
	const struct leak_exit *own;
	const struct blocked_stack *stacks;
	struct blocked *out;
	const struct thread_info **infos;
	bool *live;	  /* suspects: found able to run */
	uint8_t *found;	  /* suspects: FOUND_*: pointers into this one's stack */
	uint8_t *before;  /* what was found up to the last look */
	uint32_t *sought; /* suspects whose stacks are looked for, by address */
	uint32_t nsought;
	uintptr_t lo, hi; /* bounds of these stacks */
	struct marker marker;
	struct roots roots;
};

static struct function find_function(const char *name)
{
	void *p = dlsym(RTLD_DEFAULT, name);
	void *symbol = NULL;
	Dl_info info;

	if (!p || !dladdr1(p, &info, &symbol, RTLD_DL_SYMENT) || !symbol)
		return (struct function){ 0, 0 };
	return (struct function){ (uintptr_t)p, ((const ElfW(Sym) *)symbol)->st_size };
}

void blocked_prepare(void)
{
	for (size_t i = 0; i < ARRAY_LEN(restarting); i++)
		functions[i] = find_function(restarting[i]);
	raw_call = find_function("syscall");
	if (dlsym(RTLD_DEFAULT, "__libc_stack_end"))
		stack_end = *(uintptr_t *)dlsym(RTLD_DEFAULT, "__libc_stack_end");
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
	    (uint32_t)t->args[2] != LOCKED_WAITED || !is_in(f, i, functions[0]) ||
	    !is_readable(word + MUTEX_KIND) ||
	    (read_int(word + MUTEX_KIND) & ~KIND_PLAIN) != 0)
		return 0;
	return read_int(word + MUTEX_OWNER);
}

/* What has a handler that might end a wait. libc's own 32 and 33 do nothing of the kind;
 * a thread that waits raises no fault. */
static bool may_end_waits(int sig)
{
	struct {
		const void *handler;
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} act = { 0 };

	if (sig == 32 || sig == 33 || sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE ||
	    sig == SIGILL)
		return false;
	if (os_call(SYS_rt_sigaction, sig, 0, (long)&act, sizeof(act.mask), 0, 0) != 0)
		return true;
	return !blocked_hooks.is_own_handler ||
	       !blocked_hooks.is_own_handler(act.handler);
}

static bool see_handlers(char *line, void *arg)
{
	uint64_t caught = 0;
	bool *has = arg;

	if (strncmp(line, "SigCgt:", 7) != 0)
		return true;
	for (const char *p = line + 7; *p; p++)
		if (*p >= '0' && *p <= '9')
			caught = caught << 4 | (uint64_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			caught = caught << 4 | (uint64_t)(*p - 'a' + 10);
	*has = false;
	for (int sig = 1; sig <= 64; sig++)
		*has |= (caught >> (sig - 1) & 1) && may_end_waits(sig);
	return false;
}

static bool has_handlers(void)
{
	bool has = true;

	os_each_line("/proc/self/status", see_handlers, &has);
	return has;
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
		heap_find(t->args[0], NULL));
}

static bool is_suspect(const struct finder *f, uint32_t i, bool handlers)
{
	const struct stopped_thread *t = &f->w->threads[i];
	const struct thread_info *info = f->infos[i];
	uintptr_t op = t->args[1] & COMMAND_MASK;

	if (!t->captured || t->call != SYS_futex || !info ||
	    (op != FUTEX_WAIT && op != FUTEX_WAIT_BITSET) || t->args[3] != 0 ||
	    t->regs.sp < info->stack_lo || t->regs.sp >= info->stack_hi)
		return false;
	if (!joined_thread(t) && (!is_private(f, i) || (handlers && !is_restarted(f, i))))
		return false;
	return is_readable(t->args[0]) && t->args[0] % 4 == 0 &&
	       (uint32_t)read_int(t->args[0]) == (uint32_t)t->args[2];
}

static uint32_t find_suspects(struct finder *f)
{
	const bool handlers = has_handlers();
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

/* Index of a thread of the world, -1: no such thread. */
static int index_of(const struct finder *f, int tid)
{
	for (uint32_t i = 0; tid && i < f->w->nthreads; i++)
		if (f->w->threads[i].tid == tid)
			return (int)i;
	return -1;
}

static bool waits(const struct finder *f, int i)
{
	return i >= 0 && f->out[i].suspect && !f->live[i];
}

/* ---- cycles ---- */

/* Follows who waits for whom from i; true: it comes back to i. */
static bool in_cycle(const struct finder *f, uint32_t start)
{
	int at = (int)start;

	for (uint32_t steps = 0; steps <= f->w->nthreads; steps++) {
		at = index_of(f, f->out[at].other);
		if (!waits(f, at))
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

		if (!waits(f, (int)i))
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

/* Without a look at memory: all can run but those in cycles and those who wait for them.
 */
static void find_cycles(struct finder *f)
{
	bool changed;

	do {
		changed = false;
		for (uint32_t i = 0; i < f->w->nthreads; i++) {
			if (!waits(f, (int)i) || waits(f, index_of(f, f->out[i].other)))
				continue;
			f->live[i] = changed = true;
		}
	} while (changed);
	name_reasons(f);
}

/* ---- memory ---- */

static void mark_registers(struct finder *f, const struct stopped_thread *t)
{
	for (int k = 0; k < 16; k++)
		mark_word(&f->marker, t->gprs[k]);
	for (int k = 0; k < 32; k++)
		mark_word(&f->marker, t->xmm[k]);
}

static void mark_root(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct finder *f = arg;

	mark_range(&f->marker, lo, hi);
	mark_drain(&f->marker);
}

static void mark_kernel_ref(uintptr_t word, void *arg)
{
	struct finder *f = arg;

	mark_word(&f->marker, word);
	mark_drain(&f->marker);
}

static void live_stack(const struct finder *f, uint32_t i, uintptr_t *lo, uintptr_t *hi)
{
	*lo = align_down(f->w->threads[i].regs.sp - RED_ZONE, 8);
	*hi = f->infos[i]->stack_hi;
}

static void set_live(struct finder *f, uint32_t i)
{
	uintptr_t lo, hi;

	f->live[i] = true;
	live_stack(f, i, &lo, &hi);
	mark_registers(f, &f->w->threads[i]);
	mark_root(lo, hi, f);
}

/* Where the thread-local storage ends. A thread's own descriptor above it does not count,
 * since libc's lists and handles point there; nor do the environment and the arguments.
 */
static uintptr_t storage_top(const struct thread_info *t)
{
	if (t->self > t->stack_lo && t->self < t->stack_hi)
		return t->self;
	if (stack_end > t->stack_lo && stack_end < t->stack_hi)
		return stack_end;
	return t->stack_hi;
}

static uintptr_t frames_top(const struct thread_info *t)
{
	const uintptr_t top = storage_top(t);

	return t->frames_hi > t->stack_lo && t->frames_hi < top ? t->frames_hi : top;
}

/* The suspect in whose stack the word lies, -1: none. */
static int stack_of(const struct finder *f, uintptr_t word)
{
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (f->out[i].suspect && word >= f->infos[i]->stack_lo &&
		    word < f->infos[i]->stack_hi)
			return (int)i;
	return -1;
}

static bool is_marked(const struct finder *f, size_t bit)
{
	return mark_test(f->marker.live, bit) && !mark_test(f->marker.white, bit);
}

static bool is_found(const struct finder *f, int i, uintptr_t word)
{
	return f->found[i] &
	       (word < frames_top(f->infos[i]) ? FOUND_FRAMES : FOUND_STORAGE);
}

static bool is_reached(struct finder *f, struct blocked *b)
{
	uint32_t index;
	size_t bit;
	int in = stack_of(f, b->word);

	if (in >= 0)
		return f->live[in] || is_found(f, in, b->word);
	if (b->word - f->marker.lo >= f->marker.hi - f->marker.lo)
		return true; /* static data, a mapping: anybody can find it */
	b->freed = !mark_find(&f->marker, b->word, &index, &bit);
	return !b->freed && is_marked(f, bit);
}

static bool can_run(struct finder *f, uint32_t i)
{
	int other = index_of(f, f->out[i].other);

	/* A holder that has ended cannot unlock, but others may, for all we know. */
	return other >= 0 ? !waits(f, other) : is_reached(f, &f->out[i]);
}

static void spread(struct finder *f)
{
	bool changed;

	do {
		changed = false;
		for (uint32_t i = 0; i < f->w->nthreads; i++) {
			if (!waits(f, (int)i) || !can_run(f, i))
				continue;
			set_live(f, i);
			changed = true;
		}
	} while (changed);
}

/*
 * ---- pointers into stacks ----
 *
 * A stack that is pointed at from reached memory is reached memory itself: what lies in
 * it, and what it points at, can be found, even if its own thread never runs again. So is
 * the thread-local storage above it, by itself, since runtimes keep lists of that.
 */

/* The place among the sought of the stack that word lies in or above; -1: below all. */
static int stack_below(const struct finder *f, uintptr_t word)
{
	int lo = 0, hi = (int)f->nsought;

	while (lo < hi) {
		int middle = (lo + hi) / 2;

		if (f->infos[f->sought[middle]]->stack_lo <= word)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo - 1;
}

static void see_pointer(struct finder *f, uintptr_t word, uintptr_t at)
{
	int place = stack_below(f, word);
	uint32_t i = place >= 0 ? f->sought[place] : 0;
	const struct thread_info *t = f->infos[i];

	/* libc notes in the descriptor where the thread's first frame is. */
	if (place < 0 || at - t->self < DESCRIPTOR)
		return;
	if (word >= storage_top(t) || word < f->w->threads[i].regs.sp - RED_ZONE)
		return;
	f->found[i] |= word < frames_top(t) ? FOUND_FRAMES : FOUND_STORAGE;
}

static void look_for_stacks(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct finder *f = arg;

	for (lo = align_up(lo, 8); lo + 8 <= hi; lo += 8) {
		uintptr_t word = *(const volatile uintptr_t *)lo;

		if (UNLIKELY(word - f->lo < f->hi - f->lo))
			see_pointer(f, word, lo);
	}
}

static void look_in_objects(struct finder *f)
{
	for (size_t k = 0; k < f->marker.nspans; k++) {
		const struct mspan *s = f->marker.spans[k];

		for (uint32_t i = 0; i < s->nslots; i++) {
			uintptr_t base = s->slot_size ? mspan_slot(s, i) : s->base;

			if (is_marked(f, s->mark_index + i))
				look_for_stacks(base, base + mspan_slot_bytes(s), f);
		}
	}
}

static void look_kernel_ref(uintptr_t word, void *arg)
{
	look_for_stacks((uintptr_t)&word, (uintptr_t)(&word + 1), arg);
}

/* Those that still wait and that nobody is known to point at. False: none. */
static bool seek_stacks(struct finder *f)
{
	f->nsought = 0;
	f->lo = UINTPTR_MAX;
	f->hi = 0;
	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		const struct thread_info *t = f->infos[i];
		uint32_t at = f->nsought;

		if (!waits(f, (int)i) || f->found[i] == (FOUND_FRAMES | FOUND_STORAGE))
			continue;
		for (; at > 0 && f->infos[f->sought[at - 1]]->stack_lo > t->stack_lo;
		     at--)
			f->sought[at] = f->sought[at - 1];
		f->sought[at] = i;
		f->nsought++;
		if (t->stack_lo < f->lo)
			f->lo = t->stack_lo;
		if (t->stack_hi > f->hi)
			f->hi = t->stack_hi;
	}
	return f->nsought > 0;
}

/* What of a suspect's stack is reached. */
static void each_found(struct finder *f, uint32_t i,
		       void (*fn)(uintptr_t lo, uintptr_t hi, void *arg))
{
	uintptr_t lo, hi;

	live_stack(f, i, &lo, &hi);
	if (f->live[i]) {
		fn(lo, hi, f);
		return;
	}
	if (f->found[i] & FOUND_FRAMES)
		fn(lo, frames_top(f->infos[i]), f);
	if (f->found[i] & FOUND_STORAGE)
		fn(frames_top(f->infos[i]), storage_top(f->infos[i]), f);
}

static void look_everywhere(struct finder *f, int pid)
{
	roots_each(&f->roots, look_for_stacks, f);
	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		const struct stopped_thread *t = &f->w->threads[i];

		if (!waits(f, (int)i))
			look_for_stacks((uintptr_t)t->gprs, (uintptr_t)(t->gprs + 16), f);
		if (f->out[i].suspect)
			each_found(f, i, look_for_stacks);
	}
	look_for_stacks(f->own->saved_lo, f->own->saved_hi, f);
	look_in_objects(f);
	kernelrefs_each(pid, look_kernel_ref, f);
}

/* Marks from stacks that are found to be pointed at. False: there are no more. */
static bool find_stacks(struct finder *f, int pid)
{
	bool any = false;

	if (!seek_stacks(f))
		return false;
	memcpy(f->before, f->found, f->w->nthreads);
	look_everywhere(f, pid);
	for (uint32_t k = 0; k < f->nsought; k++) {
		const uint32_t i = f->sought[k];

		if (f->found[i] == f->before[i])
			continue;
		any = true;
		each_found(f, i, mark_root);
	}
	return any;
}

/* False: a root could not be read, so nobody may be called blocked. */
static bool mark_all(struct finder *f, int pid)
{
	f->marker.decodes = opt_get()->pointers;
	f->marker.ndecodes = opt_get()->npointers;
	/* The words themselves are noted there. */
	roots_exclude(&f->roots, (uintptr_t)f->out, (uintptr_t)(f->out + f->w->nthreads));
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (f->out[i].suspect)
			roots_exclude(&f->roots, f->infos[i]->stack_lo,
				      f->infos[i]->stack_hi);
	if (!roots_collect(&f->roots, f->w,
			   f->own->sp ? f->own->sp
				      : (uintptr_t)__builtin_frame_address(0)))
		return false;
	if (f->roots.no_maps || f->roots.full)
		return false;
	roots_each(&f->roots, mark_root, f);
	mark_root(f->own->saved_lo, f->own->saved_hi, f);
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (!f->out[i].suspect)
			mark_registers(f, &f->w->threads[i]);
	mark_drain(&f->marker);
	return kernelrefs_each(pid, mark_kernel_ref, f);
}

static bool find_lost(struct finder *f, int pid)
{
	bool ok;

	heap_index_large();
	ok = roots_init(&f->roots) && mark_init(&f->marker) && mark_all(f, pid);
	if (ok) {
		spread(f);
		while (find_stacks(f, pid))
			spread(f);
		ok = !f->marker.out_of_memory;
	}
	if (ok)
		name_reasons(f);
	mark_free(&f->marker);
	roots_close(&f->roots);
	roots_free(&f->roots);
	return ok;
}

bool blocked_find(const struct world *w, const struct blocked_stack *stacks,
		  const struct leak_exit *own, int pid, bool memory, struct blocked *out)
{
	const size_t bytes = (w->nthreads + 1) * (sizeof(void *) + sizeof(uint32_t) + 3);
	struct finder *f = meta_map(sizeof(*f) + bytes, META_THREAD);
	bool ok = true;

	memset(out, 0, w->nthreads * sizeof(*out));
	if (!f)
		return false;
	f->w = w;
	f->own = own;
	f->stacks = stacks;
	f->out = out;
	f->infos = (const struct thread_info **)(f + 1);
	f->sought = (uint32_t *)(f->infos + w->nthreads);
	f->live = (bool *)(f->sought + w->nthreads);
	f->found = (uint8_t *)(f->live + w->nthreads);
	f->before = f->found + w->nthreads;
	if (find_suspects(f) > 0) {
		if (memory)
			ok = find_lost(f, pid);
		else
			find_cycles(f);
	}
	meta_unmap(f, sizeof(*f) + bytes, META_THREAD);
	return ok;
}
