/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pagemap: see pagemap.h. The numbers are linux/fs.h's, which may be older than the
 * kernel.
 */
#include "profiler/leak/pagemap.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>

#include "preload/base/os.h"

#define SCAN	   0xc0606610u
#define FILLED	   ((uint64_t)3 << 62) /* present or swapped, in the file's words */
#define SWAPPED	   ((uint64_t)1 << 62)

#define READ_FIRST (1 * MIB)
#define READ_MOST  (4096 * GIB) /* a few microseconds a MiB, less than the pages would */
#define USER_END   (((uintptr_t)1 << 47) - OS_PAGE)
#define WARM_PAGES 32768 /* at once: the kernel holds the lock of the mappings */
#define WARM_NS	   3000000u
#define AGAIN	   1u	      /* flag: what is told is watched from now on */
#define SHORT	   (32 * MIB) /* in one call, where that takes time: mmap() waits for it */

struct region {
	uint64_t start, end, categories;
};

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, any, wanted;
};
static_assert(sizeof(struct scan) == 96, "the kernel's");

/* Of the calling thread; as of the last pagemap_open(), of which there is one at a time.
 */
static struct {
	bool filtered;
} pagemap_state;

static bool see_status(char *line, void *arg)
{
	if (strncmp(line, "Seccomp:", 8) != 0)
		return true;
	*(bool *)arg = strchr(line, '0') == NULL;
	return false;
}

/* A filter of system calls may know no ioctl and kill; reading a file it does know. */
int pagemap_open(void)
{
	pagemap_state.filtered = false;
	os_each_line("/proc/thread-self/status", see_status, &pagemap_state.filtered);
	return os_open("/proc/thread-self/pagemap", O_RDONLY, 0);
}

bool pagemap_each(int pagemap, uintptr_t lo, uintptr_t hi, uint64_t categories,
		  void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg)
{
	struct region list[16];

	if (pagemap_state.filtered)
		return false;
	while (lo < hi) {
		struct scan s = { .size = sizeof(s),
				  .start = lo,
				  .end = hi,
				  .vec = (uintptr_t)list,
				  .vec_len = ARRAY_LEN(list),
				  .any = categories,
				  .wanted = categories };
		long n = os_call(SYS_ioctl, pagemap, SCAN, (long)&s, 0, 0, 0);

		if (n < 0)
			return false;
		for (long i = 0; i < n; i++)
			fn(list[i].start, list[i].end, arg);
		lo = s.walk_end;
	}
	return true;
}

bool pagemap_may_ask(void)
{
	return !pagemap_state.filtered;
}

/* any: the kernel decides by a single bit of each page if that is 0. */
static bool each_written(int pagemap, uintptr_t lo, uintptr_t hi, bool again,
			 uint64_t any, void (*fn)(uintptr_t lo, uintptr_t hi, void *arg),
			 void *arg)
{
	struct region list[32];
	uintptr_t piece = SHORT;

	if (pagemap_state.filtered)
		return false;
	while (lo < hi) {
		/* In whole huge pages, or they are split. */
		const uintptr_t end = align_down(lo, SHORT) + piece;
		struct scan s = { .size = sizeof(s),
				  .flags = again ? AGAIN : 0,
				  .start = lo,
				  .end = again && end < hi ? end : hi,
				  .vec = (uintptr_t)list,
				  .vec_len = ARRAY_LEN(list),
				  .mask = PAGEMAP_WRITTEN,
				  .any = any,
				  .wanted = PAGEMAP_WRITTEN };
		long n = os_call(SYS_ioctl, pagemap, SCAN, (long)&s, 0, 0, 0);

		if (n < 0 || s.walk_end <= lo)
			return false;
		for (long i = 0; i < n; i++)
			fn(list[i].start, list[i].end, arg);
		lo = s.walk_end;
		piece = n > 0 ? SHORT : 2 * piece;
	}
	return true;
}

bool pagemap_each_written(int pagemap, uintptr_t lo, uintptr_t hi, bool again,
			  void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg)
{
	/* A page that is not there would be given a mark, by which it seems to be swapped
	 * out. */
	return each_written(pagemap, lo, hi, again, PAGEMAP_PRESENT | PAGEMAP_SWAPPED, fn,
			    arg);
}

bool pagemap_each_written_or_absent(int pagemap, uintptr_t lo, uintptr_t hi,
				    void (*fn)(uintptr_t lo, uintptr_t hi, void *arg),
				    void *arg)
{
	return each_written(pagemap, lo, hi, false, 0, fn, arg);
}

void pagemap_warm(int pagemap)
{
	const uint64_t until = os_now_ns() + WARM_NS;
	struct region list[32];
	uintptr_t at = 0;
	long n = 1;

	if (pagemap_state.filtered)
		return;
	while (n > 0 && at < USER_END && os_now_ns() < until) {
		/* Whether a page is a file's stands in the page's own record. */
		struct scan s = { .size = sizeof(s),
				  .start = at,
				  .end = USER_END,
				  .vec = (uintptr_t)list,
				  .vec_len = ARRAY_LEN(list),
				  .max_pages = WARM_PAGES,
				  .any = PAGEMAP_PRESENT,
				  .wanted = PAGEMAP_FILE };

		n = os_call(SYS_ioctl, pagemap, SCAN, (long)&s, 0, 0, 0);
		at = s.walk_end;
	}
}

static bool is_wanted(uint64_t word, bool swapped)
{
	return swapped ? (word & FILLED) == SWAPPED : (word & FILLED) != 0;
}

/* Of pages that are filled, or of those among them that are swapped out. Runs end with
 * the piece that is read at once. */
static bool read_each(int pagemap, uintptr_t lo, uintptr_t hi, bool swapped,
		      void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg)
{
	uint64_t words[64];

	while (lo < hi) {
		size_t n = (hi - lo) / OS_PAGE, from = 0;
		size_t bytes =
			(n < ARRAY_LEN(words) ? n : ARRAY_LEN(words)) * sizeof(words[0]);
		long got = os_call(SYS_pread64, pagemap, (long)words, (long)bytes,
				   (long)(lo / OS_PAGE * sizeof(words[0])), 0, 0);

		if (got != (long)bytes)
			return false;
		n = bytes / sizeof(words[0]);
		for (size_t i = 0; i <= n; i++) {
			if (i < n && is_wanted(words[i], swapped))
				continue;
			if (from < i)
				fn(lo + from * OS_PAGE, lo + i * OS_PAGE, arg);
			from = i + 1;
		}
		lo += n * OS_PAGE;
	}
	return true;
}

bool pagemap_each_filled(int pagemap, uintptr_t lo, uintptr_t hi,
			 void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg)
{
	/* A kernel that refuses does so before it has told of anything. */
	if (hi - lo > READ_FIRST &&
	    pagemap_each(pagemap, lo, hi, PAGEMAP_PRESENT | PAGEMAP_SWAPPED, fn, arg))
		return true;
	return hi - lo <= READ_MOST && read_each(pagemap, lo, hi, false, fn, arg);
}

bool pagemap_each_guard(int pagemap, uintptr_t lo, uintptr_t hi,
			void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg)
{
	return pagemap_each(pagemap, lo, hi, PAGEMAP_GUARD, fn, arg) ||
	       pagemap_each(pagemap, lo, hi, PAGEMAP_SWAPPED, fn, arg) ||
	       (hi - lo <= READ_MOST && read_each(pagemap, lo, hi, true, fn, arg));
}
