/* SPDX-License-Identifier: Apache-2.0 */
/* Large objects of the real allocator: runs of pages that come and go, and those that a
 * thread keeps for its next ones. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/heap_int.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mheap.h"
#include "tests/unit/blocks.h"

/* The first frees take the slow path, whatever they free; no longer. The first test: the
 * process is young. */
static void test_large_young(void **state)
{
	(void)state;
	assert_true(heap_is_young());
	for (unsigned i = 0; i < HEAP_YOUTH - 1; i++) {
		heap_free(heap_malloc(100000));
		assert_true(heap_is_young());
	}
	heap_free(heap_malloc(100000));
	assert_false(heap_is_young());
}

/* A bin for each length below 16 pages, then eight to each power of two. */
static void test_bins(void **state)
{
	(void)state;
	for (size_t n = 0; n < 16; n++)
		assert_int_equal(lcache_bin(n), n);
	for (size_t from = 16, bin = 16; from <= LCACHE_PAGES; from *= 2, bin += 8) {
		for (size_t n = from; n < 2 * from && n <= LCACHE_PAGES + 1; n++)
			assert_int_equal(lcache_bin(n), bin + (n - from) / (from / 8));
	}
	assert_int_equal(lcache_bin(LCACHE_PAGES), LCACHE_BINS - 1);
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

#define TRIES 5

/* A look around, of any thread, may give back what is kept: what went wrong is tried
 * again. A scenario returns what it has found to be untrue. */
static void undisturbed(const char *(*scenario)(void))
{
	const char *untrue = "";

	for (int i = 0; i < TRIES && untrue;) {
		uint64_t look = mcache_self()->tick_ns;

		untrue = scenario();
		i += mcache_self()->tick_ns == look;
	}
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

/* One that was given more than it asked for keeps it when it grows. */
static const char *own_kept(void)
{
	unsigned char *p[4];
	const char *untrue = four_neighbours(20 * PAGE_SIZE, p);
	size_t usable;

	if (untrue)
		return untrue;
	heap_free(p[1]);
	EXPECT(heap_malloc_large(16 * PAGE_SIZE) == p[1]);
	usable = heap_usable_size(p[1]);
	EXPECT(usable > 16 * PAGE_SIZE);
	EXPECT(heap_realloc(p[1], 16 * PAGE_SIZE + 1) == p[1]);
	EXPECT(heap_usable_size(p[1]) == usable);
	for (int i = 0; i < 4; i++)
		heap_free(p[i]);
	return NULL;
}

static void test_own_kept(void **state)
{
	(void)state;
	undisturbed(own_kept);
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

/* What is cut off and joined again does not grow longer than what has a bin. */
static const char *own_joins(void)
{
	const struct lcache *own = &mcache_self()->large;
	unsigned char *p[4], *small;
	void *room = heap_malloc_large((size_t)256 << 20); /* threads may keep 1/16 */
	const char *untrue = four_neighbours(LCACHE_PAGES / 2 << PAGE_SHIFT, p);

	if (untrue)
		return untrue;
	heap_free(p[0]);
	small = heap_malloc_large(5 * PAGE_SIZE);
	EXPECT(small == p[0]);
	EXPECT(own->rest != NULL);
	heap_free(small);
	for (int i = 1; i < 4; i++)
		heap_free(p[i]);
	EXPECT(own_pages() == 2 * LCACHE_PAGES);
	EXPECT(own->rest->npages == LCACHE_PAGES);
	heap_trim();
	heap_free(room);
	return NULL;
}

static void test_own_joins(void **state)
{
	(void)state;
	undisturbed(own_joins);
}

static size_t spans_in_use(void)
{
	struct mheap_stats s;

	mheap_get_stats(&s);
	return s.nspans;
}

/* What lay idle between two looks is given back, and so is the room reserved for it; no
 * blank span stays either. */
static const char *own_idle(void)
{
	struct lcache *own = &mcache_self()->large;
	unsigned char *p[4], *q;
	const char *untrue = four_neighbours(1 << 16, p);
	size_t before = spans_in_use();

	if (untrue)
		return untrue;
	heap_free(p[1]);
	heap_free(heap_malloc_large(5 * PAGE_SIZE)); /* cut off and joined: blanks */
	EXPECT(own_pages() == 8 && own->blanks);
	own->look_ns = 0;
	lcache_look_around(own, UINT64_MAX);
	EXPECT(own_pages() == 8 && own->least == 8);
	q = heap_malloc_large(5 * PAGE_SIZE); /* 3 pages are left */
	EXPECT(own_pages() == 3);
	heap_free(q);
	own->look_ns = 0;
	lcache_look_around(own, UINT64_MAX);
	EXPECT(own_pages() == 8); /* not by parts */
	own->look_ns = 0;
	lcache_look_around(own, UINT64_MAX);
	EXPECT(own_pages() == 0 && own->limit == 0);
	heap_free(p[2]);
	lcache_empty_out(own);
	EXPECT(!own->blanks);
	EXPECT(spans_in_use() == before - 2);
	heap_free(p[0]);
	heap_free(p[3]);
	return NULL;
}

static void test_own_idle(void **state)
{
	(void)state;
	undisturbed(own_idle);
}

#define HANDED 160

static size_t depot_pages(void)
{
	size_t npages, nspans;

	lock_acquire(&mheap_lock);
	npages = lcache_depot_locked(&nspans);
	lock_release(&mheap_lock);
	assert_int_equal(npages == 0, nspans == 0);
	return npages;
}

static void *free_them(void *arg)
{
	void **p = arg;

	for (int i = 0; i < HANDED; i++)
		heap_free(p[i]);
	heap_thread_exit();
	return NULL;
}

/* What one thread makes and another frees comes back by way of the depot, as much as
 * there is room for; what lies idle there does not stay. */
static const char *handed_over(void)
{
	struct lcache *own = &heap_thread_start()->large;
	void *room = heap_malloc_large((size_t)256 << 20), *p[HANDED];
	size_t handed;
	pthread_t t;

	heap_trim();
	for (int i = 0; i < HANDED; i++)
		p[i] = heap_malloc_large(10 * PAGE_SIZE);
	pthread_create(&t, NULL, free_them, p);
	pthread_join(t, NULL);
	handed = depot_pages();
	EXPECT(handed > 0);
	EXPECT(own_pages() == 0);
	p[0] = heap_malloc_large(10 * PAGE_SIZE);
	EXPECT(own_pages() > 0);
	EXPECT(own_pages() <= own->limit);
	EXPECT(own_pages() + depot_pages() + 10 == handed);
	lock_acquire(&mheap_lock);
	lcache_age_depot_locked(false); /* since then the fewest were what is there now */
	lcache_age_depot_locked(false);
	lock_release(&mheap_lock);
	EXPECT(depot_pages() == 0);
	heap_free(p[0]);
	heap_free(room);
	heap_trim();
	return NULL;
}

/* As many as p has are freed by a thread of their own; the pages in the depot then. */
static size_t hand_over(void **p)
{
	pthread_t t;

	pthread_create(&t, NULL, free_them, p);
	pthread_join(t, NULL);
	return depot_pages();
}

static void age_depot(void)
{
	lock_acquire(&mheap_lock);
	lcache_age_depot_locked(false);
	lock_release(&mheap_lock);
}

/* Idle is what was not missed at the time when the fewest were there: what has come since
 * stays. Where nothing is near in size, something longer is fetched. */
static const char *aged(void)
{
	void *room = heap_malloc_large((size_t)256 << 20), *p[2][HANDED], *mine;
	size_t first, fewest, both;

	heap_trim();
	for (int i = 0; i < 2 * HANDED; i++)
		p[i / HANDED][i % HANDED] = heap_malloc_large(10 * PAGE_SIZE);
	first = hand_over(p[0]);
	age_depot();
	EXPECT(first > 0 && depot_pages() == first); /* there were none before */
	mine = heap_malloc_large(5 * PAGE_SIZE);
	fewest = depot_pages();
	EXPECT(fewest > 0 && fewest < first);
	both = hand_over(p[1]);
	EXPECT(both > first);
	age_depot();
	EXPECT(depot_pages() == both - fewest);
	age_depot();
	EXPECT(depot_pages() == 0);
	heap_free(mine);
	heap_free(room);
	heap_trim();
	return NULL;
}

static void test_depot(void **state)
{
	(void)state;
	undisturbed(handed_over);
	undisturbed(aged);
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

static bool is_past_header(const void *p)
{
	return (uintptr_t)p % OS_PAGE >= CACHE_LINE;
}

/* What each call needs does not lie where OS pages begin, as large objects do. */
static void test_apart_from_headers(void **state)
{
	void *p = heap_malloc(100000);
	const struct arena *a = arena_at(0);
	uintptr_t first = a->base + (a->first_page << PAGE_SHIFT);

	(void)state;
	assert_non_null(p);
	assert_true(is_past_header(mcache_self()));
	if (a->size > GIB) {
		assert_true(is_past_header(arena_class(a, first)));
		assert_true(is_past_header(&a->spans[a->first_page]));
	}
	heap_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_large_young), /* first */
		cmocka_unit_test(test_bins),
		cmocka_unit_test(test_large_model),
		cmocka_unit_test(test_apart_from_headers),
		cmocka_unit_test(test_large_again),
		cmocka_unit_test(test_own_model),
		cmocka_unit_test(test_own_busy),
		cmocka_unit_test(test_own_again),
		cmocka_unit_test(test_own_kept),
		cmocka_unit_test(test_own_growth),
		cmocka_unit_test(test_own_before_clean),
		cmocka_unit_test(test_own_joins),
		cmocka_unit_test(test_own_idle),
		cmocka_unit_test(test_own_of_threads),
		cmocka_unit_test(test_depot),
		cmocka_unit_test(test_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
