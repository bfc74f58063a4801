/* SPDX-License-Identifier: Apache-2.0 */
/* written: what the kernel tells of pages that were written. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preload/heap/mcache.h"
#include "profiler/leak/written.h"

#include "tests/unit/cm.h"

#define PAGE  ((size_t)4096)
#define PAGES 8

static struct written w;
static struct root_range none[1];
static struct roots_known nothing = { .own = none };
static char *memory; /* PAGES pages, all there */

static char *map_pages(size_t n)
{
	char *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static bool is_dirty(const char *page)
{
	for (size_t i = 0; i < w.ndirty; i++)
		if ((uintptr_t)page - w.dirty[i].lo < w.dirty[i].hi - w.dirty[i].lo)
			return true;
	return false;
}

/* How many pages of memory were written since the last time. */
static size_t count_dirty(bool again)
{
	size_t n = 0;

	assert_true(written_collect(&w, again));
	for (size_t i = 0; i < PAGES; i++)
		n += is_dirty(memory + i * PAGE);
	return n;
}

static int begin(void **state)
{
	(void)state;
	memory = map_pages(PAGES);
	memset(memory, 1, PAGES * PAGE);
	assert_true(written_map(&w));
	return 0;
}

static int end(void **state)
{
	(void)state;
	written_end(&w);
	written_unmap(&w);
	return munmap(memory, PAGES * PAGE);
}

/* Where the kernel is too old, or a container's filter forbids it. */
static void need_it(void)
{
	if (written_begin(&w, &nothing)) {
		written_end(&w);
		skip();
	}
}

static void test_writes(void **state)
{
	(void)state;
	need_it();
	assert_int_equal(count_dirty(true), 0);
	memory[3 * PAGE + 5] = 2;
	assert_int_equal(count_dirty(false), 1);
	assert_true(is_dirty(memory + 3 * PAGE));
	assert_int_equal(count_dirty(true), 1);
	assert_int_equal(count_dirty(true), 0);
	assert_int_equal(memory[6 * PAGE], 1); /* reading is none */
	assert_int_equal(count_dirty(true), 0);
}

/* By a system call: nobody is asked to serve the fault. */
static void test_writes_of_the_kernel(void **state)
{
	int fd;

	(void)state;
	need_it();
	fd = open("/dev/zero", O_RDONLY);
	assert_int_equal(read(fd, memory + PAGE - 8, 16), 16);
	close(fd);
	assert_int_equal(count_dirty(true), 2);
	assert_int_equal(count_dirty(true), 0);
}

static void test_moved_and_new(void **state)
{
	char *fresh;

	(void)state;
	need_it();
	assert_int_equal(count_dirty(true), 0);
	/* Not written, but it was not there before. */
	fresh = map_pages(2);
	assert_ptr_equal(mremap(memory, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, fresh),
			 fresh);
	assert_ptr_equal(mmap(memory, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 memory);
	assert_false(written_knows_all(&w));
	assert_true(written_follow(&w));
	assert_true(written_knows_all(&w));
	assert_true(written_collect(&w, true));
	assert_true(is_dirty(fresh));
	memory[0] = 3;
	assert_int_equal(count_dirty(false), 1);
	munmap(fresh, 2 * PAGE);
}

/* What is ours is not watched. */
static void test_apart(void **state)
{
	(void)state;
	none[0] = (struct root_range){ (uintptr_t)memory, (uintptr_t)memory + 2 * PAGE };
	nothing.nown = 1;
	need_it();
	nothing.nown = 0;
	for (size_t i = 0; i < PAGES; i++)
		memory[i * PAGE] = 4;
	assert_int_equal(count_dirty(true), PAGES - 2);
	assert_true(written_knows_all(&w));
}

/* A large object, of pages of its own that are all there. */
static char *fill_object(size_t bytes)
{
	char *p = heap_malloc(bytes);

	assert_non_null(p);
	assert_int_equal(
		madvise((void *)((uintptr_t)p & ~(PAGE - 1)), bytes, MADV_NOHUGEPAGE), 0);
	memset(p, 1, bytes);
	return (char *)(((uintptr_t)p + PAGE - 1) & ~(PAGE - 1));
}

/* Pages of a dense arena are asked for in another way, which tells of those that are not
 * there, too: they are left out as far as they were not there before, and when there are
 * many. */
static void test_dense(void **state)
{
	const size_t bytes = 32 * MIB, pages = bytes / PAGE - 1;
	char *object = fill_object(bytes);

	(void)state;
	need_it();
	written_weigh(&w);
	assert_true(w.dense);
	object[5 * PAGE] = 2;
	memory[PAGE] = 2;
	assert_int_equal(count_dirty(false), 1);
	assert_true(is_dirty(object + 5 * PAGE));
	assert_false(is_dirty(object + 6 * PAGE));

	madvise(object + 16 * PAGE, (pages - 32) * PAGE, MADV_DONTNEED);
	assert_int_equal(count_dirty(false), 1);
	assert_false(w.dense);
	assert_true(is_dirty(object + 5 * PAGE));
	assert_false(is_dirty(object + 100 * PAGE));

	written_weigh(&w);
	assert_true(w.dense);
	object[200 * PAGE] = 2;
	assert_int_equal(count_dirty(false), 1);
	assert_true(w.dense);
	assert_true(is_dirty(object + 5 * PAGE));
	assert_false(is_dirty(object + 100 * PAGE));
	assert_true(is_dirty(object + 200 * PAGE));

	for (size_t i = 0; i < pages; i += 4)
		object[i * PAGE] = 3;
	assert_true(written_collect(&w, true));
	written_weigh(&w);
	assert_false(w.dense);
	object[200 * PAGE] = 3;
	assert_int_equal(count_dirty(false), 0);
	assert_true(is_dirty(object + 200 * PAGE));
	assert_false(is_dirty(object + 204 * PAGE));
	assert_false(is_dirty(object + 101 * PAGE));
	heap_free(object);
}

static void test_end(void **state)
{
	(void)state;
	need_it();
	written_end(&w);
	memory[0] = 5;
	assert_int_equal(w.uffd, -1);
	need_it();
	assert_int_equal(count_dirty(true), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_writes, begin, end),
		cmocka_unit_test_setup_teardown(test_writes_of_the_kernel, begin, end),
		cmocka_unit_test_setup_teardown(test_moved_and_new, begin, end),
		cmocka_unit_test_setup_teardown(test_apart, begin, end),
		cmocka_unit_test_setup_teardown(test_dense, begin, end),
		cmocka_unit_test_setup_teardown(test_end, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
