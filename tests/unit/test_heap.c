/* SPDX-License-Identifier: Apache-2.0 */
/* The real allocator, linked beside libc's, against a model: blocks never overlap, keep
 * their contents and are given back; also across threads. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/scavenge.h"
#include "preload/heap/sizeclass.h"

#define LIVE 3000
#define SEED 12345u

struct block {
	unsigned char *p;
	size_t size;
	unsigned char stamp;
};

static unsigned next(unsigned *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

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

static void fill(struct block *b, unsigned char stamp)
{
	b->stamp = stamp;
	memset(b->p, stamp, b->size);
}

static int intact(const struct block *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (b->p[i] != b->stamp)
			return 0;
	return 1;
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
	assert_int_equal(mcentral_take_locked(c, &p, 1), 1);
	mcentral_give_locked(c, &p, 1); /* the transfer cache holds one */
	mcentral_unlock(c);
	mc->tick = 31;
	mc->decay_class = c - 1;
	mc->decay_count[c] = 1;
	p = heap_malloc(3840);
	assert_non_null(p);
	heap_free(p);
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
			mcentral_give_locked(c, --mc->top[c], 1);
			mcentral_unlock(c);
		}
		mcentral_trim();
		mcentral_lock(
			c); /* one in the transfer cache: that is what a refill gets */
		mcentral_give_locked(c, &p, 1);
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

/* Every page of ours is in use or free, and counted once. */
static void pages_add_up(void)
{
	struct heap_stats s;

	heap_get_stats(&s);
	assert_int_equal(s.inuse_small + s.inuse_large + s.free_dirty + s.free_clean,
			 s.committed);
}

/* Stamps one word of each 4 KiB, and the last. */
static void stamp_pages(const struct block *b, size_t from)
{
	for (size_t i = from; i < b->size; i += 4096)
		b->p[i] = b->stamp;
	b->p[b->size - 1] = b->stamp;
}

static int stamps_intact(const struct block *b, size_t n)
{
	for (size_t i = 0; i < n; i += 4096)
		if (b->p[i] != b->stamp)
			return 0;
	return n < b->size || b->p[b->size - 1] == b->stamp;
}

static void step_large(struct block *b, unsigned *seed)
{
	size_t size = 33000 + next(seed) % 3000000, old = b->size;

	if (!b->p) {
		b->p = next(seed) % 4 ? heap_malloc(size) : heap_calloc(1, size);
		b->size = size;
		b->stamp = (unsigned char)(1 + next(seed) % 255);
		stamp_pages(b, 0);
		return;
	}
	assert_true(stamps_intact(b, old));
	if (next(seed) % 3 == 0) {
		b->p = heap_realloc(b->p, size);
		assert_true(stamps_intact(b, size < old ? size : old));
		b->size = size;
		stamp_pages(b, 0);
		return;
	}
	heap_free(b->p);
	assert_null(heap_find((uintptr_t)b->p, NULL));
	b->p = NULL;
}

/* Large objects come and go off the victim: they never overlap, small spans and further
 * large ones in between do not confuse it, calloc's are zero, and all can be given back.
 */
static void test_large_model(void **state)
{
	static struct block blocks[24];
	struct heap_stats before, after;
	unsigned seed = SEED;
	void *small[64] = { NULL };

	(void)state;
	heap_trim();
	heap_get_stats(&before);
	for (unsigned n = 0; n < 4000; n++) {
		step_large(&blocks[next(&seed) % 24], &seed);
		if (n % 50 == 0) {
			void **p = &small[next(&seed) % 64];

			heap_free(*p);
			*p = heap_malloc(next(&seed) % 32768);
			pages_add_up();
		}
		if (n % 1000 == 0)
			heap_trim();
	}
	for (int i = 0; i < 24; i++)
		heap_free(blocks[i].p);
	for (int i = 0; i < 64; i++)
		heap_free(small[i]);
	pages_add_up();
	heap_trim();
	heap_get_stats(&after);
	assert_int_equal(after.inuse_large, before.inuse_large);
	assert_int_equal(after.free_dirty, 0);
}

/* A large object after another that was freed dirty: the same pages, and zero for calloc.
 */
static void test_large_again(void **state)
{
	unsigned char *p = heap_malloc(1 << 20), *q;

	(void)state;
	memset(p, 0xff, 1 << 20);
	heap_free(p);
	q = heap_calloc(1, 1 << 19);
	assert_ptr_equal(p, q);
	for (size_t i = 0; i < 1 << 19; i++)
		assert_int_equal(q[i], 0);
	p = heap_realloc(q, 1 << 20); /* into the rest of the victim */
	assert_ptr_equal(p, q);
	heap_free(p);
}

/* ---- a thread's own large objects ---- */

#define OWN_LIVE 48

static size_t own_pages(void)
{
	return lcache_pages(&mcache_self()->large);
}

static void replace_large(struct block *b, unsigned *seed)
{
	size_t size = 33000 + next(seed) % (next(seed) % 2 ? 60000 : 1100000);
	size_t usable;

	if (b->p) {
		assert_true(stamps_intact(b, b->size));
		heap_free(b->p);
		assert_null(heap_find((uintptr_t)b->p, NULL));
		assert_null(heap_find((uintptr_t)b->p + b->size - 1, NULL));
		assert_int_equal(heap_usable_size(b->p), 0);
	}
	b->p = heap_malloc_large(size);
	usable = heap_usable_size(b->p);
	assert_in_range(usable, size, size + PAGE_SIZE + size / 4 + PAGE_SIZE / 4);
	b->size = usable;
	b->stamp = (unsigned char)(1 + next(seed) % 255);
	stamp_pages(b, 0);
}

/* Replaced at random, large objects never overlap, waste at most a quarter, and what is
 * kept for the next ones stays within its bound. */
static void test_own_model(void **state)
{
	static struct block blocks[OWN_LIVE];
	unsigned seed = SEED;
	size_t most = 0;

	(void)state;
	heap_trim();
	assert_int_equal(own_pages(), 0);
	for (unsigned n = 0; n < 6000; n++) {
		replace_large(&blocks[next(&seed) % OWN_LIVE], &seed);
		assert_true(own_pages() <= 1024); /* 8 MiB: a small heap, and busy */
		if (own_pages() > most)
			most = own_pages();
		if (n % 50 == 0)
			pages_add_up();
	}
	assert_true(most > 0);
	for (int i = 0; i < OWN_LIVE; i++)
		heap_free(blocks[i].p);
	pages_add_up();
	heap_trim();
	assert_int_equal(own_pages(), 0);
	pages_add_up();
}

/* One that makes and frees megabytes all the time, in a small heap, keeps what it needs;
 * once it pauses, most goes back. */
static void test_own_busy(void **state)
{
	static const size_t sizes[] = { 3 * MIB, MIB, 2 * MIB + 1, 4 * MIB };
	struct lcache *own = &mcache_self()->large;
	size_t most = 0;

	(void)state;
	heap_trim();
	for (unsigned n = 0; n < 256; n++) {
		void *p = heap_malloc_large(sizes[n % ARRAY_LEN(sizes)]);

		stamp_pages(&(struct block){ .p = p, .size = PAGE_SIZE, .stamp = 1 }, 0);
		heap_free(p);
		if (own_pages() > most)
			most = own_pages();
	}
	assert_in_range(most, 4 * MIB >> PAGE_SHIFT, 8 * MIB >> PAGE_SHIFT);
	for (int looks = 0; looks < 3; looks++)
		lcache_look_around(own, own->look_ns + 1000000000);
	assert_in_range(own_pages(), 0, 2 * MIB >> PAGE_SHIFT);
	pages_add_up();
}

/* A look around may give back what is kept: what went wrong with one in between is tried
 * again. A scenario returns what it has found to be untrue. */
static void undisturbed(const char *(*scenario)(void))
{
	const char *untrue;
	uint64_t look;

	do {
		look = mcache_self()->tick_ns;
		untrue = scenario();
	} while (untrue && mcache_self()->tick_ns != look);
	if (untrue)
		fail_msg("%s", untrue);
}

#define EXPECT(x)                  \
	do {                       \
		if (!(x))          \
			return #x; \
	} while (0)

/* Four neighbours of size bytes, each with pages that hold something. */
static const char *four_neighbours(size_t size, unsigned char *out[4])
{
	unsigned char *room;

	heap_trim();
	room = heap_malloc_large(4 * size);
	heap_free(room);
	lcache_empty_out(&mcache_self()->large); /* the only run that is dirty */
	for (int i = 0; i < 4; i++) {
		out[i] = heap_malloc_large(size);
		EXPECT(out[i] == room + (size_t)i * size);
		memset(out[i], 0xff, size);
	}
	return NULL;
}

/* A freed one is found again by what needs as many pages or a little less; what needs
 * still less is cut off it, and is one with it again when it is freed. calloc's is zero.
 */
static const char *own_again(void)
{
	unsigned char *p[4], *q, *small;
	const char *untrue = four_neighbours(1 << 16, p);

	if (untrue)
		return untrue;
	heap_free(p[1]);
	EXPECT(own_pages() == 8);
	q = heap_malloc_large(9 * PAGE_SIZE);
	EXPECT(q != p[1]);
	small = heap_malloc_large(5 * PAGE_SIZE);
	EXPECT(small == p[1]);
	EXPECT(own_pages() == 3);
	heap_free(small);
	EXPECT(own_pages() == 8);
	small = heap_malloc_large(4 * PAGE_SIZE + 1);
	EXPECT(small == p[1]);
	heap_free(small);
	p[1] = heap_calloc(1, 7 * PAGE_SIZE);
	EXPECT(p[1] == p[0] + (1 << 16));
	EXPECT(own_pages() == 0);
	for (size_t i = 0; i < 1 << 16; i++)
		assert_int_equal(p[1][i], 0);
	for (int i = 0; i < 4; i++)
		heap_free(p[i]);
	heap_free(q);
	return NULL;
}

static void test_own_again(void **state)
{
	(void)state;
	undisturbed(own_again);
}

/* An object grows in place into those freed behind it. */
static const char *own_growth(void)
{
	unsigned char *p[4];
	const char *untrue = four_neighbours(1 << 16, p);

	if (untrue)
		return untrue;
	heap_free(p[1]);
	heap_free(p[2]);
	EXPECT(own_pages() == 16);
	EXPECT(heap_realloc(p[0], 3 << 16) == p[0]);
	EXPECT(own_pages() == 0);
	pages_add_up();
	heap_free(p[0]);
	heap_free(p[3]);
	return NULL;
}

static void test_own_growth(void **state)
{
	(void)state;
	undisturbed(own_growth);
}

/* Freed neighbours that hold memory become one run before untouched pages are used. */
static const char *own_before_clean(void)
{
	struct heap_stats before, after;
	unsigned char *p[4], *q;
	const char *untrue = four_neighbours(1 << 20, p);

	if (untrue)
		return untrue;
	heap_trim(); /* what is free besides is clean now */
	for (int i = 0; i < 3; i++)
		heap_free(p[i]);
	EXPECT(own_pages() > 0); /* the rest is in the depot if there were threads */
	heap_get_stats(&before);
	EXPECT(before.free_dirty == 3 << 20);
	q = heap_malloc_large(3 << 20);
	heap_get_stats(&after);
	EXPECT(q == p[0]);
	EXPECT(after.free_dirty == 0);
	heap_free(q);
	heap_free(p[3]);
	return NULL;
}

static void test_own_before_clean(void **state)
{
	(void)state;
	undisturbed(own_before_clean);
}

struct keeper {
	pthread_barrier_t *step;
	size_t npages;
};

static void *keep_some(void *arg)
{
	struct keeper *k = arg;
	void *p[16];

	for (int i = 0; i < 16; i++)
		p[i] = heap_malloc_large(1 << 20);
	for (int i = 0; i < 16; i++)
		heap_free(p[i]);
	k->npages = own_pages();
	pthread_barrier_wait(k->step);
	pthread_barrier_wait(k->step);
	heap_thread_exit();
	return NULL;
}

/* Threads that freed much and do nothing since hold little in all; when they end,
 * nothing.
 */
static void test_own_of_threads(void **state)
{
	struct keeper k[8];
	pthread_barrier_t step;
	pthread_t t[8];
	struct heap_stats s;
	size_t sum = 0;

	(void)state;
	heap_trim();
	pthread_barrier_init(&step, NULL, 9);
	for (int i = 0; i < 8; i++) {
		k[i] = (struct keeper){ .step = &step };
		pthread_create(&t[i], NULL, keep_some, &k[i]);
	}
	pthread_barrier_wait(&step);
	for (int i = 0; i < 8; i++)
		sum += k[i].npages;
	heap_get_stats(&s);
	assert_in_range(sum, 1, 768 + (s.peak_inuse >> PAGE_SHIFT) / 16);
	pthread_barrier_wait(&step);
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	heap_trim();
	heap_get_stats(&s);
	assert_int_equal(s.free_dirty, 0);
}

/* What lies free between objects that are replaced at random stays a small part. */
static void test_holes(void **state)
{
	static void *p[2000];
	unsigned seed = SEED;
	struct heap_stats s;

	(void)state;
	heap_trim();
	for (unsigned n = 0; n < 60 * ARRAY_LEN(p); n++) {
		void **at = &p[next(&seed) % ARRAY_LEN(p)];
		size_t size = (size_t)33000 << next(&seed) % 3;

		heap_free(*at);
		*at = heap_malloc_large(size + next(&seed) % size);
	}
	heap_get_stats(&s);
	print_message("# holes: %zu KiB beside %zu KiB in use\n", s.free_dirty / KIB,
		      s.inuse_large / KIB);
	assert_true(s.free_dirty < s.inuse_large / 4);
	for (size_t i = 0; i < ARRAY_LEN(p); i++)
		heap_free(p[i]);
	heap_trim();
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_gives_back),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_budget),
		cmocka_unit_test(test_refill_and_decay),
		cmocka_unit_test(test_growth_in_steps),
		cmocka_unit_test(test_large_model),
		cmocka_unit_test(test_large_again),
		cmocka_unit_test(test_own_model),
		cmocka_unit_test(test_own_busy),
		cmocka_unit_test(test_own_again),
		cmocka_unit_test(test_own_growth),
		cmocka_unit_test(test_own_before_clean),
		cmocka_unit_test(test_own_of_threads),
		cmocka_unit_test(test_refill_at_a_tick),
		cmocka_unit_test(test_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
