/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Huge pages of the heap that a copy of the process has split are whole again afterwards;
 * pages that were given back meanwhile stay away.
 */
#include "tests/unit/cm.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "profiler/leak/collapse.h"

#define HUGE   ((size_t)2 << 20)
#define OBJECT ((size_t)24 << 20)
#define PAGE   4096
#define TRIES  5

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* The sum of a field of smaps over the mappings that [lo, hi) touches, in bytes. */
static size_t smaps(const char *field, uintptr_t lo, uintptr_t hi)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	size_t sum = 0, kib, length = strlen(field);
	bool inside = false;
	uintptr_t from, to;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = from < hi && lo < to;
		else if (inside && strncmp(line, field, length) == 0 &&
			 sscanf(line + length, ": %zu kB", &kib) == 1)
			sum += kib << 10;
	}
	fclose(f);
	return sum;
}

static size_t huge_bytes(const char *object)
{
	return smaps("AnonHugePages", (uintptr_t)object, (uintptr_t)object + OBJECT);
}

/* Can the kernel tell which pages are huge? */
static bool can_scan(void)
{
	uint64_t args[12] = { sizeof(args) };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bool can;

	if (fd < 0)
		return false;
	can = syscall(SYS_ioctl, fd, 0xc0606610u, args) >= 0;
	close(fd);
	return can;
}

/* Writes to each huge page while a child has them too: the kernel splits them. */
static void split_all(char *object)
{
	int ends[2];
	char c;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(ends[1]);
		_exit(read(ends[0], &c, 1) == 0 ? 0 : 1);
	}
	for (size_t at = 0; at < OBJECT; at += HUGE / 2)
		object[at]++;
	close(ends[0]);
	close(ends[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* Does the kernel itself make any block of these huge, but that one? */
static bool kernel_can(uintptr_t from, size_t bytes, const char *but)
{
	uintptr_t at = (from + HUGE - 1) & ~(HUGE - 1);
	size_t before = smaps("AnonHugePages", from, from + bytes);

	for (; at + HUGE <= from + bytes; at += HUGE)
		if (at != (uintptr_t)but)
			madvise((void *)at, HUGE, MADV_COLLAPSE);
	return smaps("AnonHugePages", from, from + bytes) > before;
}

enum outcome { AS_IT_SHOULD, NOT_SO, NOT_HERE };

/* What the kernel does by itself meanwhile may be in the way, in one try of many. */
static enum outcome split_and_restore(char *object)
{
	/* Of this one a page goes: it must not be filled again. */
	char *block = (char *)(((uintptr_t)object + 4 * HUGE) & ~(HUGE - 1));
	size_t before, split, after;
	bool kept;

	madvise((void *)(((uintptr_t)object + HUGE - 1) & ~(HUGE - 1)), OBJECT - HUGE,
		MADV_HUGEPAGE);
	memset(object, 1, OBJECT);
	before = huge_bytes(object);
	if (before < OBJECT / 4 * 3 || !can_scan())
		return NOT_HERE; /* there are none to have, or the kernel is too old */
	collapse_note();
	split_all(object);
	split = huge_bytes(object);
	assert_true(collapse_again()); /* they are few */
	if (huge_bytes(object) < split + (before - split) / 2)
		return kernel_can((uintptr_t)object, OBJECT, NULL) ? NOT_SO : NOT_HERE;
	split_all(object);
	split = huge_bytes(object);
	if (split + OBJECT / 2 >= before)
		return NOT_SO;
	assert_int_equal(madvise(block + PAGE, PAGE, MADV_DONTNEED), 0);
	collapse_restore();
	after = huge_bytes(object);
	kept = after < before;
	assert_int_equal(block[PAGE], 0);
	assert_int_equal(block[0] >= 1 && block[0] <= 3, 1);
	/* Not all where memory is scattered; most. */
	if (after >= split + (before - split) / 2)
		return kept ? AS_IT_SHOULD : NOT_SO;
	return kernel_can((uintptr_t)object, OBJECT, block) ? NOT_SO : NOT_HERE;
}

static void split_pages_are_made_whole(void **state)
{
	enum outcome o = NOT_SO;

	(void)state;
	for (int i = 0; i < TRIES && o == NOT_SO; i++) {
		char *object = heap_calloc(1, OBJECT);

		assert_non_null(object);
		o = split_and_restore(object);
		heap_free(object);
		heap_trim();
	}
	if (o == NOT_HERE)
		skip();
	assert_int_equal(o, AS_IT_SHOULD);
}

/* The first megabytes of a heap that became large come in small pages. */
static void beginning_of_a_large_heap(void **state)
{
	enum { COUNT = 160 << 10, EACH = 64, LARGE = 300 << 20 };
	void **list = NULL, **next;
	uintptr_t head;
	char *object;

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		next = memset(heap_malloc(EACH), 1, EACH);
		*next = list;
		list = next;
	}
	head = arena_at(0)->base + (arena_at(0)->first_page << PAGE_SHIFT);
	object = heap_malloc(LARGE);
	assert_non_null(object);
	madvise((void *)(((uintptr_t)object + HUGE - 1) & ~(HUGE - 1)), LARGE - HUGE,
		MADV_HUGEPAGE);
	for (size_t at = 0; at < LARGE; at += PAGE)
		object[at] = 1;
	if (smaps("AnonHugePages", (uintptr_t)object, (uintptr_t)object + LARGE) <
		    LARGE - 8 * HUGE ||
	    smaps("AnonHugePages", head, head + 4 * HUGE) > 0 || !can_scan())
		skip();
	collapse_note();
	collapse_restore();
	if (smaps("AnonHugePages", head, head + 4 * HUGE) < HUGE) {
		assert_false(kernel_can(head, 4 * HUGE, NULL));
		skip();
	}
	heap_free(object);
	for (; list; list = next) {
		next = *list;
		assert_int_equal(((char *)list)[EACH - 1], 1);
		heap_free(list);
	}
}

static void nothing_noted_is_nothing_done(void **state)
{
	(void)state;
	collapse_restore();
	collapse_note();
	collapse_restore();
	collapse_restore();
	collapse_fork_child();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(beginning_of_a_large_heap),
		cmocka_unit_test(split_pages_are_made_whole),
		cmocka_unit_test(nothing_noted_is_nothing_done),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
