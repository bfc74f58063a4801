/* SPDX-License-Identifier: Apache-2.0 */
/* The real allocator, linked beside libc's, against a model: blocks never overlap, keep
 * their contents and are given back; also across threads. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/base/lock.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/sizeclass.h"
#include "tests/unit/blocks.h"

#define LIVE 3000

static size_t random_size(unsigned *seed)
{
	unsigned r = next(seed);

	switch (r % 10) {
	case 0:
		return next(seed) % 400000;
	case 1:
	case 2:
		return next(seed) % 33000;
	default:
		return next(seed) % 600;
	}
}

static int step(struct block *b, unsigned *seed)
{
	size_t size = random_size(seed);
	unsigned what = next(seed) % 8;

	if (b->p && !intact(b, b->size))
		return 0;
	if (b->p && what < 2) {
		size_t keep = size < b->size ? size : b->size;
		unsigned char *p = heap_realloc(b->p, size ? size : 1);

		b->p = p;
		b->size = keep;
		if (!p || !intact(b, keep))
			return 0;
		b->size = size;
	} else {
		size_t align = what == 3 ? (size_t)16 << next(seed) % 10 : 16;

		heap_free(b->p);
		if (what == 2)
			b->p = heap_calloc(1, size);
		else
			b->p = what == 3 ? heap_memalign(align, size) : heap_malloc(size);
		b->size = size;
		if (!b->p || (uintptr_t)b->p % align != 0)
			return 0;
		b->stamp = 0;
		if (what == 2 && !intact(b, size))
			return 0;
	}
	if (heap_usable_size(b->p) < b->size)
		return 0;
	fill(b, (unsigned char)next(seed));
	return 1;
}

static int churn(unsigned seed, int steps)
{
	struct block *blocks = calloc(LIVE, sizeof(*blocks));
	int ok = 1;

	for (int i = 0; i < steps && ok; i++)
		ok = step(&blocks[next(&seed) % LIVE], &seed);
	for (int i = 0; i < LIVE; i++) {
		ok = ok && (!blocks[i].p || intact(&blocks[i], blocks[i].size));
		heap_free(blocks[i].p);
	}
	free(blocks);
	return ok;
}

static void test_model(void **state)
{
	(void)state;
	print_message("# seed %u\n", SEED);
	assert_true(churn(SEED, 60000));
}

static void *churn_thread(void *arg)
{
	int ok = churn((unsigned)(uintptr_t)arg, 20000);

	heap_thread_exit();
	return (void *)(uintptr_t)ok;
}

static void test_threads(void **state)
{
	pthread_t t[4];
	void *ok;

	(void)state;
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, churn_thread, (void *)(SEED + i));
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &ok);
		assert_non_null(ok);
	}
}

static void test_find(void **state)
{
	unsigned char *small = heap_malloc(100), *large = heap_malloc(100000);
	uint32_t index, other;
	struct mspan *s = heap_find((uintptr_t)small, &index);

	(void)state;
	assert_non_null(s);
	assert_int_equal(mspan_slot(s, index), (uintptr_t)small);
	assert_ptr_equal(heap_find((uintptr_t)small + 99, &other), s);
	assert_int_equal(index, other);
	assert_null(heap_find((uintptr_t)&s, NULL));
	heap_lock_all();
	heap_index_large();
	heap_unlock_all();
	s = heap_find((uintptr_t)large + 99999, &index);
	assert_non_null(s);
	assert_int_equal(s->base, (uintptr_t)large);
	heap_free(large);
	assert_null(heap_find((uintptr_t)large + 50000, NULL));
	heap_free(small);
}

/* After everything is freed, what is in use is what the caches hold. */
static void test_gives_back(void **state)
{
	struct heap_stats before, after;
	void *p[2000];

	(void)state;
	heap_trim();
	heap_get_stats(&before);
	for (int i = 0; i < 2000; i++)
		p[i] = heap_malloc((size_t)(i % 100) * 1000);
	for (int i = 0; i < 2000; i++)
		memset(p[i], 1, (size_t)(i % 100) * 1000);
	heap_get_stats(&after);
	assert_true(after.live_bytes > before.live_bytes + 90000000);
	for (int i = 0; i < 2000; i++)
		heap_free(p[i]);
	assert_true(heap_trim());
	heap_get_stats(&after);
	assert_true(after.live_bytes <= before.live_bytes);
	assert_true(after.inuse_small + after.inuse_large <=
		    before.inuse_small + before.inuse_large);
	assert_int_equal(after.free_dirty, 0);
}

static void test_limits(void **state)
{
	(void)state;
	assert_null(heap_malloc(SIZE_MAX));
	assert_null(heap_malloc((size_t)PTRDIFF_MAX + 1));
	assert_null(heap_calloc(SIZE_MAX, 2));
	assert_null(heap_memalign((size_t)1 << 62, 1));
	assert_int_equal(heap_usable_size(NULL), 0);
	heap_free(NULL);
}

static int sampled;

static void count_sample(void *p, size_t size)
{
	assert_non_null(p);
	sampled += size > 0;
	heap_set_budget(9999);
}

/* A look around that falls on a refill of one slot must not take that slot away. */
static void test_refill_at_a_tick(void **state)
{
	const unsigned c = sizeclass_of(3840); /* not used before */
	struct mcache *mc = heap_thread_start();
	void *p;

	(void)state;
	assert_non_null(mc);
	mcache_empty_out(mc);
	mcentral_lock(c);
	assert_int_equal(mcentral_take_locked(c, NULL, &p, 1), 1);
	mcentral_give_locked(c, &p, 1, false); /* the transfer cache holds one */
	mcentral_unlock(c);
	mc->tick = 31;
	mc->decay_class = c - 1;
	mc->decay_count[c] = 1;
	p = heap_malloc(3840);
	assert_non_null(p);
	heap_free(p);
}

static int released;

static void count_release(struct mspan *s)
{
	assert_non_null(s->samples);
	s->samples = NULL;
	released++;
}

/* Whoever keeps records beside a span is told when it goes. */
static void test_release(void **state)
{
	const size_t sizes[] = { 2500, 30000, 1 << 20 };
	static char records;

	(void)state;
	heap_hooks.release_samples = count_release;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		void *p = heap_malloc(sizes[i]);
		uint32_t index;

		heap_find((uintptr_t)p, &index)->samples = &records;
		released = 0;
		heap_free(p);
		heap_trim();
		assert_int_equal(released, 1);
	}
	heap_hooks.release_samples = NULL;
}

static void test_budget(void **state)
{
	(void)state;
	heap_hooks.sample_malloc = count_sample;
	heap_set_budget(9999);
	for (int i = 0; i < 1000; i++)
		heap_free(heap_malloc(100));
	assert_int_equal(sampled,
			 10); /* 100 000 bytes, a sample each time 10 000 are past */
	heap_set_budget(-1);
	heap_free(heap_malloc(1));
	heap_free(heap_malloc(1 << 20));
	assert_int_equal(sampled, 12);
	heap_hooks.sample_malloc = NULL;
}

/* What a refill has got is still there when it returns, whatever decays at that moment.
 */
static void test_refill_and_decay(void **state)
{
	const unsigned c = SIZECLASS_COUNT - 1;
	struct mcache *mc;
	void *p = heap_malloc(sizeclass_info[c].slot_size);

	(void)state;
	assert_non_null(p);
	mc = mcache_self();
	for (uint32_t tick = 0; tick < 512; tick++) {
		while (mcache_count(mc, c) > 0) {
			mcentral_lock(c);
			mcentral_give_locked(c, --mc->top[c], 1, false);
			mcentral_unlock(c);
		}
		mcentral_trim();
		mcentral_lock(
			c); /* one in the transfer cache: that is what a refill gets */
		mcentral_give_locked(c, &p, 1, false);
		mcentral_unlock(c);
		mc->tick = tick;
		mc->decay_class = c - 1;
		mc->decay_count[c] = 1;
		assert_true(mcache_refill(mc, c));
		assert_in_range(mcache_count(mc, c), 1, 4);
		p = *--mc->top[c];
	}
	heap_free(p);
}

/* Growth by small steps moves the object seldom, and it keeps what is in it. */
static void test_growth_in_steps(void **state)
{
	struct block b = { heap_malloc(16), 16, 7 };
	int moves = 0;

	(void)state;
	fill(&b, 7);
	for (size_t size = 32; size <= 4096; size += 16) {
		unsigned char *p = heap_realloc(b.p, size);

		assert_true(heap_usable_size(p) >= size);
		moves += p != b.p;
		b.p = p;
		assert_true(intact(&b, size - 16));
		b.size = size;
		fill(&b, 7);
	}
	assert_in_range(moves, 10, 30); /* one for each of 48 classes would be 47 */
	heap_free(b.p);
}

/* A handler that interrupted malloc forks. In the child, too, the interrupted code finds
 * its mcache as it was, and no other thread gets it. */
static void test_fork_in_handler(void **state)
{
	struct mcache *own = heap_thread_start();
	const unsigned c = sizeclass_of(200);
	void *p = heap_malloc(200), **top;
	int status = -1, error = 0;
	uintptr_t saved;
	pid_t child;

	(void)state;
	heap_free(p);
	top = own->top[c];
	saved = heap_thread_push();
	heap_free(heap_malloc(200));
	heap_fork_prepare();
	child = fork();
	heap_fork_done(child == 0);
	if (child == 0 && mcache_new() == own)
		error = 1;
	heap_thread_pop(saved);
	if (mcache_self() != own || own->top[c] != top || heap_malloc(200) != p)
		error = 2;
	if (child == 0)
		_exit(error);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(error, 0);
	heap_free(p);
}

static size_t count_mcaches(void)
{
	size_t n = 0;

	lock_acquire(&mcache_lock);
	for (const struct mcache *mc = mcache_list(); mc; mc = mc->next)
		n++;
	lock_release(&mcache_lock);
	return n;
}

/* As pthread_exit() in a handler, or after one was left, ends a thread. */
static void *end_in_handler(void *arg)
{
	heap_free(heap_malloc(1 << 20));
	heap_thread_push();
	heap_free(heap_malloc(200));
	heap_thread_push();
	mcache_self()->interruption = arg;
	heap_thread_exit();
	return arg;
}

/* What handlers have interrupted goes back as well, and the next thread that gets one of
 * these mcaches knows nothing of a handler's stack. */
static void test_end_in_handler(void **state)
{
	const size_t before = count_mcaches();
	struct mcache *list[3];
	pthread_t t;

	pthread_create(&t, NULL, end_in_handler, state);
	pthread_join(t, NULL);
	assert_int_equal(count_mcaches(), before);
	for (size_t i = 0; i < ARRAY_LEN(list); i++) {
		list[i] = mcache_new();
		assert_non_null(list[i]);
		assert_null(list[i]->interruption);
		assert_null(list[i]->below);
	}
	for (size_t i = 0; i < ARRAY_LEN(list); i++)
		mcache_release(list[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_gives_back),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_budget),
		cmocka_unit_test(test_release),
		cmocka_unit_test(test_refill_and_decay),
		cmocka_unit_test(test_growth_in_steps),
		cmocka_unit_test(test_refill_at_a_tick),
		cmocka_unit_test(test_fork_in_handler),
		cmocka_unit_test(test_end_in_handler),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
