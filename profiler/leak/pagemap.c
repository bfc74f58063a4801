/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pagemap: see pagemap.h. The numbers are linux/fs.h's, which may be older than the
 * kernel.
 */
#include "profiler/leak/pagemap.h"

#include <assert.h>
#include <fcntl.h>

#include "preload/base/os.h"

#define SCAN 0xc0606610u

struct region {
	uint64_t start, end, categories;
};

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, any, wanted;
};
static_assert(sizeof(struct scan) == 96, "the kernel's");

int pagemap_open(void)
{
	return os_open("/proc/self/pagemap", O_RDONLY, 0);
}

bool pagemap_each(int pagemap, uintptr_t lo, uintptr_t hi, uint64_t categories,
		  void (*fn)(uintptr_t lo, uintptr_t hi, void *arg), void *arg)
{
	struct region list[16];

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
