/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Incremental captures against full walks: capture SEED COUNT THREADS PLUGIN PLUGIN...
 *
 * Threads run at random through frames of many shapes: recursion, alloca, longjmp, C++
 * exceptions, coroutines that go on in other threads, signals on an alternate stack, and
 * plugins that are closed and opened. At random points each captures its stack and
 * compares it, frame by frame, with a walk that remembers nothing; a part also with
 * libgcc's. Prints what was done and "differences 0"; the status is 1 if there were any.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unwind.h>

#include "preload/base/opt.h"
#include "profiler/site/capture.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/trail.h"
#include "profiler/stack/trail_fast.h"
#include "profiler/stack/unwind.h"
#include "tests/stress/shapes.h"

#define MAX_FRAMES 20000
#define MAX_SITE   151 /* option stack=, and "[truncated]" */
#define DEPTH	   14
#define DEEP	   900
#define ROUTINES   12
#define WAYS	   5
#define STACK_SIZE ((size_t)512 * 1024)
#define HOLD	   100 /* frames of the harness between two captures of one place */

enum what {
	CAPTURES,
	INCREMENTAL,
	BY_NODE,
	TRUNCATED,
	SIGNALS,
	THROWN,
	JUMPED,
	SWITCHED,
	MIGRATED,
	CLOSED,
	FORGOTTEN,
	WITH_LIBGCC,
	DIFFERENCES,
	WHATS
};
static const char *const names[WHATS] = { "captures",	"incremental", "nodes",
					  "truncated",	"signals",     "thrown",
					  "longjmps",	"switches",    "migrations",
					  "dlcloses",	"forgotten",   "libgcc",
					  "differences" };

struct routine {
	ucontext_t context;
	ucontext_t *back;
	struct walker walker;
	int started;
	pthread_t last;
};

shape_fn *plain_shape(unsigned i);
shape_fn *pointer_shape(unsigned i);
shape_fn *slow_shape(unsigned i);

static struct {
	uint64_t count[WHATS]; /* atomic */
	uint64_t target;
	pthread_mutex_t lock;
	struct routine *idle[ROUTINES];
	int nidle;
} test = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread struct frame *full;
static __thread uintptr_t *theirs, *site_pcs;
static __thread int signal_seed;

static uint64_t add(enum what what)
{
	return __atomic_add_fetch(&test.count[what], 1, __ATOMIC_RELAXED);
}

static int done(void)
{
	return __atomic_load_n(&test.count[CAPTURES], __ATOMIC_RELAXED) >= test.target;
}

static uint32_t draw(struct walker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 17;
	w->random ^= w->random << 5;
	return w->random;
}

/* ---- comparing ---- */

static void differ(const char *how, int i, int n, const struct capture *c)
{
	if (add(DIFFERENCES) > 5)
		return;
	printf("%s: frame %d of %d; %u in the trail\n", how, i, n,
	       c->trail ? c->trail->count : 0);
	for (int k = 0; k < n && k < i + 4; k++)
		printf("  %3d full %#lx at %#lx, captured %#lx\n", k, (long)full[k].pc,
		       (long)full[k].slot, (long)site_pcs[k + 1]);
}

/* The site's frames from the caller of check() outwards: full[1], full[2] ... */
static void compare_site(const struct capture *c, int n)
{
	int count = site_stack(c->site, site_pcs, MAX_FRAMES), at = 1;

	while (at < 5 && site_pcs[at] != full[1].pc)
		at++;
	for (int i = 1; i < n; i++, at++) {
		if (at < count && site_pcs[at] == full[i].pc)
			continue;
		if (at == count - 1 && site_pcs[at] == FRAME_TRUNCATED_PC &&
		    c->truncated && count > MAX_SITE / 2) /* see trail.h */
			add(TRUNCATED);
		else
			differ("site", i, n, c);
		return;
	}
	if (at != count || c->truncated)
		differ("length", n, n, c);
}

/* The trail's places: check()'s frame is the last one. Of a stack that is cut, only
 * the frames of its site are compared at a capture; those further out may be of another
 * day. */
static void compare_trail(const struct capture *c, int n)
{
	const struct trail *t = c->trail;
	const struct trail_place *f = &t->places[t->count - 1];
	int base = (int)t->frames[t->count - 1].base;

	add(INCREMENTAL);
	if (base == 0 && (t->rootless || t->count != (uint32_t)n)) {
		differ("count", n, n, c);
		return;
	}
	for (int i = 1; i < n && (int)t->count - 1 - i >= base; i++)
		if (f[-i].slot != full[i].slot || f[-i].pc != full[i].pc) {
			differ("trail", i, n, c);
			return;
		}
}

struct collected {
	int n;
};

static _Unwind_Reason_Code collect(struct _Unwind_Context *context, void *arg)
{
	struct collected *o = arg;

	if (o->n == MAX_FRAMES || _Unwind_GetIP(context) == 0)
		return _URC_END_OF_STACK;
	theirs[o->n++] = _Unwind_GetIP(context);
	return _URC_NO_REASON;
}

static void compare_libgcc(const struct capture *c, int n)
{
	struct collected o = { 0 };
	int k = 0;

	add(WITH_LIBGCC);
	_Unwind_Backtrace(collect, &o);
	while (k < o.n && theirs[k] != full[1].pc)
		k++;
	for (int i = 1; i < n; i++, k++)
		if (k >= o.n || theirs[k] != full[i].pc) {
			differ("libgcc", i, n, c);
			return;
		}
}

/* As exact mode captures, by the node alone; seldom somebody asks for the trail, too. */
static __attribute__((noinline)) bool take_node(struct capture *out, bool with_trail)
{
	struct trail_found found = trail_capture_node(__builtin_frame_address(0));

	if (found.node == 0)
		return false;
	add(BY_NODE);
	if (found.number == 0) {
		if (found.node == TRAIL_UNKNOWN)
			found.node = capture_site(trail_latest());
		found.number = found.node;
		trail_set_latest(found);
	}
	out->site = found.number; /* it comes back for the same node only */
	out->trail = with_trail ? trail_latest() : NULL;
	out->truncated = with_trail && trail_is_cut(out->trail);
	return found.node == found.number;
}

static __attribute__((noinline)) bool take(struct capture *out, uint32_t how)
{
	bool ok;

	if ((how >> 5) % 32 == 3) { /* nothing to reuse */
		trail_thread_forget();
		add(FORGOTTEN);
	}
	ok = how % 4 != 0 && take_node(out, how % 32 == 1);
	__asm__ volatile("" ::"r"(__builtin_frame_address(0))); /* makes it have one */
	return ok;
}

static __attribute__((noinline)) void check(const struct walker *w)
{
	struct capture c;
	enum unwind_end end;
	int n;

	if (!full) {
		full = calloc(MAX_FRAMES, sizeof(*full));
		theirs = calloc(MAX_FRAMES, sizeof(*theirs));
		site_pcs = calloc(MAX_FRAMES + 8, sizeof(*site_pcs));
	}
	if (!take(&c, w->noise >> 8) && !capture_here(&c)) {
		differ("nothing", 0, 0, &c);
		return;
	}
	n = unwind_here(full, MAX_FRAMES, &end);
	if (n < 3 || end != UNWIND_COMPLETE)
		differ("full walk", 0, n, &c);
	compare_site(&c, n);
	if (c.trail)
		compare_trail(&c, n);
	if (w->random % 64 == 11)
		compare_libgcc(&c, n);
	add(CAPTURES);
}

/* ---- walking at random ---- */

static void next(struct walker *w, int depth);

static void on_signal(int sig)
{
	struct walker w = { .next = next,
			    .random = (uint32_t)(++signal_seed * 40503 + 7) };

	(void)sig;
	w.on_signal = 1;
	add(SIGNALS);
	next(&w, 6);
}

static void in_routine(unsigned lo, unsigned hi)
{
	struct routine *r = (struct routine *)((uintptr_t)lo | (uintptr_t)hi << 32);

	while (!done())
		next(&r->walker, DEPTH);
	r->started = -1;
	setcontext(r->back);
}

static void yield(struct walker *w)
{
	struct routine *r = w->routine;

	swapcontext(&r->context, r->back);
}

/* Lets a coroutine run on, which another thread may have left. */
static void resume(void)
{
	struct routine *r = NULL;
	ucontext_t here;

	pthread_mutex_lock(&test.lock);
	if (test.nidle > 0) {
		r = test.idle[rand() % test.nidle];
		for (int i = 0; i < test.nidle; i++)
			if (test.idle[i] == r) {
				test.idle[i] = test.idle[--test.nidle];
				break;
			}
	}
	pthread_mutex_unlock(&test.lock);
	if (!r)
		return;
	add(SWITCHED);
	if (r->started && !pthread_equal(r->last, pthread_self()))
		add(MIGRATED);
	r->last = pthread_self();
	r->back = &here;
	r->started = 1;
	swapcontext(&here, &r->context);
	if (r->started < 0)
		return;
	pthread_mutex_lock(&test.lock);
	test.idle[test.nidle++] = r;
	pthread_mutex_unlock(&test.lock);
}

/* Of shapes.c: the stack is left by constant distances, which is a case of its own. */
static shape_fn *choose_plain(uint32_t r)
{
	static const unsigned char of_constant_size[] = { 0, 1, 4, 5, 6, 8 };

	return plain_shape(of_constant_size[r % sizeof(of_constant_size)]);
}

static shape_fn *choose(const struct walker *w, uint32_t r)
{
	if (w->plain)
		return choose_plain(r >> 10);
	if (r % 11 == 3 && w->plugin)
		return w->plugin;
	if (r % 13 == 4 && !w->routine && !w->on_signal)
		return shape_catch;
	switch (r % 3) {
	case 0:
		return plain_shape(r >> 10);
	case 1:
		return pointer_shape(r >> 10);
	default:
		return slow_shape(r >> 10);
	}
}

static void leave(struct walker *w, uint32_t r)
{
	if (w->throwing > 0 && r % 4 == 1) {
		add(THROWN);
		shape_throw();
	}
	if (w->jump && r % 4 == 2) {
		add(JUMPED);
		longjmp(*w->jump, 1);
	}
}

static void next(struct walker *w, int depth)
{
	uint32_t r;

	w->noise = w->noise * 1664525 + 1013904223;
	if (w->plain && w->noise >> 26 == 0)
		w->random ^= 1u << (w->noise >> 8) % 8; /* few: nodes are limited */
	r = draw(w);
	if (done())
		return;
	if (r % 8 == 0 || depth <= 0)
		check(w);
	r = draw(w);
	if (depth <= 0) {
		leave(w, r);
		return;
	}
	if (!w->on_signal && r % (w->plain ? 1999 : 199) == 3)
		raise(SIGUSR1);
	if (w->routine && r % 71 == 5)
		yield(w);
	if (!w->plain && !w->routine && !w->on_signal && r % 91 == 6)
		resume();
	if (!w->on_signal && r % 3001 == 9)
		w->levels = (int)(draw(w) % DEEP);
	choose(w, draw(w))(w, depth);
}

/* ---- threads ---- */

static void use_alternate_stack(void)
{
	stack_t ss = { .ss_size = STACK_SIZE };

	ss.ss_sp = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaltstack(&ss, NULL);
}

static int nplain; /* atomic */

static void *in_thread(void *arg)
{
	struct walker w = { .next = next, .random = (uint32_t)(uintptr_t)arg };

	w.noise = w.random;
	thread_register(0, false);
	use_alternate_stack();
	/* Every other thread goes the same few ways again and again, and sometimes leaves
	 * them half-way. */
	w.plain = __atomic_fetch_add(&nplain, 1, __ATOMIC_RELAXED) % 2 == 0;
	while (!done()) {
		if (w.plain)
			w.random = 1 + (w.noise >> 16) % WAYS * 7919;
		next(&w, DEPTH);
	}
	thread_finished();
	return NULL;
}

static void make_routines(uint32_t seed)
{
	for (int i = 0; i < ROUTINES; i++) {
		struct routine *r = calloc(1, sizeof(*r));
		uintptr_t p = (uintptr_t)r;

		getcontext(&r->context);
		r->context.uc_stack.ss_size = STACK_SIZE;
		r->context.uc_stack.ss_sp = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		r->walker.next = next;
		r->walker.random = seed + (uint32_t)i * 7919 + 1;
		r->walker.routine = r;
		makecontext(&r->context, (void (*)(void))in_routine, 2, (unsigned)p,
			    (unsigned)(p >> 32));
		test.idle[test.nidle++] = r;
	}
}

/* The main thread: the only one in whose stack plugins may be. */
static void with_plugins(struct walker *w, char **paths, int n)
{
	for (unsigned i = 0; !done(); i++) {
		void *handle = dlopen(paths[i % (unsigned)n], RTLD_NOW);
		shape_fn *(*shape)(unsigned);

		if (!handle) {
			fprintf(stderr, "%s\n", dlerror());
			exit(2);
		}
		module_refresh();
		*(void **)&shape = dlsym(handle, "plugin_shape");
		for (unsigned k = 0; k < HOLD && !done(); k++) {
			w->plugin = shape(k);
			next(w, DEPTH);
		}
		w->plugin = NULL;
		dlclose(handle);
		module_refresh();
		unwind_modules_changed();
		add(CLOSED);
	}
}

int main(int argc, char **argv)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	struct walker w = { .next = next };
	struct trail_stats stats;
	pthread_t threads[64];
	int n;

	if (argc < 5)
		return 2;
	w.random = (uint32_t)strtoul(argv[1], NULL, 0) | 1;
	test.target = strtoull(argv[2], NULL, 0);
	n = atoi(argv[3]) - 1;
	opt_init("mode=exact:stack=150");
	module_refresh();
	thread_init();
	unwind_init();
	/* As in the library, stacks begin with the program's frames. */
	unwind_set_own_text((uintptr_t)capture_here, (uintptr_t)capture_here + 256);
	make_routines(w.random);
	use_alternate_stack();
	sigaction(SIGUSR1, &act, NULL);
	for (int i = 0; i < n && i < 64; i++)
		pthread_create(&threads[i], NULL, in_thread,
			       (void *)(uintptr_t)(w.random + (unsigned)i * 104729 + 2));
	with_plugins(&w, argv + 4, argc - 4);
	for (int i = 0; i < n && i < 64; i++)
		pthread_join(threads[i], NULL);
	trail_get_stats(&stats);
	printf("nodes %u\n", site_count());
	printf("remembered %lu\n", (unsigned long)(stats.captures - stats.walks));
	printf("walked %.2f compared %.2f refused %.4f a capture\n",
	       (double)stats.walked / (double)stats.captures,
	       (double)stats.compared / (double)stats.captures,
	       (double)stats.refused / (double)stats.captures);
	for (int i = 0; i < WHATS; i++)
		printf("%s %lu\n", names[i], (unsigned long)test.count[i]);
	return test.count[DIFFERENCES] != 0;
}
