/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handed: see handed.h. The formats are proc(5)'s: "tfd: 5 events: 19 data: HEX ..." in
 * /proc/PID/fdinfo/N of an epoll descriptor, "signal: 60/HEX" in /proc/PID/timers.
 */
#include "profiler/leak/handed.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/filter.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"

#define KIND	   "anon_inode:[eventpoll]"
#define PATH_BYTES 96

struct handed *handed_map(void)
{
	return meta_map_shared(sizeof(struct handed), META_LEAK);
}

void handed_unmap(struct handed *h)
{
	meta_unmap(h, sizeof(*h), META_LEAK);
}

/* text: in hexadecimal, perhaps behind spaces. */
static void add(struct handed *h, const char *text)
{
	const size_t n = atomic_load_relaxed(&h->count);

	while (*text == ' ')
		text++;
	if (n == HANDED_WORDS) {
		h->full = true;
		return;
	}
	h->words[n] = os_parse_hex(&text);
	atomic_store_release(&h->count, n + 1);
}

static bool see_target(char *line, void *arg)
{
	static const char data[] = " data:";
	const char *at = strncmp(line, "tfd:", 4) == 0 ? strstr(line, data) : NULL;

	if (at)
		add(arg, at + sizeof(data) - 1);
	return true;
}

static bool see_timer(char *line, void *arg)
{
	const char *at = strncmp(line, "signal:", 7) == 0 ? strchr(line, '/') : NULL;

	if (at)
		add(arg, at + 1);
	return true;
}

/* ---- the tables of descriptors ---- */

struct search {
	struct handed *h;
	const char *tid;
	int except;
	size_t found; /* descriptors */
};

static void see_descriptor(const char *fd, void *arg)
{
	struct search *s = arg;
	char path[PATH_BYTES], kind[sizeof(KIND) + 1];
	long n;

	s->found++;
	fmt_string(path, sizeof(path), "/proc/self/task/%s/fd/%s", s->tid, fd);
	n = os_readlink(path, kind, sizeof(kind) - 1);
	kind[n > 0 ? n : 0] = '\0';
	if (strcmp(kind, KIND) != 0)
		return;
	fmt_string(path, sizeof(path), "/proc/self/task/%s/fdinfo/%s", s->tid, fd);
	if (os_each_line(path, see_target, s->h) < 0)
		s->h->unseen = true;
}

static void see_thread(const char *tid, void *arg)
{
	struct search *s = arg;
	char path[PATH_BYTES];
	int number = 0;

	for (const char *c = tid; *c >= '0' && *c <= '9'; c++)
		number = number * 10 + (*c - '0');
	if (s->found > 0 || number == s->except)
		return;
	s->tid = tid;
	fmt_string(path, sizeof(path), "/proc/self/task/%s/fd", tid);
	os_each_entry(path, see_descriptor, s);
}

void handed_ask(struct handed *h, int except)
{
	struct search s = { .h = h, .except = except };

	if (filter_from_before())
		return;
	os_each_entry("/proc/self/task", see_thread, &s);
	os_each_line("/proc/self/timers", see_timer, h);
}
