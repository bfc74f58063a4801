/* SPDX-License-Identifier: Apache-2.0 */
/* handed: see handed.h. */
#include "profiler/leak/handed.h"

#include "preload/base/atomic.h"
#include "preload/base/filter.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/kernelrefs.h"

struct handed *handed_map(void)
{
	return meta_map_shared(sizeof(struct handed), META_LEAK);
}

void handed_unmap(struct handed *h)
{
	meta_unmap(h, sizeof(*h), META_LEAK);
}

static void add(uintptr_t word, void *arg)
{
	struct handed *h = arg;
	const size_t n = atomic_load_relaxed(&h->count);

	if (n == HANDED_WORDS) {
		h->full = true;
		return;
	}
	h->words[n] = word;
	atomic_store_release(&h->count, n + 1);
}

/* ---- whose descriptors ---- */

struct search {
	int except;
	int found; /* a thread that has descriptors; 0: none yet */
};

static void count_one(const char *fd, void *arg)
{
	(void)fd;
	++*(size_t *)arg;
}

static void see_thread(const char *tid, void *arg)
{
	struct search *s = arg;
	size_t count = 0;
	int number = 0;

	for (const char *c = tid; *c >= '0' && *c <= '9'; c++)
		number = number * 10 + (*c - '0');
	if (s->found || number == s->except)
		return;
	kernelrefs_descriptors(number, count_one, &count);
	if (count > 0)
		s->found = number;
}

void handed_ask(struct handed *h, int except)
{
	struct search s = { .except = except };

	if (filter_from_before())
		return;
	os_each_entry("/proc/self/task", see_thread, &s);
	if (s.found && kernelrefs_each(s.found, add, h) & KERNELREFS_UNSEEN)
		h->unseen = true;
}
