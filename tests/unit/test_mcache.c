/* SPDX-License-Identifier: Apache-2.0 */
/* A thread's bins: what they may keep is bounded, and they are whole wherever their owner
 * stops for good. Some tests go through the code step by step, by the processor's trap
 * flag: each step is a place where another thread may fork, where a handler may come that
 * never returns, or where a leak check may stop the thread. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "preload/base/lock.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcache_room.h"
#include "preload/heap/sizeclass.h"

#define TRAP_FLAG 0x100
#define MOST	  16 /* objects of each class */

static const char *unexpected; /* the first; cmocka's are for the main thread */
#define EXPECT(cond)                                      \
	do {                                              \
		if (!(cond) && !unexpected)               \
			unexpected = __FILE__ ": " #cond; \
	} while (0)

static void assert_expected(void)
{
	const char *what = unexpected;

	unexpected = NULL;
	if (what)
		fail_msg("%s", what);
}

static void in_thread(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, fn, arg), 0);
	pthread_join(t, NULL);
	assert_expected();
}

static void **brief(const struct mcache *mc, unsigned c)
{
	return (void **)(uintptr_t)mc + mcache_arrays[c].brief;
}

/* The room that there can be for a top of the class. */
static uint32_t most_room(const struct mcache *mc, unsigned c, void **top)
{
	return mcache_base_of(mc, c, top) == brief(mc, c) ? mcache_arrays[c].brief_room
							  : sizeclass_info[c].cache_max;
}

static void check_whole(const struct mcache *mc)
{
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		void **top = mc->top[c], **base = mcache_base_of(mc, c, top);

		EXPECT(!base[-1] && !base[-2]);
		EXPECT(base <= top);
		EXPECT(top <= mc->limit[c]);
		EXPECT(mc->limit[c] <= base + most_room(mc, c, top));
	}
}

/* Objects of each class, count of each at a time, come and go. */
static void use_every_class(size_t count, bool fill)
{
	static void *objects[MOST][SIZECLASS_COUNT];

	for (size_t n = 0; n < count; n++)
		for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
			objects[n][c] = heap_malloc(sizeclass_info[c].slot_size);
			EXPECT(objects[n][c] != NULL);
			if (fill)
				memset(objects[n][c], (int)c,
				       sizeclass_info[c].slot_size);
		}
	for (size_t n = 0; n < count; n++)
		for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
			const unsigned char *p = objects[n][c];

			for (size_t k = 0; fill && k < sizeclass_info[c].slot_size; k++)
				EXPECT(p[k] == c);
			heap_free(objects[n][c]);
		}
}

static struct mcache *drained[8];
static size_t ndrained;

/* Nothing is left that could be granted. */
static void drain_pool(void)
{
	struct mcache *mc;

	do {
		mc = mcache_new();
		assert_non_null(mc);
		assert_true(ndrained < ARRAY_LEN(drained));
		drained[ndrained++] = mc;
		for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
			mcache_widen(mc, c, sizeclass_info[c].cache_max);
	} while (!mc->limited);
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
		mcache_widen(mc, c, mcache_room(mc, c) + 1);
}

/* ---- step by step ---- */

#if !defined(__SANITIZE_THREAD__) /* it puts off signals */

static struct {
	void (*check)(void);
	sigjmp_buf out;
	struct mcache *mc;
	uint64_t nsteps;
	uint64_t leave_at; /* 0: never */
	bool on, left;
} steps;

/* Never returns to what it has interrupted, as a handler of a program may. */
static void leave(void)
{
	steps.on = false;
	steps.left = true;
	heap_thread_push();
	siglongjmp(steps.out, 1);
}

static void on_step(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	if (!steps.on) {
		uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
		return;
	}
	steps.nsteps++;
	steps.check();
	if (steps.leave_at && steps.nsteps >= steps.leave_at && !lock_any_held())
		leave();
}

/* Goes through fn() so, up to step leave_at if that is not 0. */
static void go_through(void (*fn)(void), void (*check)(void), uint64_t leave_at)
{
	struct sigaction act = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO }, old;

	sigaction(SIGTRAP, &act, &old);
	steps.check = check;
	steps.nsteps = 0;
	steps.leave_at = leave_at;
	steps.left = false;
	if (sigsetjmp(steps.out, 1) == 0) {
		steps.on = true;
		__asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushf\n\torq %0, (%%rsp)\n\t"
				 "popf\n\tlea 128(%%rsp), %%rsp"
				 :
				 : "i"(TRAP_FLAG)
				 : "memory", "cc");
		fn();
		steps.on = false;
	}
	sigaction(SIGTRAP, &old, NULL);
}

/* A fork waits for the lock; nothing else looks at limits. */
static void check_unless_locked(void)
{
	if (!lock_is_held(&mcache_lock))
		check_whole(steps.mc);
}

#define MOVED_SIZE 1000
static struct {
	void *slots[64];
	uint32_t n, nseen;
	unsigned c;
} moved;

static void count_moved(uintptr_t slot, void *arg)
{
	(void)arg;
	for (uint32_t i = 0; i < moved.n; i++)
		moved.nseen += (uintptr_t)moved.slots[i] == slot;
}

static void check_moved(void)
{
	check_unless_locked();
	moved.nseen = 0;
	heap_each_cached_now(count_moved, NULL);
	EXPECT(moved.nseen >= moved.n);
}

static void move(void)
{
	mcache_widen(steps.mc, moved.c, mcache_arrays[moved.c].brief_room + 1);
}

/* Whoever looks at a stopped thread sees each slot of a bin that moves, at any step. */
static void *move_bin(void *arg)
{
	struct mcache *mc = heap_thread_start();
	const unsigned c = moved.c = sizeclass_of(MOVED_SIZE);
	void *p[64];

	mcache_widen(mc, c, mcache_arrays[c].brief_room);
	for (uint32_t i = 0; i < mcache_arrays[c].brief_room; i++)
		p[i] = mcache_take_one(mc, c);
	for (uint32_t i = 0; i < mcache_arrays[c].brief_room; i++)
		heap_free(p[i]);
	EXPECT(mcache_base(mc, c) == brief(mc, c));
	moved.n = mcache_count(mc, c);
	EXPECT(moved.n >= 2);
	memcpy(moved.slots, mcache_base(mc, c), moved.n * sizeof(void *));
	steps.mc = mc;
	go_through(move, check_moved, 0);
	EXPECT(steps.nsteps > 50);
	EXPECT(mcache_base(mc, c) != brief(mc, c));
	EXPECT(memcmp(moved.slots, mcache_base(mc, c), moved.n * sizeof(void *)) == 0);
	heap_thread_exit();
	return arg;
}

static void test_move_is_seen(void **state)
{
	in_thread(move_bin, state);
}

static void grow_and_shrink(void)
{
	static const size_t sizes[] = { 48, 1000, 3000 };
	static void *p[ARRAY_LEN(sizes)][12];

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		for (size_t k = 0; k < 12; k++)
			p[i][k] = heap_malloc(sizes[i]);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		for (size_t k = 0; k < 12; k++)
			heap_free(p[i][k]);
	heap_free(heap_malloc(20000));
}

static uint64_t nsteps_all;

static void *step_through(void *arg)
{
	steps.mc = heap_thread_start();
	go_through(grow_and_shrink, check_unless_locked, *(uint64_t *)arg);
	nsteps_all = steps.nsteps;
	heap_thread_exit();
	return NULL;
}

static void check_nothing(void)
{
}

static int nleft;

static void *leave_it(void *arg)
{
	heap_thread_start();
	go_through(grow_and_shrink, check_nothing, *(uint64_t *)arg);
	nleft += steps.left;
	heap_thread_exit(); /* of the handler's mcache, and of the one below */
	return NULL;
}

static void *use_all(void *arg)
{
	use_every_class(3, true);
	check_whole(mcache_self());
	heap_thread_exit();
	return arg;
}

#define PLACES 9 /* where it is left */

/* Each thread gets a new mcache; those that were left are used by others. */
static void leave_at_places(void)
{
	struct mcache *kept[2];
	uint64_t at = 0, last;

	nleft = 0;
	in_thread(step_through, &at);
	last = nsteps_all;
	assert_true(last > 3000);
	for (uint64_t i = 0; i < 2; i++) /* what that thread had, if it is spare */
		kept[i] = mcache_new();
	for (uint64_t i = 1; i < PLACES; i++) {
		at = last * i / PLACES;
		in_thread(leave_it, &at);
		in_thread(use_all, NULL); /* with one of them */
		for (size_t k = 0; k < 2; k++) {
			kept[k] = mcache_new();
			assert_non_null(kept[k]);
			check_whole(kept[k]);
			assert_int_equal(kept[k]->charged, 0);
			for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
				assert_int_equal(mcache_count(kept[k], c), 0);
		}
		assert_expected();
	}
	assert_true(nleft > PLACES / 2);
}

static void test_left_anywhere(void **state)
{
	(void)state;
	leave_at_places();
}

static void test_left_anywhere_without_room(void **state)
{
	(void)state;
	drain_pool();
	leave_at_places();
}

#else
static void test_move_is_seen(void **state)
{
	(void)state;
	skip();
}
static void test_left_anywhere(void **state)
{
	(void)state;
	skip();
}
static void test_left_anywhere_without_room(void **state)
{
	(void)state;
	drain_pool();
	skip();
}
#endif

/* Whatever the limits are in an mcache that was given up, the next thread's are right. */
static void test_limit_is_repaired(void **state)
{
	struct mcache *mc = mcache_new(), *again;
	const unsigned c = sizeclass_of(1500), d = sizeclass_of(2000);

	(void)state;
	assert_non_null(mc);
	mcache_widen(mc, c, sizeclass_info[c].cache_max);
	mcache_widen(mc, d, sizeclass_info[d].cache_max);
	assert_ptr_not_equal(mcache_base(mc, c), brief(mc, c));
	mc->limit[c] = brief(mc, c) + 2; /* below top, as it was before it moved */
	mc->limit[d] = mc->top[d] + 4 * sizeclass_info[d].cache_max;
	mcache_release(mc);
	again = mcache_new();
	assert_ptr_equal(again, mc);
	check_whole(again);
	assert_expected();
	mcache_release(again);
}

/* ---- the bound ---- */

#define BOUND_FIRST (4 * KIB)

/* What an mcache may keep that was granted nothing. */
static uint64_t bound_of(const struct mcache *mc)
{
	uint64_t units = mc->moved / (4 * KIB);

	return BOUND_FIRST + units * units * units * units / (16 * GIB);
}

/* Bytes for which there is room in bins, but for what small ones begin with. */
static uint64_t room_of(const struct mcache *mc)
{
	uint64_t room = 0;

	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		const uint64_t slot_size = sizeclass_info[c].slot_size;
		uint64_t bytes = mcache_room(mc, c) * slot_size;

		const uint64_t begun_with = KIB / slot_size * slot_size;

		if (slot_size <= 256)
			bytes = bytes > begun_with ? bytes - begun_with : 0;
		room += bytes;
	}
	return room;
}

/* One of many threads: what it can keep is what it began with and what it has earned. */
static void *be_bounded(void *arg)
{
	struct mcache *mc = heap_thread_start();

	EXPECT(room_of(mc) == 0);
	EXPECT(mc->granted == 0);
	for (size_t count = 1; count <= MOST; count++) {
		use_every_class(count, true);
		check_whole(mc);
		EXPECT(mc->limited);
		EXPECT(room_of(mc) <= bound_of(mc));
		EXPECT((uint64_t)mc->charged == room_of(mc));
		EXPECT(count > 1 || room_of(mc) < 10 * KIB);
	}
	/* And works, until it may have all. */
	for (size_t n = 0; n < 1000 && mc->moved < 96 * MIB; n++)
		use_every_class(MOST, false);
	use_every_class(MOST, true);
	EXPECT(room_of(mc) > 2 * MIB);
	for (size_t n = 0; n < 300; n++)
		use_every_class(2, n < 2);
	check_whole(mc);
	EXPECT((uint64_t)mc->charged == room_of(mc));
	heap_thread_exit();
	return arg;
}

/* Small slots are bounded too. */
static void *be_bounded_small(void *arg)
{
	struct mcache *mc = heap_thread_start();
	void *p[500];
	uint64_t held = 0;

	for (size_t size = 16; size <= 256; size += 16) {
		for (size_t i = 0; i < ARRAY_LEN(p); i++)
			p[i] = heap_malloc(size);
		for (size_t i = 0; i < ARRAY_LEN(p); i++)
			heap_free(p[i]);
	}
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
		held += mcache_count(mc, c) * sizeclass_info[c].slot_size;
	EXPECT(mc->moved < 16 * MIB);
	EXPECT(held <= 16 * KIB + bound_of(mc));
	heap_thread_exit();
	return arg;
}

static void *be_unlimited(void *arg)
{
	use_every_class(2, true);
	EXPECT(mcache_self()->granted > 0);
	EXPECT(!mcache_self()->limited);
	heap_thread_exit();
	return arg;
}

static void test_bound(void **state)
{
	struct mcache *others[8];

	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		others[i] = mcache_new(); /* the spare ones */
	drain_pool();
	in_thread(be_bounded_small, state);
	drain_pool(); /* by what that thread had, at first */
	in_thread(be_bounded, state);
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		mcache_release(others[i]);
	/* What ended threads were granted is there for others. */
	for (size_t i = 0; i < ndrained; i++)
		mcache_release(drained[i]);
	in_thread(be_unlimited, state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limit_is_repaired),
		cmocka_unit_test(test_move_is_seen),
		cmocka_unit_test(test_left_anywhere),
		cmocka_unit_test(test_left_anywhere_without_room),
		cmocka_unit_test(test_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
