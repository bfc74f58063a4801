/* SPDX-License-Identifier: Apache-2.0 */
/* Every rule of the size classes, for every class, size and offset. */
#include "tests/unit/cm.h"

#include "preload/heap/mspan.h"
#include "preload/heap/sizeclass.h"

static void test_every_size(void **state)
{
	(void)state;
	for (size_t n = 0; n <= SIZECLASS_MAX_SIZE; n++) {
		unsigned c = sizeclass_of(n);

		assert_in_range(c, 1, SIZECLASS_COUNT - 1);
		assert_true(sizeclass_info[c].slot_size >= n);
		assert_true(c == 1 || sizeclass_info[c - 1].slot_size < n);
		/* at most an eighth is lost above 128 bytes, less than 16 below */
		if (n > 128)
			assert_true((sizeclass_info[c].slot_size - n) * 8 <=
				    sizeclass_info[c].slot_size);
		else if (n > 0)
			assert_true(sizeclass_info[c].slot_size - n < 16);
	}
}

static void test_every_class(void **state)
{
	(void)state;
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		const struct sizeclass_info *i = &sizeclass_info[c];
		size_t bytes = (size_t)i->npages << PAGE_SHIFT;

		assert_int_equal(i->slot_size % 16, 0);
		assert_true(i->nslots <= MSPAN_MAX_SLOTS);
		if (i->slot_size <= 512)
			assert_true(bytes == 64 * KIB || i->nslots == MSPAN_MAX_SLOTS);
		assert_true((size_t)i->nslots * i->slot_size <= bytes);
		assert_true((bytes - (size_t)i->nslots * i->slot_size) * 100 < bytes * 9);
		assert_true(i->cache_max >= 16 && i->batch >= 1 &&
			    i->batch <= i->cache_max);
	}
}

/* The first spans of a class of larger slots are as short as an eighth of waste allows.
 */
static void test_short_spans(void **state)
{
	(void)state;
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		const struct sizeclass_info *i = &sizeclass_info[c];
		uint32_t npages = sizeclass_short_pages(c);
		size_t bytes = (size_t)npages << PAGE_SHIFT;

		assert_in_range(npages, 1, i->npages);
		assert_true(bytes >= i->slot_size);
		assert_true(bytes % i->slot_size * 8 <= bytes);
		if (i->slot_size <= 512)
			assert_int_equal(npages, 2);
		else if (i->slot_size < 1024)
			assert_int_equal(npages, i->npages);
	}
	assert_int_equal(sizeclass_short_pages(sizeclass_of(4096)), 1);
	assert_int_equal(sizeclass_short_pages(sizeclass_of(32768)), 4);
}

static void test_every_offset(void **state)
{
	(void)state;
	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		const struct sizeclass_info *i = &sizeclass_info[c];
		struct mspan s = { .base = (uintptr_t)1 << 40,
				   .slot_size = i->slot_size,
				   .magic = i->magic,
				   .nslots = (uint16_t)i->nslots };

		for (uint32_t off = 0; off < i->npages << PAGE_SHIFT; off++)
			if (mspan_index_of(&s, s.base + off) != off / i->slot_size)
				fail_msg("class %u offset %u", c, off);
	}
}

static void test_aligned(void **state)
{
	(void)state;
	for (size_t align = 16; align <= PAGE_SIZE; align *= 2)
		for (size_t n = 0; n <= SIZECLASS_MAX_SIZE; n += 7) {
			unsigned c = sizeclass_of_aligned(n, align);

			if (c == 0)
				continue;
			assert_true(sizeclass_info[c].slot_size >= n);
			assert_int_equal(sizeclass_info[c].slot_size % align, 0);
		}
	assert_int_equal(sizeclass_of_aligned(100, PAGE_SIZE * 2), 0);
	assert_int_equal(sizeclass_of_aligned(SIZECLASS_MAX_SIZE + 1, 16), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_size),  cmocka_unit_test(test_every_class),
		cmocka_unit_test(test_short_spans), cmocka_unit_test(test_every_offset),
		cmocka_unit_test(test_aligned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
