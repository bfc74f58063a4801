/* SPDX-License-Identifier: Apache-2.0 */
/* handed: see handed.h. */
#include "profiler/leak/handed.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/filter.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "profiler/leak/kernelrefs.h"

struct handed *handed_map(bool shared)
{
	return shared ? meta_map_shared(sizeof(struct handed), META_LEAK)
		      : meta_map(sizeof(struct handed), META_LEAK);
}

void handed_unmap(struct handed *h)
{
	meta_unmap(h, sizeof(*h), META_LEAK);
}

static void add(uintptr_t word, void *arg)
{
	struct handed *h = arg;
	const size_t n = atomic_load_relaxed(&h->count);

	if (word == 0)
		return;
	if (n == HANDED_WORDS) {
		h->full = true;
		return;
	}
	h->words[n] = word;
	atomic_store_release(&h->count, n + 1);
}

static void note_descriptor(const char *fd, void *arg)
{
	struct handed *h = arg;

	if (h->nagain == HANDED_AGAIN)
		h->many = true;
	else
		fmt_string(h->again[h->nagain++], sizeof(h->again[0]), "%s", fd);
}

/* ---- whose descriptors ---- */

struct search {
	int except;
	int found; /* a thread that has descriptors; 0: none yet */
	bool failed;
};

static void count_one(const char *fd, void *arg)
{
	(void)fd;
	++*(size_t *)arg;
}

static int number_in(const char *text)
{
	int number = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + (*text - '0');
	return number;
}

static void see_thread(const char *tid, void *arg)
{
	struct search *s = arg;
	const int number = number_in(tid);
	size_t count = 0;

	if (s->found || number == s->except)
		return;
	if (!kernelrefs_descriptors(number, count_one, &count))
		s->failed = true;
	if (count > 0)
		s->found = number;
}

static void find_descriptors(struct handed *h, int except)
{
	struct search s = { .except = except };

	if (os_each_entry("/proc/self/task", see_thread, &s) < 0)
		s.failed = true;
	h->tid = s.found ? s.found : os_getpid();
	h->unseen |= s.failed && !s.found;
}

/* ---- where nothing may be listed ---- */

#define NUMBERS 65536 /* of descriptors, one after the other */

static bool see_size(char *line, void *arg)
{
	static const char name[] = "FDSize:\t";

	if (strncmp(line, name, sizeof(name) - 1) != 0)
		return true;
	*(int *)arg = number_in(line + sizeof(name) - 1);
	return false;
}

static void ask_each_number(struct handed *h)
{
	int size = 0;

	os_each_line("/proc/self/status", see_size, &size);
	h->unseen |= size > NUMBERS;
	size = size < NUMBERS ? size : NUMBERS;
	for (int i = 0; i < size; i++) {
		const size_t before = h->count;
		char text[12];

		fmt_string(text, sizeof(text), "%d", i);
		if (kernelrefs_each_of(os_getpid(), text, add, h))
			h->unseen = true;
		if (h->count > before)
			note_descriptor(text, h);
	}
	h->tid = os_getpid();
	kernelrefs_each_timer(h->tid, add, h);
}

/* ---- asking ---- */

void handed_ask(struct handed *h, int except)
{
	const size_t before = h->count;

	h->nagain = 0;
	h->many = false;
	if (filter_from_before()) { /* which may not know getdents64 nor readlink */
		ask_each_number(h);
		h->many |= h->count - before > HANDED_MANY;
		return;
	}
	find_descriptors(h, except);
	if (kernelrefs_each_shown(h->tid, add, note_descriptor, h) & KERNELREFS_UNSEEN)
		h->unseen = true;
	h->many |= h->count - before > HANDED_MANY;
}

void handed_ask_again(struct handed *h)
{
	if (h->many)
		return;
	for (size_t i = 0; i < h->nagain; i++)
		kernelrefs_each_of(h->tid, h->again[i], add, h);
	kernelrefs_each_timer(h->tid, add, h);
}
