/* SPDX-License-Identifier: Apache-2.0 */
/* mcentral: the transfer cache, which grows for programs that free and make in waves, and
 * spans; and what a small heap does about holes. */
#include "tests/unit/cm.h"

#include <string.h>

#include "preload/base/base.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "preload/heap/mcentral.h"
#include "preload/heap/sizeclass.h"

enum { WAVE = 4096, SHORT_BATCHES = 4 };

static void *slots[WAVE];

static uint32_t count_transferred(unsigned c)
{
	struct mcentral_counts counts;

	mcentral_count(c, &counts);
	return counts.ntransfer;
}

static void take_wave(unsigned c)
{
	mcentral_lock(c);
	for (uint32_t n = 0; n < WAVE;) {
		uint32_t got = mcentral_take_locked(c, NULL, slots + n, WAVE - n);

		assert_true(got > 0);
		n += got;
	}
	mcentral_unlock(c);
}

static void give_wave(unsigned c)
{
	uint32_t batch = sizeclass_info[c].batch;

	mcentral_lock(c);
	for (uint32_t n = 0; n < WAVE; n += batch)
		mcentral_give_locked(c, slots + n, batch < WAVE - n ? batch : WAVE - n,
				     false);
	mcentral_unlock(c);
}

/* Every slot that is live in a leak check's eyes less those that it subtracts. */
static void count_slot(uintptr_t slot, void *arg)
{
	assert_true(slot != 0);
	++*(uint32_t *)arg;
}

static void test_waves(void **state)
{
	const unsigned c = sizeclass_of(64);
	const uint32_t few = SHORT_BATCHES * sizeclass_info[c].batch;
	uint32_t cached = 0;

	(void)state;
	take_wave(c);
	give_wave(c);
	assert_in_range(count_transferred(c), 1, few); /* one wave is not enough */
	for (int i = 0; i < 8; i++) {
		take_wave(c);
		give_wave(c);
	}
	assert_in_range(count_transferred(c), few + 1, WAVE);
	mcentral_each_cached(count_slot, &cached);
	assert_int_equal(cached, count_transferred(c));
	take_wave(c); /* each slot is handed out once */
	assert_int_equal(count_transferred(c), 0);
	mcentral_lock(c);
	for (uint32_t n = 0; n < WAVE; n++) /* one by one: a double would be named */
		mcentral_give_locked(c, slots + n, 1, false);
	mcentral_unlock(c);
	mcentral_trim();
	assert_int_equal(count_transferred(c), 0);
}

/* Slots that no thread asks for go back little by little. */
static void test_decay(void **state)
{
	const unsigned c = sizeclass_of(64);
	uint32_t before;

	(void)state;
	take_wave(c);
	give_wave(c);
	before = count_transferred(c);
	assert_true(before > 0);
	mcentral_decay(c); /* notes what was taken */
	mcentral_decay(c);
	assert_true(count_transferred(c) <= before / 2);
	for (int i = 0; i < 16; i++)
		mcentral_decay(c);
	assert_int_equal(count_transferred(c), 0);
	mcentral_trim();
}

/* Few large slots are kept, however the waves go. */
static void test_large_slots(void **state)
{
	const unsigned c = sizeclass_of(4096);

	(void)state;
	for (int i = 0; i < 8; i++) {
		take_wave(c);
		give_wave(c);
	}
	assert_true(count_transferred(c) * sizeclass_info[c].slot_size <= 512 * KIB);
	mcentral_trim();
}

static void shuffle(void **list, uint32_t n)
{
	uint64_t x = 88172645463325252u;

	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t k;
		void *p = list[i];

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		k = (uint32_t)(x % (i + 1));
		list[i] = list[k];
		list[k] = p;
	}
}

/* What comes back in no order is handed out in the order of addresses; so is what came
 * back in order, or was for others, but that has not been to its spans for it. */
static void test_going_home(void **state)
{
	const unsigned c = sizeclass_of(128), big = sizeclass_of(8000);
	const uint32_t n = sizeclass_info[c].cache_max;
	struct mcache *mc = mcache_self(), *other = (struct mcache *)&slots;
	uint32_t nascending = 0;

	(void)state;
	mcentral_trim();
	mcentral_lock(c);
	for (uint32_t got = 0; got < n;)
		got += mcentral_take_locked(c, mc, slots + got, n - got);
	mcentral_unlock(c);
	assert_false(mcentral_should_go_home(c, mc, slots, n));
	assert_false(mcentral_should_go_home(c, mc, slots, 3));
	shuffle(slots, n);
	assert_true(mcentral_should_go_home(c, mc, slots, n));
	assert_false(mcentral_should_go_home(c, other, slots, n)); /* did not take them */
	assert_false(mcentral_should_go_home(big, mc, slots, n));
	mcentral_lock(c);
	mcentral_give_locked(c, slots, n, true);
	assert_int_equal(mcentral_take_locked(c, mc, slots, n / 2), n / 2);
	for (uint32_t i = 1; i < n / 2; i++)
		nascending += (uintptr_t)slots[i - 1] - (uintptr_t)slots[i] == 128;
	mcentral_give_locked(c, slots, n / 2, true);
	mcentral_unlock(c);
	assert_true(nascending > n / 2 - 8); /* one span after the other */
	assert_int_equal(count_transferred(c), 0);
	mcentral_trim();
}

/* One object of a class does not keep the pages of a whole span; many have whole ones. */
static void test_short_spans(void **state)
{
	const unsigned c = sizeclass_of(22000); /* not used before */
	const struct sizeclass_info *info = &sizeclass_info[c];
	struct mcentral_counts counts;

	(void)state;
	mcentral_lock(c);
	assert_int_equal(mcentral_take_locked(c, NULL, slots, 1), 1);
	mcentral_unlock(c);
	mcentral_count(c, &counts);
	assert_int_equal(counts.npages, sizeclass_short_pages(c));
	assert_true(counts.npages < info->npages);
	mcentral_lock(c);
	for (uint32_t n = 1; n < 10 * info->nslots; n++)
		assert_int_equal(mcentral_take_locked(c, NULL, slots + n, 1), 1);
	mcentral_unlock(c);
	mcentral_count(c, &counts);
	assert_int_equal(counts.npages, 2 * sizeclass_short_pages(c) +
						(counts.nspans - 2) * info->npages);
	assert_true(counts.nslots - counts.nfree == 10 * info->nslots);
	mcentral_lock(c);
	for (uint32_t n = 0; n < 10 * info->nslots; n++)
		mcentral_give_locked(c, slots + n, 1, false);
	mcentral_unlock(c);
	mcentral_trim();
	mcentral_count(c, &counts);
	assert_int_equal(counts.npages + counts.nslots + counts.nspans, 0);
}

enum { HOLES = 48, HOLE_SIZE = 40 * 1024, FILLERS = 380, FILLER_SIZE = 48 * 1024 };

static struct heap_stats stats_now(void)
{
	struct heap_stats stats;

	heap_get_stats(&stats);
	return stats;
}

/* A small heap with holes that nothing fits does not keep their memory while it takes
 * more, and every page of a hole can be used again. */
static void test_holes(void **state)
{
	struct heap_stats before, after;

	(void)state;
	for (int i = 0; i < 2 * HOLES; i++) {
		slots[i] = heap_malloc(HOLE_SIZE);
		memset(slots[i], 1, HOLE_SIZE);
	}
	for (int i = 0; i < 2 * HOLES; i += 2)
		heap_free(slots[i]);
	before = stats_now();
	assert_true(before.free_dirty >= HOLES * HOLE_SIZE);
	for (int i = 0; i < FILLERS; i++)
		slots[2 * HOLES + i] = heap_malloc(FILLER_SIZE);
	after = stats_now();
	assert_true(after.npurged_bytes > before.npurged_bytes);
	assert_true(after.free_dirty < before.free_dirty / 2);
	for (int i = 0; i < 2 * HOLES; i += 2) {
		slots[i] = heap_calloc(1, HOLE_SIZE);
		assert_int_equal(((char *)slots[i])[HOLE_SIZE - 1], 0);
	}
	for (int i = 0; i < 2 * HOLES + FILLERS; i++)
		heap_free(slots[i]);
	heap_trim();
}

static size_t count_live(void)
{
	struct heap_stats st;

	heap_get_stats(&st);
	return st.live_bytes;
}

/* What the program holds: no more because there is a span, and no less when it goes. */
static void test_live_bytes(void **state)
{
	(void)state;
	mcentral_trim();
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		const size_t before = count_live();

		mcentral_lock(c);
		assert_int_equal(mcentral_take_locked(c, NULL, slots, 1), 1);
		mcentral_unlock(c);
		assert_int_equal(count_live(), before + sizeclass_info[c].slot_size);
		mcentral_lock(c);
		mcentral_give_locked(c, slots, 1, false);
		mcentral_unlock(c);
		assert_int_equal(count_live(), before);
		mcentral_trim();
		assert_int_equal(count_live(), before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_holes),	    cmocka_unit_test(test_waves),
		cmocka_unit_test(test_decay),	    cmocka_unit_test(test_large_slots),
		cmocka_unit_test(test_short_spans), cmocka_unit_test(test_going_home),
		cmocka_unit_test(test_live_bytes),
	};

	heap_thread_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
